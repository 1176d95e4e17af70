"""A tenant's gate as a whole: which keys a call needs, what was taken back, and what the rules say of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ownkey import emergency
from ownkey.gate.rules import (
    ALLOW,
    ALLOW_NO_RECORDING,
    SIP_SERVICE_UNAVAILABLE,
    Facts,
    Gate,
    KeySight,
    decide,
)

NO_GROUPS: frozenset[str] = frozenset()


class UnknownGroup(ValueError):
    """The call names a group that the tenant does not have."""


@dataclass(frozen=True, slots=True)
class Call:
    """The facts about a call."""

    call_id: str
    callee: str
    caller: str = ""
    direction: str = ""
    user: str = ""
    group: str = ""
    stores: tuple[str, ...] = ()
    site: str = ""
    queue: str = ""


@dataclass(frozen=True, slots=True)
class PolicyLine:
    """A line of the policy for calls; no key: it denies. An empty condition always holds."""

    name: str
    key: str
    asset_classes: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def holds(self, asset_class: str, user: str, groups: frozenset[str]) -> bool:
        """Whether it is about that content; being one of the users, or in one of the groups, is enough."""
        if self.asset_classes and asset_class not in self.asset_classes:
            return False
        anyone = not (self.users or self.groups)
        return anyone or user in self.users or not self.groups.isdisjoint(groups)


@dataclass(frozen=True, slots=True)
class Revocation:
    """What the tenant has taken back of calls. An empty condition always holds."""

    told: str
    keys: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    asset_classes: frozenset[str] = frozenset()
    call_ids: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()

    def holds(self, call: Call, asset_class: str, key: str, groups: frozenset[str]) -> bool:
        """Whether it is about that use of a key."""
        return (
            (not self.keys or key in self.keys)
            and (not self.groups or not self.groups.isdisjoint(groups))
            and (not self.users or call.user in self.users)
            and (not self.asset_classes or asset_class in self.asset_classes)
            and (not self.call_ids or call.call_id in self.call_ids)
            and (not self.queues or call.queue in self.queues)
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What is done with a call; names as of ``CallAuthorization``."""

    decision: str
    reason: str
    explanation: str
    sip_status: int = 0
    key: str = ""
    age: float | None = None
    rule: str = ""
    emergency: bool = False

    @property
    def outage(self) -> bool:
        """Whether trying again may help."""
        return self.sip_status == SIP_SERVICE_UNAVAILABLE


EMERGENCY = Answer(ALLOW, "emergency", "emergency calls always connect", emergency=True)


@dataclass(frozen=True, slots=True)
class View:
    """All that decides, but for the states of keys.

    Attributes:
        members: Users in groups that anything names, each with these.
    """

    gate: Gate
    policy: tuple[PolicyLine, ...]
    revocations: tuple[Revocation, ...] = ()
    groups: frozenset[str] = frozenset()
    members: Mapping[str, frozenset[str]] = field(default_factory=dict)
    emergency_numbers: frozenset[str] = frozenset()
    retry_after: float = 30.0

    def is_emergency(self, callee: str) -> bool:
        """Whether a call goes to an emergency service, by the tenant's countries and numbers."""
        return emergency.is_emergency(
            callee,
            self.gate.countries,
            own_numbers=self.emergency_numbers,
            outside_line_prefixes=self.gate.outside_line_prefixes,
        )

    def decide(self, call: Call, keys: Mapping[str, KeySight], elapsed: float = 0.0) -> Answer:
        """Decide about a call.

        Args:
            call: The facts.
            keys: What was known of each key, by name.
            elapsed: How many seconds ago that was told.

        Raises:
            UnknownGroup: The call names a group that the tenant does not have, and is no emergency call.
        """
        if self.is_emergency(call.callee):
            return EMERGENCY
        if not call.stores:
            return Answer(ALLOW, "nothing_stored", "nothing of the call will be stored")
        if call.group and call.group not in self.groups:
            raise UnknownGroup(f"there is no group {call.group!r}")
        groups = self.members.get(call.user, NO_GROUPS)
        if call.group:
            groups |= {call.group}
        sights = []
        for asset_class in call.stores:
            line = next(one for one in self.policy if one.holds(asset_class, call.user, groups))
            if not line.key:
                explanation = f"policy rule {line.name!r} denies to store a {asset_class}"
                return Answer(ALLOW_NO_RECORDING, "policy_denied", explanation)
            taken = next((one for one in self.revocations if one.holds(call, asset_class, line.key, groups)), None)
            if taken is not None:
                sights.append(KeySight(line.key, "revoked", taken.told, 0.0))
            else:
                sights.append(_later(keys.get(line.key), line.key, elapsed))
        facts = Facts(call.caller, call.callee, call.direction, call.site, call.queue, groups, call.stores)
        verdict = decide(self.gate.rule_for(facts), sights)
        return Answer(
            verdict.decision,
            verdict.reason,
            verdict.explanation,
            verdict.sip_status,
            verdict.key.name,
            verdict.key.age,
            verdict.rule,
        )


def _later(sight: KeySight | None, name: str, elapsed: float) -> KeySight:
    if sight is None:
        return KeySight(name, "unknown", "it was not asked yet")
    if sight.age is None and sight.worked is None:
        return sight
    age = None if sight.age is None else sight.age + elapsed
    return replace(sight, age=age, worked=None if sight.worked is None else sight.worked + elapsed)
