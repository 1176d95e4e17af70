"""A key that custodians bring in components, put into tokens: in clear only here, and for as short as can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.hsm.check_value_methods import told_in
from ownkey_server.hsm.components import check_values_of
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import KeyFacts
from ownkey_server.hsm.importing import rsa_key
from ownkey_server.hsm.making import SESSION_PAIR, TRANSPORT_BITS
from ownkey_server.hsm.operations.transport import SECONDS, Create, EndPair, MakeWrappingPair, PublicKey, Unwrap
from ownkey_server.hsm.work import TokenAtWork

_HASHES: Mapping[str, type[hashes.HashAlgorithm]] = {"sha1": hashes.SHA1, "sha256": hashes.SHA256}


def way_into(token: TokenAtWork) -> PublicKey | None:
    """A wrapping key of the token for this session; None where the token unwraps nothing."""
    public = token.ask(MakeWrappingPair(SESSION_PAIR, TRANSPORT_BITS, keep=False), SECONDS)
    return public if public.hashes else None


def put_into(
    tokens: Sequence[TokenAtWork], ways: Sequence[PublicKey | None], label: str, key: SecretBytes
) -> list[KeyFacts]:
    """Put a key into each token, pending: wrapped under a key of that token, so that its module sees no clear one.

    Args:
        tokens: The tokens.
        ways: For each, what :func:`way_into` gave.
        label: What the key will be called.
        key: The key.

    Raises:
        HsmError: A token does not take it, or has another key afterwards.
    """
    made = []
    for token, public in zip(tokens, ways, strict=True):
        mechanism = token.place.mechanism
        if public is None:
            facts = token.ask(Create(label, mechanism, bytes(key.reveal())))
        else:
            name = public.hashes[0]
            oaep = padding.OAEP(padding.MGF1(_HASHES[name]()), _HASHES[name](), None)
            wrapped = rsa_key(public).encrypt(bytes(key.reveal()), oaep)
            facts = token.ask(Unwrap(label, mechanism, SESSION_PAIR, wrapped, "rsa-oaep", name))
            token.ask(EndPair(SESSION_PAIR))
        made.append(facts)
        _require_own(token, facts, check_values_of(key.reveal()))
    return made


def require_value(key: SecretBytes, wanted: str) -> None:
    """Refuse a key whose check value is not what somebody says that it is.

    Raises:
        HsmError: It is another.
    """
    if not wanted:
        return
    values = check_values_of(key.reveal())
    if not told_in(wanted, values):
        raise HsmError(
            f"the components give a key with check value {values['aes-ecb']}, and not {wanted}",
            Trouble.REFUSED,
            "one of them is wrong, or is of another key",
        )


def _require_own(token: TokenAtWork, facts: KeyFacts, values: Mapping[str, str]) -> None:
    for method, value in facts.check_values.items():
        if values.get(method, value) != value:
            raise HsmError(f"the key in {token.name} has another check value than what was loaded", Trouble.UNFIT)
