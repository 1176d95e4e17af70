"""How tenants, keys, groups, call gates and policies are written: in the tenants file, and in the database as JSON.

Each table checks what it can see alone; what takes more than one table to see is checked in ``tenants_file.py`` and in
``service/administration``.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    model_validator,
)

from ownkey.emergency import COUNTRIES
from ownkey_server.domain.assets import AssetClass, AssetOrigin
from ownkey_server.domain.policy import DEFAULT_RULE, MAX_OUTAGE_GRACE, Effect, Outcome, Policy, Rule, Wrapping
from ownkey_server.domain.tenants import CallDirection, CallGate, GateMode
from ownkey_server.mistakes import told

ID_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
KEY_PREFIX = "key:"
ENROLMENT = "enrolment"


def _require_country(code: str) -> str:
    if code not in COUNTRIES:
        raise ValueError(f"{code!r} is no ISO 3166 country code with known emergency numbers")
    return code


def _require_zone(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("needs a time zone, such as 2026-01-31T00:00:00Z")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("is no time between the years 1 and 9999") from None


def _require_bound(value: object) -> datetime | str | None:
    if value is None or value == ENROLMENT:
        return ENROLMENT if value else None
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        time = None
    if not isinstance(time, datetime):
        raise ValueError("is neither a time such as 2026-01-31T00:00:00Z nor 'enrolment'")  # noqa: TRY004 - pydantic's
    return _require_zone(time)


Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
User = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Digits = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,15}$")]
Country = Annotated[str, AfterValidator(_require_country)]
Time = Annotated[datetime, AfterValidator(_require_zone)]
Bound = Annotated[datetime | str | None, PlainValidator(_require_bound)]
Use = Annotated[str, StringConstraints(pattern=r"^(deny|provider_key|key:[a-z0-9-]{1,63})$")]
DisplayName = Annotated[str, StringConstraints(max_length=256)]


class Table(BaseModel):
    """A table of the file: what it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyPlace(Table):
    """Where a key is."""

    key_store: Annotated[str, StringConstraints(min_length=1)]
    reference: Annotated[str, StringConstraints(min_length=1, max_length=255)]


class KeyTable(KeyPlace):
    """A customer key: its primary place, and others where the same key can be used."""

    id: Id
    replicas: list[KeyPlace] = Field(default=[], max_length=7)
    retired: bool = False


class GroupTable(Table):
    """A group and its users."""

    id: Id
    users: list[User] = []


class RuleTable(Table):
    """A line of a policy."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    use: Use
    asset_classes: list[AssetClass] = []
    users: list[User] = []
    groups: list[Id] = []
    origins: list[AssetOrigin] = []
    created_from: Bound = None
    created_before: Bound = None


class PolicyTable(Table):
    """A policy."""

    default: Use = "deny"
    rules: list[RuleTable] = []
    wrapping: dict[AssetClass, Wrapping] = {}
    outage_grace_seconds: int = Field(default=0, ge=0, le=MAX_OUTAGE_GRACE)

    def to_domain(self, enrolled_at: datetime) -> Policy:
        """The policy as it is evaluated."""
        rules = tuple(_rule(rule, enrolled_at) for rule in self.rules)
        return Policy(rules, _outcome(self.default), self.wrapping, float(self.outage_grace_seconds))

    def to_json(self) -> str:
        """The policy as the database keeps it."""
        return self.model_dump_json(exclude_defaults=True)

    def keys(self) -> dict[str, str]:
        """The ids of the keys that it names, each with the place that names it."""
        uses = [("the default", self.default), *((f"rule {rule.name!r}", rule.use) for rule in reversed(self.rules))]
        return {use.removeprefix(KEY_PREFIX): where for where, use in uses if use.startswith(KEY_PREFIX)}

    def groups(self) -> dict[str, str]:
        """The ids of the groups that it names, each with the rule that names it."""
        return {group: f"rule {rule.name!r}" for rule in reversed(self.rules) for group in rule.groups}

    def mistakes(self, keys: set[str], groups: set[str]) -> list[str]:
        """What is wrong with it for a tenant with these keys and groups."""
        found = [f"{where}: the tenant has no key {key!r}" for key, where in self.keys().items() if key not in keys]
        for rule in self.rules:
            missing = sorted(set(rule.groups) - groups)
            found += [f"rule {rule.name!r}: the tenant has no group {group!r}" for group in missing]
            if rule.name == DEFAULT_RULE:
                found.append(f"rule {rule.name!r}: this name is taken by the default")
        return found + repeated("rules", [rule.name for rule in self.rules])


class CallGateTable(Table):
    """How calls are gated."""

    mode: GateMode = GateMode.OFF
    directions: list[CallDirection] = list(CallDirection)
    countries: list[Country] = []
    emergency_numbers: list[Digits] = []
    outside_line_prefixes: list[Digits] = []

    @model_validator(mode="after")
    def _know_the_emergency_numbers(self) -> Self:
        if self.mode is not GateMode.OFF and not self.countries:
            raise ValueError("name the countries whose emergency numbers must always connect, before calls are gated")
        return self

    def to_domain(self) -> CallGate:
        """The gate as it decides."""
        return CallGate(
            mode=self.mode,
            directions=frozenset(self.directions),
            countries=tuple(self.countries),
            emergency_numbers=frozenset(self.emergency_numbers),
            outside_line_prefixes=tuple(self.outside_line_prefixes),
        )

    def gates_less_than(self, before: CallGateTable) -> bool:
        """Whether some call that was gated before is not, or is gated less."""
        if before.mode is GateMode.OFF:
            return False
        if self.mode is GateMode.OFF or (before.mode is GateMode.REFUSE and self.mode is not GateMode.REFUSE):
            return True
        # What always connects is not gated: more of it is less gating.
        more = (
            set(self.countries) - set(before.countries)
            or set(self.emergency_numbers) - set(before.emergency_numbers)
            or set(self.outside_line_prefixes) - set(before.outside_line_prefixes)
        )
        return bool(more) or not set(before.directions) <= set(self.directions)

    def to_json(self) -> str:
        """The gate as the database keeps it."""
        return self.model_dump_json(exclude_defaults=True)


class TenantTable(Table):
    """A tenant, whole."""

    id: Id
    display_name: DisplayName = ""
    enrolled_at: Time
    keys: list[KeyTable] = []
    groups: list[GroupTable] = []
    policy: PolicyTable = PolicyTable()
    call_gate: CallGateTable = CallGateTable()


class TenantsDocument(Table):
    """A tenants file."""

    provider_key: KeyPlace
    tenants: list[TenantTable] = []


def describe(error: ValidationError, document: type[BaseModel]) -> list[tuple[str, str]]:
    """Each mistake, as its place and what is wrong with what should be such a document."""
    return [(_place(one["loc"]), told(one, document)) for one in error.errors()]


def repeated(what: str, names: list[str]) -> list[str]:
    """A complaint for each name that stands more than once."""
    return [f"{what}: {name!r} stands more than once" for name, count in sorted(Counter(names).items()) if count > 1]


def _place(location: tuple[int | str, ...]) -> str:
    """``tenants[0].keys[1].id``, as one would write it."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _rule(rule: RuleTable, enrolled_at: datetime) -> Rule:
    return Rule(
        name=rule.name,
        outcome=_outcome(rule.use),
        asset_classes=frozenset(rule.asset_classes),
        users=frozenset(rule.users),
        groups=frozenset(rule.groups),
        origins=frozenset(rule.origins),
        created_from=_moment(rule.created_from, enrolled_at),
        created_before=_moment(rule.created_before, enrolled_at),
    )


def _moment(bound: datetime | str | None, enrolled_at: datetime) -> datetime | None:
    return enrolled_at if isinstance(bound, str) else bound


def _outcome(use: str) -> Outcome:
    if use == "deny":
        return Outcome(Effect.DENY)
    if use == "provider_key":
        return Outcome(Effect.PROVIDER_KEY)
    return Outcome(Effect.ALLOW, use.removeprefix(KEY_PREFIX))


def plain(table: Table) -> dict[str, Any]:
    """The table as TOML or JSON has it, without what says nothing."""
    return table.model_dump(mode="json", exclude_defaults=True)
