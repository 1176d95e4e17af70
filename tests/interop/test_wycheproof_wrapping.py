"""Wycheproof's vectors on what wraps data keys: ``cryptography`` for the embedded store, and SoftHSM for PKCS#11.

Only keys of 256 bits, and for AES-GCM nonces of 96 and tags of 128: all that the key stores use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from support.softhsm import PIN, SoftHsm

Case = dict[str, Any]

# Valid vectors whose wrapped bytes SoftHSM makes otherwise, and why that does no harm. It opens all of them rightly.
SOFTHSM_PADS = (
    "SoftHSM 2.6.1 fills a secret up with zeros to a multiple of 8 bytes before it wraps it by AES-KWP, so that its "
    "length is lost. What the key store wraps has 64 bytes, and goes by AES key wrap without padding."
)
SOFTHSM_DIFFERS = dict.fromkeys([f"kwp {number}" for number in (*range(171, 178), *range(179, 186))], SOFTHSM_PADS)


def cases(vectors_dir: Path, name: str, **parameters: int) -> list[Case]:
    document = json.loads((vectors_dir / "wycheproof" / name).read_text(encoding="utf-8"))
    return [
        case
        for group in document["testGroups"]
        if all(group[parameter] == value for parameter, value in parameters.items())
        for case in group["tests"]
    ]


@pytest.fixture(scope="module")
def gcm(vectors_dir: Path) -> list[Case]:
    found = cases(vectors_dir, "aes_gcm_test.json", keySize=256, ivSize=96, tagSize=128)
    assert len(found) == 66
    return found


@pytest.fixture(scope="module")
def wrap(vectors_dir: Path) -> list[Case]:
    found = cases(vectors_dir, "aes_wrap_test.json", keySize=256)
    assert len(found) == 68
    return found


@pytest.fixture(scope="module")
def kwp(vectors_dir: Path) -> list[Case]:
    found = cases(vectors_dir, "aes_kwp_test.json", keySize=256)
    assert len(found) == 94
    return found


def outcome(act: Callable[[], bytes], expected: bytes, refusals: tuple[type[Exception], ...]) -> str:
    try:
        return "valid" if act() == expected else "other bytes"
    except refusals:
        return "invalid"


@dataclass(frozen=True)
class Check:
    """One vector both ways: a valid one is made and opened; an invalid one is not opened."""

    suite: str
    case: Case
    refusals: tuple[type[Exception], ...]

    def __call__(self, seal: Callable[[], bytes], open_: Callable[[], bytes], *sealed: bytes) -> None:
        where = f"{self.suite} {self.case['tcId']}: {self.case['comment']}"
        opened = outcome(open_, bytes.fromhex(self.case["msg"]), self.refusals)
        if self.case["result"] == "acceptable":
            assert opened in {"valid", "invalid"}, where
            return
        assert opened == self.case["result"], where
        if opened == "valid":
            assert seal() in sealed, where


# cryptography


def test_cryptography_seals_and_opens_gcm_as_wycheproof_says(gcm: list[Case]) -> None:
    for case in gcm:
        key, iv, aad, msg, ct, tag = (bytes.fromhex(case[part]) for part in ("key", "iv", "aad", "msg", "ct", "tag"))
        cipher = AESGCM(key)
        Check("gcm", case, (InvalidTag,))(
            lambda c=cipher, i=iv, m=msg, a=aad: c.encrypt(i, m, a),  # type: ignore[misc]
            lambda c=cipher, i=iv, s=ct + tag, a=aad: c.decrypt(i, s, a),  # type: ignore[misc]
            ct + tag,
        )


@pytest.mark.parametrize("suite", ["wrap", "kwp"])
def test_cryptography_wraps_and_unwraps_as_wycheproof_says(suite: str, request: pytest.FixtureRequest) -> None:
    padded = suite == "kwp"
    seal = keywrap.aes_key_wrap_with_padding if padded else keywrap.aes_key_wrap
    unseal = keywrap.aes_key_unwrap_with_padding if padded else keywrap.aes_key_unwrap
    for case in request.getfixturevalue(suite):
        key, msg, ct = (bytes.fromhex(case[part]) for part in ("key", "msg", "ct"))
        Check(suite, case, (keywrap.InvalidUnwrap, ValueError))(
            lambda k=key, m=msg: seal(k, m),  # type: ignore[misc]
            lambda k=key, c=ct: unseal(k, c),  # type: ignore[misc]
            ct,
        )


# SoftHSM, through the same binding and on the same thread as the key store


class Token:
    """A session in which keys are imported as they are in production: sensitive, and not extractable."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def kek(self, key: bytes) -> Any:
        from pkcs11 import Attribute, KeyType, ObjectClass

        rights = (Attribute.ENCRYPT, Attribute.DECRYPT, Attribute.WRAP, Attribute.UNWRAP)
        template = {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.VALUE: key,
            Attribute.TOKEN: False,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            **dict.fromkeys(rights, True),
        }
        return self.session.create_object(template)

    def wrap(self, kek: Any, secret: bytes, mechanism: Any) -> bytes:
        from pkcs11 import Attribute, KeyType, ObjectClass

        template = {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
            Attribute.VALUE: secret,
            Attribute.TOKEN: False,
            Attribute.SENSITIVE: False,
            Attribute.EXTRACTABLE: True,
        }
        return bytes(kek.wrap_key(self.session.create_object(template), mechanism=mechanism))

    def unwrap(self, kek: Any, wrapped: bytes, mechanism: Any) -> bytes:
        from pkcs11 import Attribute, KeyType, ObjectClass

        template = {Attribute.TOKEN: False, Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
        found = kek.unwrap_key(
            ObjectClass.SECRET_KEY, KeyType.GENERIC_SECRET, wrapped, mechanism=mechanism, template=template
        )
        return bytes(found[Attribute.VALUE])


@pytest.fixture(scope="module")
def label(softhsm: SoftHsm) -> Iterator[str]:
    softhsm.make_token("wycheproof")
    yield "wycheproof"
    softhsm.delete_token("wycheproof")


async def on_token(softhsm: SoftHsm, label: str, work: Callable[[Token], int]) -> int:
    thread = softhsm.modules.thread(softhsm.module)

    def run() -> int:
        thread.module.reinitialize()
        with thread.module.library().get_token(token_label=label).open(user_pin=PIN) as session:
            return work(Token(session))

    return await thread.call(run, 60.0)


async def test_softhsm_seals_and_opens_gcm_as_wycheproof_says(softhsm: SoftHsm, label: str, gcm: list[Case]) -> None:
    from pkcs11 import Mechanism, PKCS11Error
    from pkcs11.mechanisms import GCMParams

    def work(token: Token) -> int:
        for case in gcm:
            key, iv, aad, msg, ct, tag = (bytes.fromhex(case[p]) for p in ("key", "iv", "aad", "msg", "ct", "tag"))
            options = {"mechanism": Mechanism.AES_GCM, "mechanism_param": GCMParams(iv, aad, 128)}
            kek = token.kek(key)
            Check("gcm", case, (PKCS11Error,))(
                lambda k=kek, m=msg, o=options: k.encrypt(m, **o),  # type: ignore[misc]
                lambda k=kek, s=ct + tag, o=options: k.decrypt(s, **o),  # type: ignore[misc]
                ct + tag,
            )
            kek.destroy()
        return len(gcm)

    assert await on_token(softhsm, label, work) == 66


@pytest.mark.parametrize(("suite", "name"), [("wrap", "AES_KEY_WRAP"), ("kwp", "AES_KEY_WRAP_PAD")])
async def test_softhsm_wraps_and_unwraps_as_wycheproof_says(
    softhsm: SoftHsm, label: str, suite: str, name: str, request: pytest.FixtureRequest
) -> None:
    from pkcs11 import Mechanism, PKCS11Error

    vectors: list[Case] = request.getfixturevalue(suite)

    def work(token: Token) -> int:
        for case in vectors:
            key, msg, ct = (bytes.fromhex(case[part]) for part in ("key", "msg", "ct"))
            kek = token.kek(key)
            padded = msg + bytes(-len(msg) % 8)
            differs = f"{suite} {case['tcId']}" in SOFTHSM_DIFFERS
            also = [keywrap.aes_key_wrap_with_padding(key, padded)] if differs else []
            Check(suite, case, (PKCS11Error,))(
                lambda k=kek, m=msg: token.wrap(k, m, Mechanism[name]),  # type: ignore[misc]
                lambda k=kek, c=ct: token.unwrap(k, c, Mechanism[name]),  # type: ignore[misc]
                ct,
                *also,
            )
            kek.destroy()
        return len(vectors)

    assert await on_token(softhsm, label, work) == len(vectors)
