"""What became of keys, as all instances tell it together: sightings of places, and changes of state in an order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import tenant_of

WHOLE = ""
"""The replica of what is said of a key as a whole."""


class EvidenceKind(StrEnum):
    """How it is known: by a use that somebody wanted, by a probe of ours, or by another instance's word."""

    TRAFFIC = "traffic"
    PROBE = "probe"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one instance has to say of a key in one place.

    Attributes:
        key: Name of the key.
        replicas: All of its places, in order of preference.
        replica: The place.
        state: The state as it is told: an outage that is confirmed, a recovery that has lasted.
        cause: Why it is not available; else empty.
        kind: How it is known.
        observed_at: When it was last seen so (UTC).
        since: When it was first seen so (UTC).
        known: The number of the last shared change that the instance had taken note of before it saw this. What began
            before a change of state was known proves nothing against it.
        revoked_at: Since when it is, or may be, taken away, if nothing has shown since that it works again.
        ours: Whether our own credentials or settings alone are at fault.
    """

    key: str
    replicas: tuple[str, ...]
    replica: str
    state: KeyState
    cause: str
    kind: EvidenceKind
    observed_at: datetime
    since: datetime
    known: int
    revoked_at: datetime | None = None
    ours: bool = False


@dataclass(frozen=True, slots=True)
class PlaceState:
    """What all instances together hold of a key in one place, or as a whole.

    Attributes:
        number: Of its last sighting: instances ask for those that are new to them.
        revision: The number of the change by which it came into this state.
    """

    key: str
    replica: str
    state: KeyState
    cause: str
    kind: EvidenceKind
    since: datetime
    observed_at: datetime
    number: int
    revision: int
    revoked_at: datetime | None = None
    ours: bool = False


@dataclass(frozen=True, slots=True)
class KeyTransition:
    """A change of state. It is written once, whoever saw it.

    Attributes:
        sequence: Its place among all changes of all keys; later ones have higher numbers, in the order of commits.
        key: Name of the key.
        replica: The place; empty for the key as a whole.
        before: The state until then; None when nothing was known.
        state: The state from then on.
        cause: Why it is not available; else empty.
        kind: How it was seen.
        time: When it was seen (UTC).
    """

    sequence: int
    key: str
    replica: str
    before: KeyState | None
    state: KeyState
    cause: str
    kind: EvidenceKind
    time: datetime

    @property
    def tenant(self) -> str:
        """Id of the tenant whose key it is; empty for the provider's."""
        return tenant_of(self.key)
