"""Programs of whoever has a token's user PIN, and nothing more, and wants a key out of it."""

TAKE_IN_LOOSE = """
import sys, pkcs11
from pathlib import Path
from pkcs11 import Attribute, KeyType, MGF, Mechanism, ObjectClass
module, token, pin, wrapped = sys.argv[1:]
loose = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True, Attribute.DERIVE: False}
with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    private = session.get_key(object_class=ObjectClass.PRIVATE_KEY)
    try:
        private.unwrap_key(
            ObjectClass.SECRET_KEY, KeyType.AES, Path(wrapped).read_bytes(), store=False, template=loose,
            mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=(Mechanism.SHA_1, MGF.SHA1, None),
        )
        print("ALLOWED")
    except pkcs11.PKCS11Error as error:
        print(type(error).__name__)
"""
# The ways of whoever has the user PIN, and nothing more. Each prints a refusal, or how it got the key.
TAKE_ALONG = """
import sys, pkcs11
from pkcs11 import Attribute, KeyType, MGF, Mechanism, ObjectClass
module, token, pin, label = sys.argv[1:]
OAEP = {"mechanism": Mechanism.RSA_PKCS_OAEP, "mechanism_param": (Mechanism.SHA_1, MGF.SHA1, None)}
BY_AES = {"mechanism": Mechanism.AES_KEY_WRAP}
tried = 0

def refused(name, act):
    global tried
    tried += 1
    try:
        act()
    except pkcs11.PKCS11Error as error:
        print(name, type(error).__name__)
    else:
        print(name, "ALLOWED")

with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    key = session.get_key(label=label)
    wrapping = {Attribute.WRAP: True, Attribute.UNWRAP: True, Attribute.EXTRACTABLE: True}
    thief = session.generate_key(KeyType.AES, 256, store=False, template=wrapping)
    ordinary = session.generate_key(KeyType.AES, 256, store=False, template=wrapping)
    halves = {"public_template": {Attribute.WRAP: True}, "private_template": {Attribute.UNWRAP: True}}
    public, private = session.generate_keypair(KeyType.RSA, 2048, store=False, **halves)
    # The thief's keys do wrap, and what they are tried on is the only thing that they do not.
    thief.wrap_key(ordinary, **BY_AES)
    public.wrap_key(ordinary, **OAEP)
    refused("read", lambda: key[Attribute.VALUE])
    refused("wrap", lambda: thief.wrap_key(key, **BY_AES))
    refused("wrap_pad", lambda: thief.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP_PAD))
    refused("wrap_rsa", lambda: public.wrap_key(key, **OAEP))
    refused("wrap_rsa_15", lambda: public.wrap_key(key, mechanism=Mechanism.RSA_PKCS))
    itself = key.copy({Attribute.TOKEN: False, Attribute.WRAP: True, Attribute.DERIVE: True})
    refused("wrap_by_itself", lambda: itself.wrap_key(key, **BY_AES))
    for mechanism in (Mechanism.EXTRACT_KEY_FROM_KEY, Mechanism.XOR_BASE_AND_DATA):
        derived = {"mechanism": mechanism, "mechanism_param": bytes(8)}
        refused("derive", lambda: itself.derive_key(KeyType.GENERIC_SECRET, 128, **derived))
    for name, one in (("aes", thief), ("rsa", public)):
        refused(f"trust_{name}", lambda: one.__setitem__(Attribute.TRUSTED, True))
        refused(f"trust_copy_{name}", lambda: one.copy({Attribute.TRUSTED: True}))
    trusted = {**wrapping, Attribute.TRUSTED: True}
    refused("trust_new", lambda: session.generate_key(KeyType.AES, 256, store=False, template=trusted))
    blob = thief.wrap_key(ordinary, **BY_AES)
    refused(
        "trust_unwrapped",
        lambda: thief.unwrap_key(ObjectClass.SECRET_KEY, KeyType.AES, blob, template=trusted, **BY_AES),
    )
    created = {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.KEY_TYPE: KeyType.RSA, Attribute.TOKEN: False,
        Attribute.MODULUS: public[Attribute.MODULUS], Attribute.PUBLIC_EXPONENT: public[Attribute.PUBLIC_EXPONENT],
        Attribute.WRAP: True, Attribute.PRIVATE: False,
    }
    session.create_object(created).wrap_key(ordinary, **OAEP)
    refused("trust_created", lambda: session.create_object({**created, Attribute.TRUSTED: True}))
    refused("loosen", lambda: key.__setitem__(Attribute.WRAP_WITH_TRUSTED, False))
    refused("show", lambda: key.__setitem__(Attribute.SENSITIVE, False))
    for name, change in (
        ("loose", {Attribute.WRAP_WITH_TRUSTED: False}),
        ("shown", {Attribute.SENSITIVE: False}),
        ("both", {Attribute.WRAP_WITH_TRUSTED: False, Attribute.SENSITIVE: False, Attribute.PRIVATE: False}),
    ):
        for where in (False, True):
            refused(f"copy_{name}", lambda: key.copy({**change, Attribute.TOKEN: where, Attribute.LABEL: "mine"}))
    copy = key.copy({Attribute.TOKEN: False})
    refused("wrap_copy", lambda: thief.wrap_key(copy, **BY_AES))
    refused("loosen_copy", lambda: copy.__setitem__(Attribute.WRAP_WITH_TRUSTED, False))
print("tried", tried)
"""
