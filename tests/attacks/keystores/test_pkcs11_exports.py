"""The key stays in the token, and a key that could leave it is not used."""

from __future__ import annotations

import pytest

from ownkey_server.domain.errors import KeyMisconfigured
from support.key_stores import CONTEXT, KEY, TIMEOUT, OpenStore
from support.softhsm import ALL_RIGHTS, PIN, SoftHsm

_TRY_TO_EXPORT = """
import sys, pkcs11
from pkcs11 import Attribute, KeyType, Mechanism
module, token, pin, label = sys.argv[1:]

def refused(act):
    try:
        act()
    except pkcs11.PKCS11Error as error:
        return type(error).__name__
    return "ALLOWED"

with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    key = session.get_key(label=label)
    thief = session.generate_key(KeyType.AES, 256, template={Attribute.WRAP: True, Attribute.TOKEN: False})
    print("sensitive", key[Attribute.SENSITIVE], key[Attribute.ALWAYS_SENSITIVE])
    print("extractable", key[Attribute.EXTRACTABLE], not key[Attribute.NEVER_EXTRACTABLE])
    print("read", refused(lambda: key[Attribute.VALUE]))
    print("wrap", refused(lambda: thief.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)))
    print("loosen", refused(lambda: key.__setitem__(Attribute.EXTRACTABLE, True)))
    print("show", refused(lambda: key.__setitem__(Attribute.SENSITIVE, False)))
    print("copy", refused(lambda: key.copy({Attribute.EXTRACTABLE: True, Attribute.TOKEN: False})))
"""


@pytest.mark.parametrize("mechanism", ["aes-gcm", "aes-key-wrap"])
async def test_the_token_refuses_to_export_a_key_made_by_us(
    softhsm: SoftHsm, open_store: OpenStore, token: str, mechanism: str
) -> None:
    await open_store(token, mechanism).create(KEY)
    printed = softhsm.run_python(_TRY_TO_EXPORT, str(softhsm.module), token, PIN, KEY)
    found = dict(line.split(" ", 1) for line in printed.splitlines())
    assert found["sensitive"] == "True True"
    assert found["extractable"] == "False False"
    assert found["read"] == "AttributeSensitive"
    assert found["wrap"] == "KeyUnextractable"
    assert "ALLOWED" not in printed
    assert len(found) == 7


@pytest.mark.parametrize(
    ("attributes", "bits", "said"),
    [
        (("SENSITIVE", "EXTRACTABLE", *ALL_RIGHTS), 256, "CKA_EXTRACTABLE"),
        (ALL_RIGHTS, 256, "CKA_SENSITIVE"),
        (("SENSITIVE", *ALL_RIGHTS), 128, "256 bits"),
        (("SENSITIVE",), 256, "neither encrypt and decrypt nor wrap and unwrap"),
        (("SENSITIVE", "ENCRYPT", "UNWRAP"), 256, "neither encrypt and decrypt nor wrap and unwrap"),
    ],
    ids=["extractable", "not sensitive", "128 bits", "no rights", "half rights"],
)
async def test_a_key_that_is_not_fit_is_refused_with_the_reason(
    softhsm: SoftHsm, open_store: OpenStore, token: str, attributes: tuple[str, ...], bits: int, said: str
) -> None:
    softhsm.make_key(token, KEY, *attributes, bits=bits)
    with pytest.raises(KeyMisconfigured, match=said):
        await open_store(token).generate_data_key(KEY, CONTEXT, TIMEOUT)
