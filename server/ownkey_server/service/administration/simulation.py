"""What would change if another version of a policy were in force: asked of given facts, or of what was done lately."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ownkey_server.domain import policy as policies
from ownkey_server.domain.assets import Asset, AssetClass, AssetOrigin
from ownkey_server.domain.audit import Action
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.domain.policy import Decision, Effect, Policy
from ownkey_server.domain.tenants import Tenant
from ownkey_server.service.administration.audit_trail import AuditTrail
from ownkey_server.service.administration.desk import Desk
from ownkey_server.service.administration.policies import Policies
from ownkey_server.storage.documents import PolicyTable

MAX_SAMPLES = 100
MAX_RECORDS = 1_000_000
PAGE = 1000
_PROTECTING = (Action.GENERATE_DATA_KEY, Action.ENCRYPT_MEDIA)


@dataclass(frozen=True, slots=True)
class Transition:
    """How many assets are decided about in one way now, and would be in another: ``allow key main``, ``deny``."""

    before: str
    after: str
    count: int


@dataclass(frozen=True, slots=True)
class Sample:
    """An asset about which the two versions differ, and the rules by which they do."""

    asset: Asset
    before: str
    before_rule: str
    after: str
    after_rule: str


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """What would change.

    Attributes:
        total: How many assets were asked about.
        changed: How many of them would be decided about in another way.
        transitions: From what to what, the most frequent first.
        samples: At most 100 of those that would.
    """

    total: int
    changed: int
    transitions: tuple[Transition, ...]
    samples: tuple[Sample, ...]


class Simulation:
    """Compares the policy in force with another."""

    def __init__(self, desk: Desk, trail: AuditTrail) -> None:
        self._desk = desk
        self._policies = Policies(desk)
        self._trail = trail

    async def of_assets(
        self, tenant: str, policy: PolicyTable | None, number: int, assets: Sequence[Asset]
    ) -> SimulationReport:
        """Ask both versions about these assets.

        Args:
            tenant: Whose policy it is.
            policy: The other version; None takes the one of that number.
            number: See ``policy``.
            assets: The facts.

        Raises:
            TenantNotFound: There is no such tenant.
            ResourceNotFound: There is no version of that number.
            InvalidRequest: An asset is another tenant's.
        """
        owner = await self._desk.directory.tenant(tenant)
        foreign = [asset.tenant for asset in assets if asset.tenant != tenant]
        if foreign:
            raise InvalidRequest("assets", f"an asset is of tenant {foreign[0]!r}, and the policy of {tenant!r}")
        other = await self._other(owner, policy, number)
        now = self._desk.clock()
        return await self._desk.on_thread(lambda: _compare(owner, other, ((asset, now) for asset in assets)))

    async def of_history(
        self, tenant: str, policy: PolicyTable | None, number: int, since: timedelta
    ) -> SimulationReport:
        """Ask both versions about everything that was to be protected since then, as the audit trail has it.

        A million records from then on are looked at, at most. Groups are those of today.

        Raises:
            TenantNotFound: There is no such tenant.
            ResourceNotFound: There is no version of that number.
        """
        owner = await self._desk.directory.tenant(tenant)
        other = await self._other(owner, policy, number)
        start = self._desk.clock() - since
        seen: list[tuple[Asset, datetime]] = []
        after = None
        for _ in range(MAX_RECORDS // PAGE):
            rows = await self._trail.list(tenant, start, None, after, PAGE)
            seen += _protected(tenant, (row.body for row in rows))
            if len(rows) < PAGE:
                break
            after = rows[-1].cursor
        return await self._desk.on_thread(lambda: _compare(owner, other, seen))

    async def _other(self, owner: Tenant, policy: PolicyTable | None, number: int) -> Policy:
        table = policy or (await self._policies.get(owner.id, number)).policy
        return table.to_domain(owner.enrolled_at)


def _protected(tenant: str, bodies: Iterable[bytes]) -> Iterator[tuple[Asset, datetime]]:
    for body in bodies:
        try:
            fields = json.loads(body)
            if fields["action"] in _PROTECTING and "asset" in fields:
                yield _asset(tenant, fields["asset"]), datetime.fromisoformat(fields["time"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # whoever tampered with it, `ownkey audit verify` tells


def _asset(tenant: str, facts: dict[str, Any]) -> Asset:
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


def _compare(owner: Tenant, other: Policy, assets: Iterable[tuple[Asset, datetime]]) -> SimulationReport:
    total = 0
    transitions: Counter[tuple[str, str]] = Counter()
    samples: list[Sample] = []
    for asset, at in assets:
        total += 1
        groups = owner.groups_of.get(asset.user, frozenset())
        before = policies.evaluate(owner.policy, asset, groups, at)
        after = policies.evaluate(other, asset, groups, at)
        if before.outcome != after.outcome:
            transitions[_said(before), _said(after)] += 1
            if len(samples) < MAX_SAMPLES:
                samples.append(Sample(asset, _said(before), before.rule, _said(after), after.rule))
    ordered = tuple(Transition(before, after, count) for (before, after), count in transitions.most_common())
    return SimulationReport(total, sum(transitions.values()), ordered, tuple(samples))


def _said(decision: Decision) -> str:
    outcome = decision.outcome
    return f"allow key {outcome.key}" if outcome.effect is Effect.ALLOW else outcome.effect.value
