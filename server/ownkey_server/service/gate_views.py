"""What a gate beside the caller needs to know in order to decide as this service would: a tenant's rules, and its keys.

Of the policy and of revocations a view has what they say about calls that are set up now, so that its holder needs no
clock; it is made anew when time changes that. Of users it has those that anything tells apart, by their groups.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from ownkey.gate.rules import KeySight
from ownkey_server.domain.assets import AssetClass, AssetOrigin
from ownkey_server.domain.call_gates import CallGate
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.domain.policy import DEFAULT_RULE, Effect, Outcome
from ownkey_server.domain.tenants import CustomerKey, Tenant, tenant_of
from ownkey_server.service.call_gate import CallGateKeeper
from ownkey_server.service.directory import Directory
from ownkey_server.service.status_board import StatusBoard

MAX_MEMBERS = 100_000
"""Users in groups that rules name; a view of more is too large to be kept in many places."""
MAX_VIEWS = 1000


@dataclass(frozen=True, slots=True)
class PolicyLine:
    """A line of the policy that is in force for calls; the first that matches decides. No key: it denies."""

    name: str
    key: str
    asset_classes: frozenset[AssetClass]
    users: frozenset[str]
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class RevocationLine:
    """What the tenant has taken back of calls; conditions as of a revocation's scope, keys by name."""

    told: str
    keys: frozenset[str]
    groups: frozenset[str]
    users: frozenset[str]
    asset_classes: frozenset[AssetClass]
    call_ids: frozenset[str]
    queues: frozenset[str]


@dataclass(frozen=True, slots=True)
class GateView:
    """What decides about a tenant's calls, but for the states of its keys.

    Attributes:
        groups: Ids of all groups.
        members: Users in groups that anything names, each with these.
        keys: All that may be needed.
        until: When time changes it; None when it does not.
    """

    tenant: str
    gate: CallGate
    policy: tuple[PolicyLine, ...]
    revocations: tuple[RevocationLine, ...]
    groups: frozenset[str]
    members: tuple[tuple[str, frozenset[str]], ...]
    keys: tuple[CustomerKey, ...]
    until: datetime | None


def view_of(tenant: Tenant, provider_key: CustomerKey, now: datetime) -> GateView:
    """The view of a tenant, for calls from now on.

    Raises:
        InvalidRequest: It is too large.
    """
    bounds: set[datetime] = set()

    def holds(since: datetime | None, before: datetime | None) -> bool:
        bounds.update(one for one in (since, before) if one is not None and one > now)
        return (since is None or now >= since) and (before is None or now < before)

    def named(outcome: Outcome) -> str:
        if outcome.effect is Effect.PROVIDER_KEY:
            return provider_key.name
        return f"tenants/{tenant.id}/keys/{outcome.key}" if outcome.effect is Effect.ALLOW else ""

    policy = [
        PolicyLine(rule.name, named(rule.outcome), rule.asset_classes, rule.users, rule.groups)
        for rule in tenant.policy.rules
        if holds(rule.created_from, rule.created_before) and (not rule.origins or AssetOrigin.CREATED in rule.origins)
    ]
    policy.append(PolicyLine(DEFAULT_RULE, named(tenant.policy.default), frozenset(), frozenset(), frozenset()))
    names = {key.id: key.name for key in (*tenant.keys.values(), provider_key)}
    revocations = []
    for one in tenant.revocations:
        scope = one.scope
        if holds(scope.created_from, scope.created_before):
            keys = frozenset(names.get(key, f"tenants/{tenant.id}/keys/{key}") for key in scope.keys)
            revocations.append(
                RevocationLine(
                    one.told, keys, scope.groups, scope.users, scope.asset_classes, scope.asset_ids, scope.queues
                )
            )
    told_apart: frozenset[str] = frozenset().union(
        *(line.groups for line in policy),
        *(line.groups for line in revocations),
        *(rule.groups for rule in tenant.call_gate.rules),
    )
    members = {user: groups & told_apart for user, groups in tenant.groups_of.items() if groups & told_apart}
    if len(members) > MAX_MEMBERS:
        raise InvalidRequest("tenant", f"has rules that tell {len(members)} users apart: ask AuthorizeCall instead")
    return GateView(
        tenant.id,
        tenant.call_gate,
        tuple(policy),
        tuple(revocations),
        tenant.groups,
        tuple(sorted(members.items())),
        (*tenant.keys.values(), provider_key),
        min(bounds, default=None),
    )


class GateViews:
    """The views of tenants, and news of them. Belongs to one event loop."""

    def __init__(self, directory: Directory, keeper: CallGateKeeper, board: StatusBoard, clock: Clock) -> None:
        self._directory = directory
        self._keeper = keeper
        self._clock = clock
        self._views: dict[str, tuple[Tenant, CustomerKey, GateView]] = {}
        self._listening: dict[str, set[asyncio.Event]] = {}
        self.closed = False
        board.on_change(lambda key_name, _: self._news_of_key(key_name))
        directory.on_change(self._news)

    @contextlib.contextmanager
    def listening(self, tenant: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something of the tenant may have changed, or all ends."""
        news = asyncio.Event()
        self._listening.setdefault(tenant, set()).add(news)
        try:
            yield news
        finally:
            listening = self._listening[tenant]
            listening.discard(news)
            if not listening:
                del self._listening[tenant]
                self._views.pop(tenant, None)

    async def of(self, tenant_id: str) -> tuple[GateView, tuple[KeySight, ...]]:
        """The view, and what is known of each of its keys.

        Raises:
            TenantNotFound: There is no such tenant.
            ServiceImpaired: It was never known here, and the database does not answer.
            InvalidRequest: It is too large.
        """
        tenant, doubt = await self._keeper.tenant(tenant_id)
        provider, now = self._directory.provider_key, self._clock()
        kept = self._views.get(tenant_id)
        stale = kept is None or kept[0] is not tenant or kept[1] is not provider
        if kept is None or stale or (kept[2].until is not None and now >= kept[2].until):
            kept = (tenant, provider, view_of(tenant, provider, now))
            if len(self._views) < MAX_VIEWS:
                self._views[tenant_id] = kept
        view = kept[2]
        self._keeper.look(view.keys)
        return view, tuple(self._keeper.sight(key, now, doubt) for key in view.keys)

    async def pulse(self, tenant_id: str) -> object:
        """Something that is another whenever a decision may be, but for a grace that ends; errors as of :meth:`of`."""
        tenant, doubt = await self._keeper.tenant(tenant_id)
        keys, now = [*tenant.keys.values(), self._directory.provider_key], self._clock()
        self._keeper.look(keys)
        sights = [self._keeper.sight(key, now, doubt) for key in keys]
        return tenant, [(key.name, key.state, key.taken) for key in sights]

    def close(self) -> None:
        """Let all end who listen."""
        self.closed = True
        self._news(None)

    def _news_of_key(self, key_name: str) -> None:
        tenant = tenant_of(key_name)
        self._news((tenant,) if tenant else None)

    def _news(self, tenants: Collection[str] | None) -> None:
        for tenant in list(self._listening) if tenants is None else tenants:
            for news in self._listening.get(tenant, ()):
                news.set()
