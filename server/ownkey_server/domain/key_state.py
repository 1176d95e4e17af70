"""The state of a customer key, always with its cause and the age of the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyAbsent,
    KeyExhausted,
    KeyExists,
    KeyMisconfigured,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    OperationUnsupported,
    StoreMisconfigured,
)


class KeyState(StrEnum):
    """What is known of a key. ``REVOKED`` is a deliberate act, ``UNREACHABLE`` an outage: never one for the other.

    ``DEGRADED``: the key works, though not in all of its replicas.
    """

    AVAILABLE = "available"
    DEGRADED = "degraded"
    UNREACHABLE = "unreachable"
    REVOKED = "revoked"
    MISCONFIGURED = "misconfigured"
    UNKNOWN = "unknown"

    @property
    def usable(self) -> bool:
        """Whether content can be protected and opened under the key."""
        return self in (KeyState.AVAILABLE, KeyState.DEGRADED)


@dataclass(frozen=True, slots=True)
class KeyEvidence:
    """The latest thing seen of a key, in one replica or as a whole.

    Attributes:
        state: What the evidence says.
        cause: Why, in a few words; empty for ``AVAILABLE``.
        observed_at: When it was seen (UTC).
        revoked_at: Since when it is, or may be, taken away, if nothing has shown since that it works again (UTC).
        ours: Whether our own credentials or settings alone are at fault.
    """

    state: KeyState
    cause: str
    observed_at: datetime
    revoked_at: datetime | None = None
    ours: bool = False


STATE_OF_ERROR: Mapping[type[KeyStoreError], KeyState | None] = {
    KeyRevoked: KeyState.REVOKED,
    KeyUnreachable: KeyState.UNREACHABLE,
    KeyMisconfigured: KeyState.MISCONFIGURED,
    StoreMisconfigured: KeyState.MISCONFIGURED,
    OperationUnsupported: KeyState.MISCONFIGURED,
    # A forged ciphertext and a busy moment say nothing about the state of a key.
    KeyStoreThrottled: None,
    CiphertextInvalid: None,
    # What a holder's command meets, and no use of a key.
    KeyAbsent: None,
    KeyExists: None,
    # It still opens.
    KeyExhausted: None,
}
"""What a failed use of a key shows about its state."""


def combine(replicas: Sequence[tuple[str, KeyEvidence | None]]) -> KeyEvidence | None:
    """What the evidence about each replica says of the key, walking them as a use of the key does.

    Replicas that are merely out of order are passed over; one that was revoked ends the walk, for nobody goes around a
    revocation, and an outage that comes after it does not undo it.

    Args:
        replicas: The name of each replica and what was last seen of it, in order of preference.
    """
    seen = [(name, evidence) for name, evidence in replicas if evidence is not None]
    for _, evidence in seen:
        if evidence.state is KeyState.REVOKED or evidence.revoked_at is not None:
            return evidence
        if evidence.state is KeyState.AVAILABLE:
            failing = [(name, other) for name, other in seen if other.state is not KeyState.AVAILABLE]
            if not failing:
                return evidence
            cause = "; ".join(
                f"{name} is {other.state}" + f": {other.cause}" * bool(other.cause) for name, other in failing
            )
            return KeyEvidence(KeyState.DEGRADED, cause, evidence.observed_at)
    return seen[0][1] if seen else None
