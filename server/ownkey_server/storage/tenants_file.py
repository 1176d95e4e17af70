"""Tenants, keys, groups and policy from one declarative TOML file (docs/tenants-file.md).

Reading is all or nothing: every mistake in the file is reported, each with its place, and no part of a file with a
mistake is ever used.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from ownkey.emergency import COUNTRIES
from ownkey_server.domain.assets import AssetClass, AssetOrigin
from ownkey_server.domain.policy import DEFAULT_RULE, Effect, Outcome, Policy, Rule
from ownkey_server.domain.tenants import (
    PROVIDER_KEY_NAME,
    CallDirection,
    CallGate,
    CustomerKey,
    GateMode,
    Tenant,
)
from ownkey_server.storage.directory import Directory


class TenantsFileError(Exception):
    """The file cannot be used. The message lists every mistake with its place, a line each."""


def _require_country(code: str) -> str:
    if code not in COUNTRIES:
        raise ValueError(f"{code!r} is no ISO 3166 country code with known emergency numbers")
    return code


def _require_zone(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("needs a time zone, such as 2026-01-31T00:00:00Z")
    return time.astimezone(UTC)


Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
User = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Digits = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,15}$")]
Country = Annotated[str, AfterValidator(_require_country)]
Time = Annotated[datetime, AfterValidator(_require_zone)]
Use = Annotated[str, StringConstraints(pattern=r"^(deny|provider_key|key:[a-z0-9-]{1,63})$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _KeyPlace(_Table):
    key_store: Annotated[str, StringConstraints(min_length=1)]
    reference: Annotated[str, StringConstraints(min_length=1, max_length=255)]


class _Key(_KeyPlace):
    id: Id


class _Group(_Table):
    id: Id
    users: list[User] = []


class _Rule(_Table):
    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    use: Use
    asset_classes: list[AssetClass] = []
    users: list[User] = []
    groups: list[Id] = []
    origins: list[AssetOrigin] = []
    created_from: Time | Literal["enrolment"] | None = None
    created_before: Time | Literal["enrolment"] | None = None


class _Policy(_Table):
    default: Use = "deny"
    rules: list[_Rule] = []


class _CallGate(_Table):
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


class _Tenant(_Table):
    id: Id
    enrolled_at: Time
    keys: list[_Key] = []
    groups: list[_Group] = []
    policy: _Policy = _Policy()
    call_gate: _CallGate = _CallGate()


class _File(_Table):
    provider_key: _KeyPlace
    tenants: list[_Tenant] = Field(min_length=1)


def load(path: Path, key_stores: Mapping[str, str]) -> Directory:
    """Read the file.

    Args:
        path: The TOML file.
        key_stores: The key stores of the settings, which keys may refer to: for each name, its kind.

    Raises:
        TenantsFileError: It cannot be read, or it holds mistakes: all of them are listed.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TenantsFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TenantsFileError(f"{path}: is not valid TOML: {error}") from error
    try:
        parsed = _File.model_validate(document)
    except ValidationError as error:
        lines = [f"{path}: {_place(e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise TenantsFileError("\n".join(lines)) from None
    mistakes = list(_mistakes(parsed, key_stores))
    if mistakes:
        raise TenantsFileError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    provider_key = CustomerKey(PROVIDER_KEY_NAME, parsed.provider_key.key_store, parsed.provider_key.reference)
    return Directory({tenant.id: _tenant(tenant) for tenant in parsed.tenants}, provider_key)


def _place(location: tuple[int | str, ...]) -> str:
    """``tenants[0].keys[1].id``, as one would write it."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "the file"


def _mistakes(file: _File, key_stores: Mapping[str, str]) -> list[str]:
    """What no single field shows: names used twice, and names that nothing bears."""
    found = _repeated("tenants", [tenant.id for tenant in file.tenants])
    places = [("provider_key", file.provider_key)]
    for tenant in file.tenants:
        at = f"tenant {tenant.id!r}"
        places += [(f"{at}: key {key.id!r}", key) for key in tenant.keys]
        found += _repeated(f"{at}: keys", [key.id for key in tenant.keys])
        found += _repeated(f"{at}: groups", [group.id for group in tenant.groups])
        found += _repeated(f"{at}: policy.rules", [rule.name for rule in tenant.policy.rules])
        found += _dangling(at, tenant)
    found += [
        f"{at}: key_store {key.key_store!r} is not in the settings, which have: {', '.join(sorted(key_stores))}"
        for at, key in places
        if key.key_store not in key_stores
    ]
    # One key of a store under two names would let one tenant's revocation, or policy, reach another's content.
    taken: dict[tuple[str, str], str] = {}
    for at, key in places:
        other = taken.setdefault((key.key_store, key.reference), at)
        if other != at:
            found.append(f"{at}: is the same key of store {key.key_store!r} as {other}")
    for tenant in file.tenants:
        found += _confusable(tenant, file.provider_key, key_stores)
    return found


def _confusable(tenant: _Tenant, provider_key: _KeyPlace, key_stores: Mapping[str, str]) -> list[str]:
    """Keys of one tenant that a wrapped key could not tell apart: it names the kind of store and the reference."""
    found = []
    taken: dict[tuple[str, str], str] = {(key_stores.get(provider_key.key_store, ""), provider_key.reference): ""}
    for key in tenant.keys:
        other = taken.setdefault((key_stores.get(key.key_store, key.key_store), key.reference), key.id)
        if other != key.id and (other or key.key_store != provider_key.key_store):
            whose = f"key {other!r}" if other else "provider_key"
            found.append(
                f"tenant {tenant.id!r}: key {key.id!r} has the reference of {whose} in another store of the same kind,"
                f" so that a wrapped key would not tell which made it: give one of them another reference"
            )
    return found


def _dangling(at: str, tenant: _Tenant) -> list[str]:
    keys, groups = {key.id for key in tenant.keys}, {group.id for group in tenant.groups}
    found = []
    uses = [("policy.default", tenant.policy.default)]
    uses += [(f"policy rule {rule.name!r}", rule.use) for rule in tenant.policy.rules]
    for where, use in uses:
        key = use.removeprefix("key:")
        if use.startswith("key:") and key not in keys:
            found.append(f"{at}: {where}: the tenant has no key {key!r}")
    for rule in tenant.policy.rules:
        missing = sorted(set(rule.groups) - groups)
        found += [f"{at}: policy rule {rule.name!r}: the tenant has no group {group!r}" for group in missing]
        if rule.name == DEFAULT_RULE:
            found.append(f"{at}: policy rule {rule.name!r}: this name is taken by the default")
    return found


def _repeated(what: str, names: list[str]) -> list[str]:
    return [f"{what}: {name!r} stands more than once" for name in sorted({n for n in names if names.count(n) > 1})]


def _tenant(table: _Tenant) -> Tenant:
    groups_of: dict[str, frozenset[str]] = {}
    for group in table.groups:
        for user in group.users:
            groups_of[user] = groups_of.get(user, frozenset()) | {group.id}
    gate = table.call_gate
    return Tenant(
        id=table.id,
        enrolled_at=table.enrolled_at,
        keys={
            key.id: CustomerKey(f"tenants/{table.id}/keys/{key.id}", key.key_store, key.reference) for key in table.keys
        },
        policy=Policy(
            tuple(_rule(rule, table.enrolled_at) for rule in table.policy.rules), _outcome(table.policy.default)
        ),
        groups=frozenset(group.id for group in table.groups),
        groups_of=groups_of,
        call_gate=CallGate(
            mode=gate.mode,
            directions=frozenset(gate.directions),
            countries=tuple(gate.countries),
            emergency_numbers=frozenset(gate.emergency_numbers),
            outside_line_prefixes=tuple(gate.outside_line_prefixes),
        ),
    )


def _rule(rule: _Rule, enrolled_at: datetime) -> Rule:
    return Rule(
        name=rule.name,
        outcome=_outcome(rule.use),
        asset_classes=frozenset(rule.asset_classes),
        users=frozenset(rule.users),
        groups=frozenset(rule.groups),
        origins=frozenset(rule.origins),
        created_from=enrolled_at if rule.created_from == "enrolment" else rule.created_from,
        created_before=enrolled_at if rule.created_before == "enrolment" else rule.created_before,
    )


def _outcome(use: str) -> Outcome:
    if use == "deny":
        return Outcome(Effect.DENY)
    if use == "provider_key":
        return Outcome(Effect.PROVIDER_KEY)
    return Outcome(Effect.ALLOW, use.removeprefix("key:"))
