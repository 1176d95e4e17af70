"""Wrapping a key of the token for somebody outside, under a public key that the security officer trusts for this alone.

The officer's session makes that key an object of a session of this process, and so it is gone with the process, however
that ends. The officer logs out before the user logs in: only the user reaches the key, and only the officer sets
CKA_TRUSTED.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pkcs11 import Attribute, KeyType, Mechanism, TokenFlag
from pkcs11 import exceptions as p11

from ownkey_server.hsm.answers import told
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import KeyFacts
from ownkey_server.hsm.operations.keys import require_keeps_to_trust
from ownkey_server.hsm.operations.transport import OAEP, padded_key_wrap
from ownkey_server.hsm.templates import KEY_BITS, passing_key, recipient_key, trusted_envelope

if TYPE_CHECKING:
    from ownkey_server.hsm.bench import Bench

_NO_TRUST = (
    p11.AttributeReadOnly,
    p11.AttributeTypeInvalid,
    p11.AttributeValueInvalid,
    p11.TemplateInconsistent,
    p11.TemplateIncomplete,
    p11.FunctionNotSupported,
)
_BY_VENDOR = "use what its vendor has for copies"


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whom a key is wrapped for, and how: an RSA public key, one of ``SCHEMES`` and one of ``OAEP``.

    Attributes:
        modulus: Big-endian.
        exponent: Big-endian.
    """

    modulus: bytes
    exponent: bytes
    scheme: str
    hash: str


@dataclass(frozen=True, slots=True)
class TryExport:
    """See that a key may be exported and that the token wraps for the recipient, by a throw-away key."""

    label: str
    recipient: Recipient

    def run(self, bench: Bench) -> KeyFacts:
        """The key's facts.

        Raises:
            HsmError: It may not, or the token does not.
        """
        facts = bench.facts(bench.key(self.label))
        _require_exportable(facts)
        require_keeps_to_trust(bench)
        public = bench.session.create_object(_public(self.recipient, trusted=False))
        probe = bench.session.generate_key(KeyType.AES, KEY_BITS, store=False, template=passing_key())
        try:
            public.wrap_key(probe, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=OAEP[self.recipient.hash])
        except p11.PKCS11Error as error:
            others = [name for name in OAEP if name != self.recipient.hash]
            hint = f"--hash {others[0]}, if the recipient opens that"
            what = f"the token does not wrap by RSA-OAEP with {self.recipient.hash} ({type(error).__name__})"
            raise HsmError(what, Trouble.UNSUPPORTED, hint) from None
        finally:
            probe.destroy()
            public.destroy()
        if self.recipient.scheme == "rsa-aes" and padded_key_wrap(bench) is None:
            what = "the token does not wrap by AES key wrap with padding (RFC 5649)"
            raise HsmError(what, Trouble.UNSUPPORTED, "--scheme rsa-oaep, if the recipient opens that")
        return facts


@dataclass(frozen=True, slots=True)
class Export:
    """Wrap a key for a recipient. Each PIN is tried once.

    Attributes:
        was: The key as it was seen and confirmed; nothing is done if it is another by now.
    """

    was: KeyFacts
    recipient: Recipient
    so_pin: str = field(repr=False)
    pin: str = field(repr=False)

    def run(self, bench: Bench) -> bytes:
        """Wrap it."""
        if bench.facts(bench.key(self.was.label)) != self.was:
            raise HsmError("the key is not as it was when it was looked at", Trouble.TAKEN, "run the command again")
        _require_exportable(self.was)
        padded = padded_key_wrap(bench) if self.recipient.scheme == "rsa-aes" else None
        if self.recipient.scheme == "rsa-aes" and padded is None:
            raise HsmError("the token does not wrap by AES key wrap with padding (RFC 5649)", Trouble.UNSUPPORTED)
        bench.log_out()
        with _trusted(bench, self.recipient, self.so_pin, enveloped=padded is not None) as (public, envelope):
            bench.log_in(self.pin)
            key = bench.key(self.was.label)
            if padded is None:
                return self._under(public, key)
            return self._under(public, envelope) + bytes(envelope.wrap_key(key, mechanism=padded))

    def _under(self, public: Any, key: Any) -> bytes:
        parameters = OAEP[self.recipient.hash]
        return bytes(public.wrap_key(key, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameters))


@contextlib.contextmanager
def _trusted(bench: Bench, recipient: Recipient, so_pin: str, *, enveloped: bool) -> Iterator[tuple[Any, Any]]:
    """The recipient's key, trusted, and an envelope if there is to be one, until the block ends."""
    made: list[Any] = []
    with contextlib.ExitStack() as stack:
        # What it owns outlives the officer's session, and nobody else's program reaches it.
        owner = bench.token.open(rw=True)
        stack.callback(owner.close)
        stack.callback(_destroy, made)
        with _officer(bench, so_pin):
            try:
                made.append(owner.create_object(_public(recipient, trusted=True)))
                if enveloped:
                    made.append(owner.generate_key(KeyType.AES, KEY_BITS, store=False, template=trusted_envelope()))
                is_trusted = all(one[Attribute.TRUSTED] for one in made)
            except _NO_TRUST as error:
                what = f"the token lets its security officer trust no key of a session ({type(error).__name__})"
                raise HsmError(what, Trouble.UNSUPPORTED, _BY_VENDOR) from None
        if not is_trusted:
            raise HsmError("the token says yes to CKA_TRUSTED, and does not set it", Trouble.UNSUPPORTED, _BY_VENDOR)
        yield made[0], made[-1]


@contextlib.contextmanager
def _officer(bench: Bench, so_pin: str) -> Iterator[None]:
    if bench.token.slot.get_token().flags & TokenFlag.SO_PIN_FINAL_TRY:
        raise HsmError(
            "one more wrong SO PIN would lock the token for good, and none was tried",
            Trouble.REFUSED,
            "log in as the security officer once with the vendor's tool, with the right one",
        )
    try:
        session = bench.token.open(rw=True, so_pin=so_pin)
    except p11.PKCS11Error as error:
        refused = told(error)
        text = str(refused).replace("the PIN", "the SO PIN")
        raise HsmError(f"as the security officer: {text}", refused.trouble, refused.hint) from None
    try:
        yield
    finally:
        session.close()


def _destroy(made: list[Any]) -> None:
    for one in made:
        with contextlib.suppress(p11.PKCS11Error):
            one.destroy()


def _public(recipient: Recipient, *, trusted: bool) -> dict[Attribute, Any]:
    return recipient_key(recipient.modulus, recipient.exponent, trusted=trusted)


def _require_exportable(facts: KeyFacts) -> None:
    if facts.exportable:
        return
    if facts.extractable:
        raise HsmError(
            f"{facts.label!r} is extractable without CKA_WRAP_WITH_TRUSTED: whoever has the PIN can take it along, and"
            " no ceremony would show it",
            Trouble.UNFIT,
            "make a key with `ownkey hsm keygen NAME --exportable`, and move to it",
        )
    raise HsmError(
        f"{facts.label!r} was not made exportable, and its token never lets it out (CKA_EXTRACTABLE is false)",
        Trouble.REFUSED,
        "nobody can change that: `ownkey hsm rotate NAME --exportable` makes a next version that can be exported",
    )
