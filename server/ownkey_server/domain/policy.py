"""Policy: which key protects an asset. A pure and total function from facts to a decision.

Rules are tried in order and the first that matches decides; when none does, the policy's default decides. A rule's
conditions must all hold, and an empty condition always holds. The decision is one of three things: a customer key, the
provider's key, or no. There is no fallback: what the decision names is what is used, or the call fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ownkey_server.domain.assets import Asset, AssetClass, AssetOrigin

DEFAULT_RULE = "default"
MAX_OUTAGE_GRACE = 900
"""Seconds: longer than this no outage is bridged, whatever a policy says."""


class Effect(StrEnum):
    """What a rule does with the assets that it matches."""

    ALLOW = "allow"
    DENY = "deny"
    PROVIDER_KEY = "provider_key"


class Wrapping(StrEnum):
    """How a data key is wrapped under the key that serves.

    ``DIRECT``: the key store wraps each data key, so that the object opens with the customer's key alone. ``BRANCH``:
    the key store wraps a branch key, and that wraps data keys by the thousand.
    """

    DIRECT = "direct"
    BRANCH = "branch"


DEFAULT_WRAPPING: Mapping[AssetClass, Wrapping] = {
    AssetClass.CALENDAR_TOKEN_ROOMS: Wrapping.BRANCH,
    AssetClass.CALENDAR_TOKEN_USER: Wrapping.BRANCH,
    AssetClass.TEAMS_TOKEN: Wrapping.BRANCH,
    AssetClass.TEAM_CHAT: Wrapping.BRANCH,
    AssetClass.MEETING_CHAT: Wrapping.BRANCH,
    AssetClass.PHONE_VOICEMAIL: Wrapping.BRANCH,
}
"""How classes are wrapped of which a policy says nothing: those that are many and small by branch keys, all others
directly."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule, or the default, decides.

    Attributes:
        effect: Allow, deny, or leave to the provider's key.
        key: Id of the customer key; exactly for ``ALLOW``.
    """

    effect: Effect
    key: str = ""

    def __post_init__(self) -> None:
        if (self.effect is Effect.ALLOW) != bool(self.key):
            raise ValueError("an outcome names a customer key exactly when it allows")


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a policy.

    Attributes:
        name: Unique within the policy; answers and audit name it.
        outcome: What it decides.
        asset_classes: The classes it is about; empty means all.
        users: With ``groups``, whose content it is about; both empty means everyone's.
        groups: See ``users``: being in one of the groups, or being one of the users, is enough.
        origins: The origins it is about; empty means all.
        created_from: Only content created at this time or later.
        created_before: Only content created earlier than this time.
    """

    name: str
    outcome: Outcome
    asset_classes: frozenset[AssetClass] = frozenset()
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    origins: frozenset[AssetOrigin] = frozenset()
    created_from: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one tenant, in order, and what decides when none matches.

    Attributes:
        wrapping: How each class is wrapped, where it is not as in :data:`DEFAULT_WRAPPING`.
        outage_grace: Seconds for which a branch key may serve beyond its lease while the key store does not answer.
    """

    rules: tuple[Rule, ...]
    default: Outcome
    wrapping: Mapping[AssetClass, Wrapping] = field(default_factory=dict)
    outage_grace: float = 0.0

    def wrapping_of(self, asset_class: AssetClass) -> Wrapping:
        """How new data keys for the class are wrapped; what was wrapped otherwise opens all the same."""
        return self.wrapping.get(asset_class) or DEFAULT_WRAPPING.get(asset_class, Wrapping.DIRECT)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy says of an asset.

    Attributes:
        outcome: Allow under a key, deny, or the provider's key.
        rule: Name of the rule that decided, or ``default``.
        group: The group through which the rule matched, if it did through one; else empty.
        wrapping: How a new data key is wrapped.
    """

    outcome: Outcome
    rule: str
    group: str = ""
    wrapping: Wrapping = Wrapping.DIRECT


def evaluate(policy: Policy, asset: Asset, groups: frozenset[str], now: datetime) -> Decision:
    """Decide about an asset.

    Args:
        policy: The tenant's policy.
        asset: The facts.
        groups: Every group that the asset's user is in; the asset's own ``group`` counts besides.
        now: The present time (UTC), for assets without a creation time.
    """
    created = asset.create_time or now
    for rule in policy.rules:
        if rule.asset_classes and asset.asset_class not in rule.asset_classes:
            continue
        if rule.origins and asset.origin not in rule.origins:
            continue
        if rule.created_from is not None and created < rule.created_from:
            continue
        if rule.created_before is not None and created >= rule.created_before:
            continue
        group = _matching_group(rule, asset, groups)
        if group or asset.user in rule.users or not (rule.users or rule.groups):
            return Decision(rule.outcome, rule.name, group, policy.wrapping_of(asset.asset_class))
    return Decision(policy.default, DEFAULT_RULE, wrapping=policy.wrapping_of(asset.asset_class))


def _matching_group(rule: Rule, asset: Asset, groups: frozenset[str]) -> str:
    if asset.group in rule.groups:
        return asset.group
    # Sorted, so that a user in two of the rule's groups gets the same context every time.
    return min(rule.groups & groups, default="")


def explain(decision: Decision, asset: Asset) -> str:
    """One sentence for people: what was decided about the asset, and why."""
    what = f"{asset.asset_class} ({asset.origin})"
    if asset.user:
        what += f" of {asset.user}"
    if decision.rule == DEFAULT_RULE:
        where = "no rule matches, so the default decides"
    else:
        where = f"rule {decision.rule!r} matches"
    if decision.group:
        where += f" through group {decision.group!r}"
    how = "through a branch key" if decision.wrapping is Wrapping.BRANCH else "directly"
    match decision.outcome.effect:
        case Effect.ALLOW:
            then = f"key {decision.outcome.key!r} protects it, {how}"
        case Effect.PROVIDER_KEY:
            then = f"it is left to the provider's key, {how}"
        case Effect.DENY:
            then = "it is denied"
    return f"{what}: {where}: {then}"
