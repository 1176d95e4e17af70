"""Revocations: what a customer takes back here, without touching its key store, and how wide that is.

A revocation names what it is about by conditions. All that it names must hold; one that names nothing is about all of
the tenant. It is in force until it is restored, on every use: data keys, streams that are under way, calls.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from ownkey_server.domain import encryption_context
from ownkey_server.domain.assets import Asset, AssetClass

PROVIDER_KEY_ID = "provider_key"
"""By what name a revocation means the provider's own key."""


class Ending(StrEnum):
    """What happens to streams that are under way.

    ``CUT``: they end at once. ``DRAIN``: what is being written is finished, and what is being read ends at once.
    """

    CUT = "cut"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a revocation is about. An empty condition always holds.

    Attributes:
        keys: Ids of customer keys, or :data:`PROVIDER_KEY_ID`.
        groups: Groups of users; being in one is enough.
        users: Owners of content.
        asset_classes: Kinds of content.
        asset_ids: Single assets.
        created_from: Content created at this time or later.
        created_before: Content created earlier than this time.
        queues: Call queues; it is then about calls alone.
    """

    keys: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    asset_classes: frozenset[AssetClass] = frozenset()
    asset_ids: frozenset[str] = frozenset()
    created_from: datetime | None = None
    created_before: datetime | None = None
    queues: frozenset[str] = frozenset()

    @property
    def is_everything(self) -> bool:
        """Whether it is all of the tenant."""
        return self == Scope()

    def holds(self, use: Subject) -> bool:
        """Whether a use is within it."""
        return (
            (not self.keys or use.key in self.keys)
            and (not self.groups or not self.groups.isdisjoint(use.groups))
            and (not self.users or use.user in self.users)
            and (not self.asset_classes or use.asset_class in self.asset_classes)
            and (not self.asset_ids or use.asset_id in self.asset_ids)
            and (not self.queues or use.queue in self.queues)
            and any(self._spans(one) for one in use.created)
        )

    def _spans(self, created: Span) -> bool:
        after = self.created_from is None or created.until > self.created_from
        return after and (self.created_before is None or created.since < self.created_before)


@dataclass(frozen=True, slots=True)
class Span:
    """A time that is known so exactly: some moment from ``since`` to before ``until``."""

    since: datetime
    until: datetime

    @classmethod
    def at(cls, moment: datetime) -> Span:
        """A moment that is known exactly."""
        return cls(moment, moment + timedelta(microseconds=1))


@dataclass(frozen=True, slots=True)
class Subject:
    """A use of a key, as revocations look at it.

    Attributes:
        key: Id of the customer key, or :data:`PROVIDER_KEY_ID`.
        groups: Every group that the content or its owner is in.
        created: When the content came into being. Of several times that are told, one that is revoked is enough.
    """

    key: str
    asset_class: AssetClass
    asset_id: str
    user: str
    groups: frozenset[str]
    created: tuple[Span, ...]
    queue: str = ""


@dataclass(frozen=True, slots=True)
class Revocation:
    """Something that a tenant has taken back.

    Attributes:
        id: Unique among all tenants'.
        author: Who stands behind it.
        restore_time: Since when it is not in force any more; None while it is.
    """

    id: str
    tenant: str
    scope: Scope
    ending: Ending
    reason: str
    author: str
    create_time: datetime
    restore_time: datetime | None = None

    @property
    def told(self) -> str:
        """What status and answers say of it."""
        return f"the tenant has taken it back here, by revocation {self.id}" + (
            f": {self.reason}" if self.reason else ""
        )

    @property
    def in_force(self) -> bool:
        """Whether it holds still."""
        return self.restore_time is None


def subject(
    asset: Asset, key: str, groups: Collection[str], now: datetime, context_hour: str = "", queue: str = ""
) -> Subject:
    """A use of a key for an asset.

    Args:
        asset: The facts.
        key: Id of the key that is used, or :data:`PROVIDER_KEY_ID`.
        groups: Every group that the asset's user is in; the asset's own counts besides.
        now: The present time (UTC): that of content whose time nobody tells.
        context_hour: The hour in which its data key was made, from the encryption context; empty for a new one.
        queue: The call queue, for a call.
    """
    created = [Span.at(asset.create_time)] if asset.create_time else []
    hour = encryption_context.hour_of(context_hour)
    if hour is not None:
        # Whoever leaves a time out, or tells another, gets around nothing that was said about this one.
        created.append(Span(hour, hour + timedelta(hours=1)))
    return Subject(
        key,
        asset.asset_class,
        asset.asset_id,
        asset.user,
        frozenset(groups) | ({asset.group} if asset.group else frozenset()),
        tuple(created) or (Span.at(now),),
        queue,
    )


def revoking(revocations: Iterable[Revocation], use: Subject) -> Revocation | None:
    """The first revocation that a use is within; None when none is."""
    return next((one for one in revocations if one.scope.holds(use)), None)


def of_whole_key(revocations: Iterable[Revocation], key: str) -> Revocation | None:
    """The first revocation that takes back every use of a key; None when none does."""
    return next(
        (
            one
            for one in revocations
            if replace(one.scope, keys=frozenset()).is_everything and (not one.scope.keys or key in one.scope.keys)
        ),
        None,
    )
