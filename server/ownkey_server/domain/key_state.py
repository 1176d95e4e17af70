"""The state of a customer key, always with its cause and the age of the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    OperationUnsupported,
)


class KeyState(StrEnum):
    """What is known of a key. ``REVOKED`` is a deliberate act, ``UNREACHABLE`` an outage: never one for the other."""

    AVAILABLE = "available"
    UNREACHABLE = "unreachable"
    REVOKED = "revoked"
    MISCONFIGURED = "misconfigured"
    UNKNOWN = "unknown"

    @property
    def usable(self) -> bool:
        """Whether content can be protected and opened under the key."""
        return self is KeyState.AVAILABLE


@dataclass(frozen=True, slots=True)
class KeyEvidence:
    """The latest thing seen of a key in one replica.

    Attributes:
        state: What the evidence says.
        cause: Why, in a few words; empty for ``AVAILABLE``.
        observed_at: When it was seen (UTC).
    """

    state: KeyState
    cause: str
    observed_at: datetime


STATE_OF_ERROR: Mapping[type[KeyStoreError], KeyState | None] = {
    KeyRevoked: KeyState.REVOKED,
    KeyUnreachable: KeyState.UNREACHABLE,
    KeyMisconfigured: KeyState.MISCONFIGURED,
    OperationUnsupported: KeyState.MISCONFIGURED,
    # A forged ciphertext and a busy moment say nothing about the state of a key.
    KeyStoreThrottled: None,
    CiphertextInvalid: None,
}
"""What a failed use of a key shows about its state."""
