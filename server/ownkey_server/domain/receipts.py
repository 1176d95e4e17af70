"""Receipts of revocations: what each process's chain of uses proves of it, and what it does not (docs/revocation.md).

A receipt is made from the audit trail alone and says nothing that the trail does not say. It is signed with the trail's
key, so that it can be kept, sent and checked without the database; and it has places and hashes of the chains, so that
whoever has the trail can check it against that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from ownkey_server.domain import encryption_context
from ownkey_server.domain.assets import Asset, AssetClass, AssetOrigin
from ownkey_server.domain.audit import Action, Result, canonical, timestamp
from ownkey_server.domain.revocations import PROVIDER_KEY_ID, Scope, subject
from ownkey_server.domain.tenants import PROVIDER_KEY_NAME

FORMAT = 1
SERVING = frozenset(
    {Action.GENERATE_DATA_KEY, Action.UNWRAP, Action.ENCRYPT_MEDIA, Action.DECRYPT_MEDIA, Action.RENEW_LEASE}
)
"""Actions that give out a plaintext, or let one be used on."""


class Standing(StrEnum):
    """What a process's chain says of a revocation.

    ``IN_FORCE``: it took effect, at a place in the chain. ``SINCE_START``: the process began after it, and knew of it
    before its first use of a key. ``STOPPED``: the process ended its chain without it, and serves no more. ``SILENT``:
    nothing says that the process has heard of it; ``GONE``: and it has not been heard of for so long that it is taken
    for dead. Of the last two nothing is claimed.
    """

    IN_FORCE = "in_force"
    SINCE_START = "since_start"
    STOPPED = "stopped"
    SILENT = "silent"
    GONE = "gone"

    @property
    def is_proved(self) -> bool:
        """Whether the chain proves that the process serves nothing that was taken back."""
        return self in (Standing.IN_FORCE, Standing.SINCE_START, Standing.STOPPED)


@dataclass(frozen=True, slots=True)
class Place:
    """A record's place in its chain: its number, its hash, and the time that it says."""

    sequence: int
    hash: bytes
    time: datetime

    def told(self) -> dict[str, Any]:
        """As the receipt has it."""
        return {"sequence": self.sequence, "hash": self.hash.hex(), "time": timestamp(self.time)}


@dataclass(frozen=True, slots=True)
class Served:
    """The last plaintext within the scope that a process served under a key at one place.

    Attributes:
        action: By which it was.
        key: Name of the key.
        replica: Where it was used; empty when a branch key that was held served.
    """

    place: Place
    action: str
    key: str
    replica: str

    def told(self) -> dict[str, Any]:
        """As the receipt has it."""
        return self.place.told() | {"action": self.action, "key": self.key, "replica": self.replica}


@dataclass(frozen=True, slots=True)
class InstanceReceipt:
    """What one process's chain says.

    Attributes:
        writer: Number of the chain.
        host: Where the process runs.
        process: Its number there.
        start_time: When the chain began.
        effect: The record of the effect; None where there is none.
        streams_ended: As that record says.
        streams_draining: The same: those that were let finish.
        leases_ended: The same.
        replica: Where the key was found to be taken away; empty for a revocation here.
        cause: What was found there.
        drained: The record that the last stream that was let finish is over.
        restored: The record that it is in force no more.
        last_served: The last plaintext within the scope before the effect, or before the chain's head where there is no
            effect; for each key and place, the latest first.
        looked_from: The first record of the chain that was looked at for that.
        served_after: How many were served after the effect, or since the start, and before it was restored: none, or
            the promise is broken. None where the chain's order does not tell: of a key that was taken away elsewhere.
        looked_to: The last record that was looked at for that.
        head: The chain's last record when the receipt was made.
        heard: When the process was last heard of.
    """

    writer: int
    host: str
    process: int
    start_time: str
    standing: Standing
    effect: Place | None
    streams_ended: int
    streams_draining: int
    leases_ended: int
    replica: str
    cause: str
    drained: Place | None
    restored: Place | None
    last_served: tuple[Served, ...]
    looked_from: int
    served_after: int | None
    looked_to: int
    head: Place
    heard: datetime

    def told(self) -> dict[str, Any]:
        """As the receipt has it; what it has nothing to say of is left out."""
        said: dict[str, Any] = {
            "writer": self.writer,
            "host": self.host,
            "process": self.process,
            "start_time": self.start_time,
            "standing": self.standing.value,
            "proved": self.standing.is_proved,
            "last_served": [one.told() for one in self.last_served],
            "looked_from": self.looked_from,
            "head": self.head.told(),
            "heard": timestamp(self.heard),
        }
        if self.effect is not None:
            said |= {
                "effect": self.effect.told(),
                "streams_ended": self.streams_ended,
                "streams_draining": self.streams_draining,
                "leases_ended": self.leases_ended,
            }
        if self.served_after is not None:
            said |= {"served_after": self.served_after, "looked_to": self.looked_to}
        for name, text in (("replica", self.replica), ("cause", self.cause)):
            if text:
                said[name] = text
        for name, place in (("drained", self.drained), ("restored", self.restored)):
            if place is not None:
                said[name] = place.told()
        return said


@dataclass(frozen=True, slots=True)
class Receipt:
    """All of it.

    Attributes:
        time: When it was made.
        about: The revocation, or the key that was taken away, as the receipt has it.
        since: From when on it counts.
        bounds: By what settings an instance that is not heard of serves nothing any more, in seconds.
    """

    time: datetime
    tenant: str
    about: Mapping[str, Any]
    since: datetime
    bounds: Mapping[str, float]
    instances: tuple[InstanceReceipt, ...]

    @property
    def complete(self) -> bool:
        """Whether every process that could serve is proved to serve nothing of it."""
        return all(one.standing.is_proved and not one.served_after for one in self.instances)

    def to_bytes(self) -> bytes:
        """The description, as it is signed."""
        return canonical(
            {
                "format": FORMAT,
                "time": timestamp(self.time),
                "tenant": self.tenant,
                **self.about,
                "since": timestamp(self.since),
                "bounds": dict(self.bounds),
                "complete": self.complete,
                "instances": [one.told() for one in sorted(self.instances, key=lambda one: one.writer)],
            }
        )


def scope_told(scope: Scope) -> dict[str, Any]:
    """A scope as the receipt has it: only the conditions that it has."""
    said: dict[str, Any] = {
        name: sorted(str(one) for one in getattr(scope, name))
        for name in ("keys", "groups", "users", "asset_classes", "asset_ids", "queues")
        if getattr(scope, name)
    }
    for name in ("created_from", "created_before"):
        if (time := getattr(scope, name)) is not None:
            said[name] = timestamp(time)
    return said


def key_id(name: str) -> str:
    """By what name a scope means the key of that resource name."""
    return PROVIDER_KEY_ID if name == PROVIDER_KEY_NAME else name.rpartition("/")[2]


def is_served(scope: Scope, fields: Mapping[str, Any], groups_of: Mapping[str, frozenset[str]]) -> bool:
    """Whether an audit record says that a plaintext within the scope was served.

    Args:
        scope: Of the revocation.
        fields: Of the record.
        groups_of: The groups of each user, as they are now.
    """
    if fields.get("action") not in SERVING or fields.get("result") != Result.OK.value or "asset" not in fields:
        return False
    if fields.get("detail", {}).get("finishing"):
        return False  # the revocation lets it be finished
    context: Mapping[str, str] = fields.get("context", {})
    asset = asset_in(str(fields.get("tenant", "")), fields["asset"])
    groups = set(groups_of.get(asset.user, frozenset()))
    if bound := context.get(encryption_context.GROUP):
        groups.add(bound)
    time = datetime.fromisoformat(fields["time"])
    hour = context.get(encryption_context.HOUR, "")
    return scope.holds(subject(asset, key_id(str(fields.get("key", ""))), groups, time, hour))


def asset_in(tenant: str, facts: Mapping[str, str]) -> Asset:
    """The asset that an audit record is about."""
    created = facts.get("create_time")
    return Asset(
        tenant=tenant,
        asset_class=AssetClass(facts["class"]),
        asset_id=facts["id"],
        origin=AssetOrigin(facts["origin"]),
        user=facts.get("user", ""),
        group=facts.get("group", ""),
        create_time=datetime.fromisoformat(created) if created else None,
    )


def latest_of_each(served: Iterable[Served]) -> tuple[Served, ...]:
    """Of what was served, the latest under each key at each place; the latest first.

    Args:
        served: The latest first.
    """
    found: dict[tuple[str, str], Served] = {}
    for one in served:
        found.setdefault((one.key, one.replica), one)
    return tuple(found.values())


def standing_of(*, effect: bool, knew: bool, stopped: bool, silent_seconds: float, gone_seconds: float) -> Standing:
    """What a chain says.

    Args:
        effect: Whether it has the record of the effect.
        knew: Whether the process knew of the revocation before the chain's first use of a key.
        stopped: Whether the chain was ended.
        silent_seconds: Since when the process was not heard of.
        gone_seconds: After how long it is taken for dead.
    """
    if effect:
        return Standing.IN_FORCE
    if knew:
        return Standing.SINCE_START
    if stopped:
        return Standing.STOPPED
    return Standing.GONE if silent_seconds >= gone_seconds else Standing.SILENT
