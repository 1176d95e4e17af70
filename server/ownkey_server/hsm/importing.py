"""A customer's own key, brought into a token (BYOK): wrapped by them under a key whose private half is in the token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from ownkey_server.domain.ceremonies import Action
from ownkey_server.domain.key_labels import KeyLabel
from ownkey_server.hsm.ceremony_check import Checked, Head
from ownkey_server.hsm.ceremony_log import CeremonyLog, Intent
from ownkey_server.hsm.check_value_methods import ECB, told_in
from ownkey_server.hsm.custodians import Confirming
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import KeyFacts, told_check_value
from ownkey_server.hsm.import_pairs import end_pair, pair_label, pending_imports
from ownkey_server.hsm.making import Approve, Made, make, require_settled
from ownkey_server.hsm.operations.transport import (
    SECONDS,
    Create,
    Decrypt,
    EndPair,
    MakeWrappingPair,
    PublicKey,
    Unwrap,
)
from ownkey_server.hsm.work import TokenAtWork

BITS = (2048, 3072, 4096)
KEY_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Begun:
    """An import that has begun.

    Attributes:
        label: The key's label.
        pem: The public key that the customer wraps under.
        fingerprint: SHA-256 of its DER form, in hex: the customer compares it by another way than the file came.
        scheme: How to wrap.
        hash: By which hash for OAEP.
        guarded: Nobody gets the customer's key out of the token by what they send, not even with the PIN.
        ceremony: The ceremony's number.
        head: The log's head afterwards.
    """

    label: str
    pem: bytes
    fingerprint: str
    scheme: str
    hash: str
    guarded: bool
    ceremony: int
    head: Head


def begin(
    log: CeremonyLog,
    custodians: Sequence[Confirming],
    token: TokenAtWork,
    label: str,
    *,
    bits: int,
    scheme: str,
    in_process: bool,
    exportable: bool = False,
) -> Begun:
    """Make a wrapping key pair in the token for one import.

    Args:
        log: The ceremony log.
        custodians: Who confirm.
        token: Where the key is to be.
        label: What it will be called.
        bits: Of the RSA key.
        scheme: How the customer is to wrap.
        in_process: The token is to decrypt, and not to unwrap: the key will be in clear in this program for a moment.
        exportable: It may leave this token again, under keys alone that its security officer trusts.

    Raises:
        HsmError: The token cannot.
    """
    require_settled([token], label)
    detail = {"bits": bits, "exportable": exportable, "in_process": in_process, "scheme": scheme}
    ceremony = log.begin(Intent(Action.BEGIN_IMPORT, (token.facts.identity,), label, detail), custodians)
    try:
        operation = MakeWrappingPair(pair_label(label), bits, keep=True, decrypts=in_process, exportable=exportable)
        public = token.ask(operation, SECONDS)
        try:
            _require_way(public, scheme, in_process=in_process)
        except HsmError:
            token.ask(EndPair(pair_label(label)))
            raise
    except HsmError as error:
        ceremony.failed(str(error))
        raise
    key = rsa_key(public)
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    fingerprint = hashlib.sha256(der).hexdigest()
    chosen = public.hashes[0]
    # The guard is on what the pair itself unwraps: by RSA-AES key wrap, that is an envelope and not the key.
    guarded = public.guarded and scheme == "rsa-oaep"
    made = {"fingerprint": fingerprint, "guarded": guarded, "hash": chosen, "public_key": pem.decode(), **detail}
    try:
        record = ceremony.agreed(made)
    except BaseException as error:
        token.ask(EndPair(pair_label(label)))
        ceremony.failed(str(error) if isinstance(error, HsmError) else type(error).__name__)
        raise
    head = record()
    return Begun(label, pem, fingerprint, scheme, chosen, guarded, ceremony.number, head)


def _require_way(public: PublicKey, scheme: str, *, in_process: bool) -> None:
    if not public.hashes:
        what = "decrypt" if in_process else "unwrap an AES key"
        hint = "`ownkey hsm load` takes a key in components"
        if not in_process:
            hint = f"--in-process has it decrypt instead, and this program sees the key for a moment; or {hint}"
        raise HsmError(f"the token does not {what} by RSA-OAEP", Trouble.UNSUPPORTED, hint)
    if scheme not in public.schemes or (in_process and scheme != "rsa-oaep"):
        raise HsmError(f"the token does not unwrap by {scheme}", Trouble.UNSUPPORTED, "--scheme rsa-oaep")


def rsa_key(public: PublicKey) -> RSAPublicKey:
    """The public key of a pair."""
    return RSAPublicNumbers(int.from_bytes(public.exponent, "big"), int.from_bytes(public.modulus, "big")).public_key()


def begun_label(checked: Checked, serial: str, label: KeyLabel) -> str:
    """The label of the import that somebody means, with its version or without.

    Raises:
        HsmError: None has begun, or several.
    """
    begun = pending_imports(checked, serial)
    meant = [text for text in begun if text == str(label) or (not label.version and _name_of(text) == label.name)]
    if not meant:
        known = ", ".join(begun) or "none"
        raise HsmError(
            f"the log knows of no import of {str(label)!r} into this token that has begun and not ended",
            Trouble.NOT_FOUND,
            f"begun are: {known}; --begin begins one",
        )
    if len(meant) > 1:
        raise HsmError(f"several imports of {label.name!r} have begun", hint=f"name one of them: {', '.join(meant)}")
    return meant[0]


def _name_of(label: str) -> str:
    return KeyLabel.parse(label).name


@dataclass(frozen=True, slots=True)
class Finished:
    """A customer's key that was taken in.

    Attributes:
        made: The key.
        pair_left: Why its wrapping key could not be destroyed afterwards; empty when it was.
    """

    made: Made
    pair_left: str


def finish(
    log: CeremonyLog,
    custodians: Sequence[Confirming],
    token: TokenAtWork,
    label: str,
    wrapped: bytes,
    *,
    check_value: str,
    approve: Approve,
) -> Finished:
    """Take the customer's wrapped key into the token, and end its wrapping key pair.

    Args:
        log: The ceremony log.
        custodians: Who confirm.
        token: Where the import was begun.
        label: What the key will be called.
        wrapped: What the customer sent.
        check_value: What the customer says that its check value is; empty to compare none.
        approve: Asks whether the key is right.

    Raises:
        HsmError: It is not taken. The wrapping key stays, and another file can be tried.
    """
    way = pending_imports(log.checked, token.facts.serial)[label]

    def stage() -> list[KeyFacts]:
        if way.in_process:
            facts = _in_process(token, label, wrapped, way.hash, exportable=way.exportable)
        else:
            mechanism, pair = token.place.mechanism, pair_label(label)
            operation = Unwrap(label, mechanism, pair, wrapped, way.scheme, way.hash, way.guarded, way.exportable)
            facts = token.ask(operation)
        require_check_value(facts, check_value)
        return [facts]

    detail = {
        "guarded": way.guarded,
        "in_process": way.in_process,
        "scheme": way.scheme,
        "wrapped_sha256": hashlib.sha256(wrapped).hexdigest(),
    }
    made = make(log, custodians, Action.IMPORT, [token], label, stage, approve, detail)
    why = end_pair(log, token, label)
    return Finished(replace(made, head=log.head), why)


def _in_process(token: TokenAtWork, label: str, wrapped: bytes, name: str, *, exportable: bool) -> KeyFacts:
    clear = bytearray(token.ask(Decrypt(pair_label(label), wrapped, name)))
    try:
        if len(clear) != KEY_LENGTH:
            raise HsmError(f"it is a key of {len(clear) * 8} bits, and not of {KEY_LENGTH * 8}", Trouble.UNFIT)
        return token.ask(Create(label, token.place.mechanism, bytes(clear), exportable))
    finally:
        clear[:] = bytes(len(clear))


def require_check_value(facts: KeyFacts, wanted: str) -> None:
    """Refuse a key in a token whose check value is not what somebody says that it is.

    Raises:
        HsmError: It is another, or there is none to compare.
    """
    if not wanted:
        return
    method = wanted.lower().rpartition(":")[0] or ECB
    if method not in facts.check_values:
        hint = f"of this key the token gives: {told_check_value(facts.check_values) or 'none'}"
        raise HsmError(f"there is no check value by {method} to compare", Trouble.UNSUPPORTED, hint)
    if not told_in(wanted, facts.check_values):
        found = facts.check_values[method]
        raise HsmError(f"its check value is {found}, and not {wanted}: it is another key", Trouble.UNFIT)


def abandon(log: CeremonyLog, custodians: Sequence[Confirming], token: TokenAtWork, label: str) -> Head:
    """Give an import up: its wrapping key pair is destroyed.

    Raises:
        HsmError: None has begun.
    """
    ceremony = log.begin(Intent(Action.ABANDON_IMPORT, (token.facts.identity,), label), custodians)
    try:
        if not token.ask(EndPair(pair_label(label))):
            raise HsmError(f"no import of {label!r} has begun in this token", Trouble.NOT_FOUND)  # noqa: TRY301
    except HsmError as error:
        ceremony.failed(str(error))
        raise
    return ceremony.done({})


# A key's bytes as hexadecimal digits, for an option of OpenSSL.
_DIGITS = "$(od -An -tx1 -v {} | tr -d ' \\n')"
_THREE_BYTES = "od -An -tx1 -N3 | tr -d ' '"


def instructions(begun: Begun, public_file: str) -> str:
    """What the customer does, with OpenSSL 3, on a machine of their own. Nothing of it needs ownkey."""
    oaep = f"-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:{begun.hash} -pkeyopt rsa_mgf1_md:{begun.hash}"
    envelope, key = _DIGITS.format("envelope.bin"), _DIGITS.format("key.bin")
    by_oaep = f"""# Wrapped by RSA-OAEP:
openssl pkeyutl -encrypt -pubin -inkey {public_file} {oaep} -in key.bin -out wrapped.bin
"""
    by_both = f"""# Wrapped by RSA-AES key wrap: an AES key by RSA-OAEP, and the key under that by AES key wrap.
(umask 077 && openssl rand -out envelope.bin 32)
openssl pkeyutl -encrypt -pubin -inkey {public_file} {oaep} -in envelope.bin -out wrapped.bin
openssl enc -id-aes256-wrap-pad -iv A65959A6 -K "{envelope}" -in key.bin >> wrapped.bin
rm envelope.bin
"""
    return f"""# Wrap a key of 256 bits for {begun.label}.
# Work on a machine that nobody else is on: while OpenSSL runs, its command line can be seen there.
# The public key is the right one if this prints its fingerprint,
# {begun.fingerprint}
openssl pkey -pubin -in {public_file} -outform DER | openssl dgst -sha256

# A key that is in a token of ownkey's, and was made exportable, leaves it by this, in place of all that follows:
# ownkey hsm export NAME/v1 --to {public_file} --fingerprint {begun.fingerprint} \\
#   --scheme {begun.scheme} --hash {begun.hash} --out wrapped.bin

# The key: one that you have, 32 bytes in key.bin, or a new one. Keep it: with it you can open everything, without
# this service.
[ -e key.bin ] || (umask 077 && openssl rand -out key.bin 32)

{by_oaep if begun.scheme == "rsa-oaep" else by_both}
# Its check value, to compare with what the import shows: three bytes of AES-ECB of zeros.
head -c 16 /dev/zero | openssl enc -aes-256-ecb -nopad -K "{key}" | {_THREE_BYTES}
# Where the import shows one of rfc3394, this:
head -c 16 /dev/zero | openssl enc -id-aes256-wrap -iv A6A6A6A6A6A6A6A6 -K "{key}" | {_THREE_BYTES}

# Send wrapped.bin, and by another way the check value.
"""
