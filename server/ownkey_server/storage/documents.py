"""How tenants, keys, groups and policies are written: in the tenants file, and in the database as JSON.

Each table checks what it can see alone; what takes more than one table to see is checked in ``tenants_file.py`` and in
``service/administration``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
)

from ownkey_server.domain.assets import AssetClass, AssetOrigin
from ownkey_server.domain.policy import DEFAULT_RULE, MAX_OUTAGE_GRACE, Effect, Outcome, Policy, Rule, Wrapping
from ownkey_server.mistakes import told
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.tables import Id, Table, repeated

KEY_PREFIX = "key:"
ENROLMENT = "enrolment"


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


User = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Time = Annotated[datetime, AfterValidator(_require_zone)]
Bound = Annotated[datetime | str | None, PlainValidator(_require_bound)]
Use = Annotated[str, StringConstraints(pattern=r"^(deny|provider_key|key:[a-z0-9-]{1,63})$")]
DisplayName = Annotated[str, StringConstraints(max_length=256)]


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
