"""The state of a customer key, always with its cause and the age of the evidence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


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
