"""Which rule of a gate is about a call, and what it says while a key is in some state.

Rules are tried in order and the first that matches decides; the last is the default, which matches every call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ownkey.gate.numbers import ANYBODY, Numbers, spellings

ALLOW: Final = "allow"
ALLOW_NO_RECORDING: Final = "allow_no_recording"
REFUSE: Final = "refuse"
STRICTNESS: Final = (ALLOW, ALLOW_NO_RECORDING, REFUSE)
"""The decisions, the strictest last."""
DEFAULT: Final = "default"
"""Name of the rule that decides when no other matches."""
USABLE: Final = frozenset({"available", "degraded"})
# Of states between which the decision is the same, the one that is told; a revocation is the customer's word.
_WORST_FIRST: Final = ("revoked", "misconfigured", "unreachable", "unknown", "degraded", "available")
# RFC 3261: 403 tells the caller's side that the server understood and will not, 503 that trying again may help.
SIP_FORBIDDEN: Final = 403
SIP_SERVICE_UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True)
class Choices:
    """What to do in each state in which a key is not usable.

    Attributes:
        grace: Seconds after the key was last seen working during which ``unreachable`` and ``unknown`` count for
            nothing.
    """

    revoked: str = ALLOW
    unreachable: str = ALLOW
    unknown: str = ALLOW
    misconfigured: str = ALLOW
    grace: float = 0.0

    def of(self, state: str) -> str:
        """The choice for a state that is not usable."""
        choice: str = getattr(self, state)
        return choice


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of a gate. All conditions must hold; one that is empty always holds."""

    name: str
    choices: Choices
    sites: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    callers: Numbers = ANYBODY
    callees: Numbers = ANYBODY
    directions: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    stores: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Gate:
    """A tenant's gate; the last of its rules is the default."""

    rules: tuple[Rule, ...] = (Rule(DEFAULT, Choices()),)
    countries: tuple[str, ...] = ()
    outside_line_prefixes: tuple[str, ...] = ()

    def rule_for(self, call: Facts) -> Rule:
        """The rule that decides about a call."""
        return next(rule for rule in self.rules if self._holds(rule, call))

    def _holds(self, rule: Rule, call: Facts) -> bool:
        return (
            (not rule.sites or call.site in rule.sites)
            and (not rule.queues or call.queue in rule.queues)
            and (not rule.directions or call.direction in rule.directions)
            and (not rule.groups or not rule.groups.isdisjoint(call.groups))
            and (not rule.stores or not rule.stores.isdisjoint(call.stores))
            and (not rule.callers or rule.callers.holds(self._spelled(call.caller)))
            and (not rule.callees or rule.callees.holds(self._spelled(call.callee)))
        )

    def _spelled(self, number: str) -> frozenset[str]:
        return spellings(number, self.countries, self.outside_line_prefixes)


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules look at. ``groups``: the one that the call names, and those that its user is in."""

    caller: str = ""
    callee: str = ""
    direction: str = ""
    site: str = ""
    queue: str = ""
    groups: frozenset[str] = frozenset()
    stores: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeySight:
    """What is known of a key that a call needs.

    Attributes:
        name: The key's.
        cause: Why it is in that state; may be empty.
        age: Seconds since that was seen; None when nothing was ever seen.
        worked: Seconds since it was last seen working; None when it never was.
        taken: Whether its holder had taken it away when it last answered, so that an outage is no way around that.
    """

    name: str
    state: str
    cause: str = ""
    age: float | None = None
    worked: float | None = None
    taken: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is done with a call, by which rule, and because of which key.

    Attributes:
        reason: ``key_available``, ``gating_off``, ``grace``, or ``key_`` and the state.
        sip_status: For ``refuse``; else 0.
        grace_left: Seconds for which a grace still lasts that this rests on; None when it rests on none.
    """

    decision: str
    reason: str
    rule: str
    key: KeySight
    sip_status: int = 0
    grace_left: float | None = None

    @property
    def explanation(self) -> str:
        """In one sentence."""
        text = f"key {self.key.name} is {self.key.state}" + (f": {self.key.cause}" if self.key.cause else "")
        if self.reason == "gating_off":
            text += f"; the tenant lets this call through, by rule {self.rule!r} of its call gate"
        if self.reason == "grace" and self.grace_left is not None:
            text += f"; it worked {self.key.worked or 0:.0f} s ago, and the grace lasts {self.grace_left:.0f} s more"
        return text


def decide(rule: Rule, keys: Iterable[KeySight]) -> Verdict:
    """What a rule says of a call that needs these keys; at least one. The strictest decision counts."""
    return max(
        (_about(rule, key) for key in keys),
        key=lambda one: (STRICTNESS.index(one.decision), -_WORST_FIRST.index(one.key.state)),
    )


def _about(rule: Rule, key: KeySight) -> Verdict:
    if key.state in USABLE:
        return Verdict(ALLOW, "key_available", rule.name, key)
    choices = rule.choices
    if key.state in ("unreachable", "unknown") and not key.taken and key.worked is not None:
        left = choices.grace - key.worked
        if left > 0:
            return Verdict(ALLOW, "grace", rule.name, key, grace_left=left)
    decision = choices.of(key.state)
    if key.taken:
        # Whoever took the key away and then unplugged it has not allowed anything by that.
        decision = max(decision, choices.revoked, key=STRICTNESS.index)
    if decision == ALLOW:
        return Verdict(ALLOW, "gating_off", rule.name, key)
    if decision == ALLOW_NO_RECORDING:
        return Verdict(decision, f"key_{key.state}", rule.name, key)
    status = SIP_FORBIDDEN if key.state == "revoked" else SIP_SERVICE_UNAVAILABLE
    return Verdict(decision, f"key_{key.state}", rule.name, key, status)
