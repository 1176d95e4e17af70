"""How a call gate is written, and whether one gates less than another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from ownkey.emergency import COUNTRIES
from ownkey.gate import Numbers
from ownkey.gate.rules import DEFAULT
from ownkey_server.domain.assets import AssetClass
from ownkey_server.domain.call_gates import MAX_GRACE, CallDirection, CallGate, Choices, GateMode, GateRule
from ownkey_server.storage.tables import Id, Table, repeated


def _require_country(code: str) -> str:
    if code not in COUNTRIES:
        raise ValueError(f"{code!r} is no ISO 3166 country code with known emergency numbers")
    return code


Country = Annotated[str, AfterValidator(_require_country)]
Digits = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,15}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Grace = Annotated[int, Field(ge=0, le=MAX_GRACE)]
STATES = ("revoked", "unreachable", "unknown", "misconfigured")


class ChoicesTable(Table):
    """What happens while a key is not usable; a state of which nothing is said is as the mode."""

    mode: GateMode = GateMode.ALLOW
    revoked: GateMode | None = None
    unreachable: GateMode | None = None
    unknown: GateMode | None = None
    misconfigured: GateMode | None = None
    grace_seconds: Grace = 0

    def choices(self) -> Choices:
        """The choices as they decide."""
        return Choices(self.mode, self.revoked, self.unreachable, self.unknown, self.misconfigured, self.grace_seconds)

    def strictness(self) -> tuple[int, ...]:
        """How strict it is in each state, and how little grace it gives; more is stricter."""
        modes = [getattr(self, state) or self.mode for state in STATES]
        return (*(mode.strictness for mode in modes), -self.grace_seconds)

    @property
    def allows_all(self) -> bool:
        """Whether it lets every call through."""
        return not any(self.strictness()[:-1])


class GateRuleTable(ChoicesTable):
    """A line of a call gate."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    sites: list[Name] = []
    queues: list[Name] = []
    callers: list[str] = []
    callees: list[str] = []
    directions: list[CallDirection] = []
    groups: list[Id] = []
    stores: list[AssetClass] = []

    @field_validator("callers", "callees")
    @classmethod
    def _are_ranges(cls, ranges: list[str]) -> list[str]:
        Numbers.of(ranges)
        return ranges

    def to_domain(self) -> GateRule:
        """The rule as it decides."""
        return GateRule(
            self.name,
            self.choices(),
            sites=frozenset(self.sites),
            queues=frozenset(self.queues),
            callers=tuple(self.callers),
            callees=tuple(self.callees),
            directions=frozenset(self.directions),
            groups=frozenset(self.groups),
            stores=frozenset(self.stores),
        )

    def conditions(self) -> GateRuleTable:
        """The same rule without its choices."""
        return self.model_copy(update={**dict.fromkeys(STATES), "mode": GateMode.ALLOW, "grace_seconds": 0})


class CallGateTable(ChoicesTable):
    """How calls are gated: rules in order, and what decides when none matches."""

    directions: list[CallDirection] = list(CallDirection)
    countries: list[Country] = []
    emergency_numbers: list[Digits] = []
    outside_line_prefixes: list[Digits] = []
    rules: list[GateRuleTable] = Field(default=[], max_length=100)

    @model_validator(mode="after")
    def _know_the_emergency_numbers(self) -> Self:
        if not self.countries and not self.gates_nothing:
            raise ValueError("name the countries whose emergency numbers must always connect, before calls are gated")
        found = repeated("rules", [rule.name for rule in self.rules])
        if any(rule.name == DEFAULT for rule in self.rules):
            found.append(f"rule {DEFAULT!r}: this name is taken by what decides when no rule matches")
        if found:
            raise ValueError("; ".join(found))
        return self

    def to_domain(self) -> CallGate:
        """The gate as it decides."""
        return CallGate(
            mode=self.mode,
            directions=frozenset(self.directions),
            countries=tuple(self.countries),
            emergency_numbers=frozenset(self.emergency_numbers),
            outside_line_prefixes=tuple(self.outside_line_prefixes),
            choices=self.choices(),
            rules=tuple(rule.to_domain() for rule in self.rules),
        )

    @property
    def gates_nothing(self) -> bool:
        """Whether it and each of its rules let every call through."""
        return self.allows_all and all(rule.allows_all for rule in self.rules)

    def groups(self) -> dict[str, str]:
        """The ids of the groups that it names, each with the rule that names it."""
        return {group: f"rule {rule.name!r} of the call gate" for rule in reversed(self.rules) for group in rule.groups}

    def mistakes(self, groups: set[str]) -> list[str]:
        """What is wrong with it for a tenant with these groups."""
        return [
            f"{where}: the tenant has no group {one!r}" for one, where in self.groups().items() if one not in groups
        ]

    def gates_less_than(self, before: CallGateTable) -> bool:
        """Whether some call that was gated before is not, or may be gated less."""
        if before.gates_nothing:
            return False
        # What always connects is not gated: more of it is less gating.
        more = (
            set(self.countries) - set(before.countries)
            or set(self.emergency_numbers) - set(before.emergency_numbers)
            or set(self.outside_line_prefixes) - set(before.outside_line_prefixes)
        )
        if more or not set(before.directions) <= set(self.directions) or _laxer(self, before):
            return True
        return _rules_gate_less(self.rules, before.rules)

    def to_json(self) -> str:
        """The gate as the database keeps it."""
        return self.model_dump_json(exclude_defaults=True)


def _laxer(after: ChoicesTable, before: ChoicesTable) -> bool:
    return any(new < old for new, old in zip(after.strictness(), before.strictness(), strict=True))


def _rules_gate_less(after: Sequence[GateRuleTable], before: Sequence[GateRuleTable]) -> bool:
    """In doubt, yes: which calls two lists of rules tell apart is not worked out here.

    Not less gate: the same rules in the same order, each at least as strict, with new ones between them that refuse
    whatever is not usable.
    """
    left = list(before)
    for rule in after:
        if left and rule.conditions() == left[0].conditions():
            if _laxer(rule, left.pop(0)):
                return True
        elif min(rule.strictness()[:-1]) < GateMode.REFUSE.strictness or rule.grace_seconds:
            return True
    return bool(left)
