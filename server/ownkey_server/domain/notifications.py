"""What tenants are told of, and through what: notices, the channels that they go through, and when to try again.

A notice is a fact of the past. It has an id of its own, by which a receiver knows one that comes twice, and a position
among the notices of its key, by which it knows their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from ownkey_server.domain.key_state import KeyState

SCHEMA = "ownkey.notification.v1"
"""Name of the payload's layout (docs/notifications.md); what is added to it keeps the name."""
MAX_DATA_BYTES = 4096
MAX_CAUSE = 500
EXPIRY_DAYS = (30, 7, 1)
"""How many days before key material expires its tenant is told, once each."""
APPRISE_NEVER: Mapping[str, str] = {
    **dict.fromkeys(
        ("syslog", "dbus", "kde", "qt", "glib", "gio", "gnome", "macosx", "windows", "blink1"),
        "leads to the machine of this service itself",
    ),
    "acs": "leads to whatever host stands in the path of a URL",
    "bluesky": "leads to whatever host the account says",
    "nostr": "leads to whatever relays the receiver says",
    "vapid": "leads to what a file on the machine of this service says",
    "fcm": "leads to a file on the machine of this service",
}
"""Schemes of Apprise that no provider can let tenants use, and why."""
_NOTHING: Mapping[str, Any] = {}


class NoticeKind(StrEnum):
    """What a notice tells."""

    KEY_UNREACHABLE = "key_unreachable"
    KEY_REVOKED = "key_revoked"
    KEY_RECOVERED = "key_recovered"
    KEY_MISCONFIGURED = "key_misconfigured"
    REPLICA_DEGRADED = "replica_degraded"
    KEY_MATERIAL_EXPIRING = "key_material_expiring"
    POLICY_CHANGED = "policy_changed"
    ENROLMENT_FAILED = "enrolment_failed"
    AUDIT_SINK_FAILING = "audit_sink_failing"
    AUDIT_SINK_RECOVERED = "audit_sink_recovered"
    REVOCATION_MADE = "revocation_made"
    REVOCATION_RESTORED = "revocation_restored"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a tenant is told. It holds no secret.

    Attributes:
        id: Its own, the same at every attempt.
        tenant: Whose; empty for the provider.
        time: When it happened (UTC).
        key: Resource name of the customer key; empty where it is about none.
        replica: Name of the key store concerned; empty where it is about none, or all.
        cause: What was seen, in a few words.
        data: What belongs to its kind (docs/notifications.md).
        position: Its place among the notices of its key, or among those of its tenant that are about none; from 1.
        once: Of notices of one tenant with the same text here, only the first is kept; empty for no such thing.
    """

    id: str
    tenant: str
    kind: NoticeKind
    time: datetime
    key: str = ""
    replica: str = ""
    cause: str = ""
    data: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    position: int = 0
    once: str = ""

    def payload(self) -> bytes:
        """The notice as receivers get it: JSON, the same bytes at every attempt."""
        told: dict[str, Any] = {
            "schema": SCHEMA,
            "id": self.id,
            "tenant": self.tenant,
            "position": self.position,
            "cause": self.cause,
        }
        told |= {name: text for name, text in (("key", self.key), ("replica", self.replica)) if text}
        told["details"] = dict(self.data)
        stamp = self.time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return json.dumps(
            {"type": self.kind.value, "timestamp": stamp, "data": told}, ensure_ascii=False, separators=(",", ":")
        ).encode()


class ChannelKind(StrEnum):
    """By what a channel brings its notices."""

    WEBHOOK = "webhook"
    EMAIL = "email"
    APPRISE = "apprise"


@dataclass(frozen=True, slots=True)
class Sealed:
    """What of a channel is secret, each part encrypted under the provider's key; empty where there is none.

    Attributes:
        secret: A webhook's signing secret, or the URL of an Apprise service.
        former: The signing secret before the last rotation.
    """

    secret: bytes = b""
    former: bytes = b""


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to a tenant's receiver.

    Attributes:
        id: Unique among all tenants' channels.
        tenant: Whose; empty for the provider.
        url: Where a webhook is; empty for other kinds.
        recipients: Whom mail goes to; empty for other kinds.
        scheme: Of an Apprise URL, which itself is sealed.
        kinds: What it is told; empty means everything.
        enabled: Whether new notices go to it, and those that wait are delivered.
        former_until: Until when a webhook is signed by its former secret too (UTC); None when there is none.
        etag: Changes with it.
    """

    id: str
    tenant: str
    kind: ChannelKind
    display_name: str
    create_time: datetime
    update_time: datetime
    url: str = field(default="", repr=False)
    recipients: tuple[str, ...] = ()
    scheme: str = ""
    kinds: frozenset[NoticeKind] = frozenset()
    enabled: bool = True
    sealed: Sealed = field(default=Sealed(), repr=False)
    former_until: datetime | None = None
    etag: str = ""


class DeliveryState(StrEnum):
    """How far a notice is on its way through one channel."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One notice on its way through one channel.

    Attributes:
        attempts: How many were made since it was put, or replayed.
        first_time: From when its age counts.
        next_time: When it is tried next; of no meaning unless it is pending.
        end_time: When it was delivered, or given up.
        last_error: Why the last attempt failed, in a few words; empty when it did not.
    """

    channel: str
    notice: str
    state: DeliveryState
    attempts: int
    first_time: datetime
    next_time: datetime
    end_time: datetime | None = None
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """When a delivery that failed is tried again: later each time, and not for ever.

    Attributes:
        first: The wait after the first failure.
        longest: No wait is longer.
        max_age: Older ones are given up.
    """

    first: timedelta = timedelta(seconds=5)
    longest: timedelta = timedelta(hours=1)
    max_age: timedelta = timedelta(hours=72)

    def wait(self, attempts: int, luck: float, *, at_least: timedelta = timedelta()) -> timedelta:
        """How long to wait after so many failures.

        Args:
            attempts: How many have failed, from 1.
            luck: From 0 to 1: half of the wait is by chance, so that many that failed at once do not come at once.
            at_least: What the receiver asked for.
        """
        full = min(self.longest, self.first * float(2 ** min(attempts - 1, 30)))
        return max(full * (0.5 + 0.5 * luck), min(at_least, self.longest))


_TOLD: Mapping[KeyState, NoticeKind] = {
    KeyState.REVOKED: NoticeKind.KEY_REVOKED,
    KeyState.UNREACHABLE: NoticeKind.KEY_UNREACHABLE,
    KeyState.MISCONFIGURED: NoticeKind.KEY_MISCONFIGURED,
}
_BROKEN = frozenset(_TOLD)


def kind_of_transition(before: KeyState, after: KeyState) -> NoticeKind | None:
    """What a key's way from one state to another is told as; None when it is not told.

    ``UNKNOWN`` is the want of evidence, and told as nothing, neither when it comes nor when it goes well: give the last
    state that was known as ``before``, so that a recovery by way of it is told.
    """
    if before is after or after is KeyState.UNKNOWN:
        return None
    if after in _TOLD:
        return _TOLD[after]
    recovered = before in _BROKEN or (before is KeyState.DEGRADED and after is KeyState.AVAILABLE)
    if recovered:
        return NoticeKind.KEY_RECOVERED
    return NoticeKind.REPLICA_DEGRADED if after is KeyState.DEGRADED else None


def expiry_mark(expires: datetime, now: datetime) -> int | None:
    """Which of :data:`EXPIRY_DAYS` was passed last on the way to an expiry; None before the first, and after it."""
    left = expires - now
    if left <= timedelta():
        return None
    return min((days for days in EXPIRY_DAYS if left <= timedelta(days=days)), default=None)
