"""Policy versions: added, looked at, put in force, and tried out."""

from __future__ import annotations

import json
import tomllib
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from ownkey.cli.admin_options import change_options, document_option, etag_option, one_line, read_text, show, show_all
from ownkey.cli.main import Group, Shared, shared_options
from ownkey.cli.messages import enum_name, enum_number, names_of, values
from ownkey.cli.options import tenant_option
from ownkey.models import Asset
from ownkey.v1 import asset_pb2, policy_pb2

_ENUMS = {"asset_classes": asset_pb2.AssetClass.DESCRIPTOR, "origins": asset_pb2.AssetOrigin.DESCRIPTOR}
_RULE_FIELDS = {field.name for field in policy_pb2.PolicyRule.DESCRIPTOR.fields}
_LISTS = {field.name for field in policy_pb2.PolicyRule.DESCRIPTOR.fields if field.is_repeated}
_TIMES = ("created_from", "created_before")


class _VersionNumber(click.ParamType[int]):
    name = "integer"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**31):
            self.fail(f"{text[:40]!r} is not the number of a version, such as 3; `policy list` shows them", param, ctx)
        return int(text)


_NUMBER = _VersionNumber()
MAX_DAYS = 3660
MAX_GRACE = 900
_FACTS = {"class", "id", "origin", "user", "group", "create_time"}


@click.group(cls=Group, no_args_is_help=True)
def policy() -> None:
    """Policies as numbered versions, of which one is in force."""


def read_policy(source: Path) -> policy_pb2.Policy:
    """A policy in TOML, as the tenants file has it below [tenants.policy]: ``default``, ``[[rules]]``, ``wrapping``.

    Raises:
        click.UsageError: It is none; the message says where.
    """
    try:
        document = tomllib.loads(read_text(source))
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(f"{source} is not valid TOML: {error}") from None
    if not document:
        raise click.UsageError(f'{source} says nothing; a policy that denies everything says so: default = "deny"')
    default, rules = document.pop("default", "deny"), document.pop("rules", [])
    wrapping, grace = document.pop("wrapping", {}), document.pop("outage_grace_seconds", 0)
    if document:
        raise click.UsageError(
            f"{source}: there is no {next(iter(document))!r} in a policy, only default, [[rules]], wrapping and"
            " outage_grace_seconds"
        )
    if not isinstance(default, str):
        raise click.UsageError(f'{source}: default must be a text, such as "deny" or "key:main"')
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise click.UsageError(f"{source}: rules must be tables, each below a line [[rules]] with two brackets")
    if isinstance(grace, bool) or not isinstance(grace, int) or not 0 <= grace <= MAX_GRACE:
        raise click.UsageError(f"{source}: outage_grace_seconds must be a whole number from 0 to {MAX_GRACE}")
    made = policy_pb2.Policy(default_use=default, wrapping=_wrapping(wrapping, source), outage_grace_seconds=grace)
    for number, rule in enumerate(rules):
        _add_rule(made, rule, f"{source}: rules[{number}]")
    return made


def _wrapping(table: object, source: Path) -> list[policy_pb2.AssetClassWrapping]:
    if not isinstance(table, dict):
        raise click.UsageError(f'{source}: wrapping must be a table, such as {{ phone_voicemail = "direct" }}')
    classes, ways = asset_pb2.AssetClass.DESCRIPTOR, policy_pb2.Wrapping.DESCRIPTOR
    found = []
    for name, way in table.items():
        for kind, one in ((classes, name), (ways, way)):
            if one not in names_of(kind):
                raise click.UsageError(
                    f"{source}: wrapping: there is no {one!r}; there are: {', '.join(names_of(kind))}"
                )
        numbers: dict[str, Any] = {"asset_class": enum_number(classes, name), "wrapping": enum_number(ways, way)}
        found.append(policy_pb2.AssetClassWrapping(**numbers))
    return found


def _add_rule(made: policy_pb2.Policy, rule: dict[str, Any], at: str) -> None:
    unknown = sorted(set(rule) - _RULE_FIELDS)
    if unknown:
        raise click.UsageError(f"{at}: there is no {unknown[0]!r} in a rule, only {', '.join(sorted(_RULE_FIELDS))}")
    fields = dict(rule)
    for name, value in rule.items():
        wanted = _wanted(name, value)
        if wanted:
            raise click.UsageError(f"{at}: {name} must be {wanted}")
    for name, kind in _ENUMS.items():
        try:
            fields[name] = [enum_number(kind, one) for one in fields.get(name, [])]
        except KeyError as error:
            raise click.UsageError(
                f"{at}.{name}: there is no {error}; there are: {', '.join(names_of(kind))}"
            ) from None
    for name in _TIMES:
        if isinstance(fields.get(name), date):
            fields[name] = fields[name].isoformat()
    made.rules.add(**fields)


def _wanted(name: str, value: object) -> str:
    """What a field of a rule must be; empty if it is that. A text is no list of its letters."""
    match value:
        case str():
            return 'a list, such as ["..."]' if name in _LISTS else ""
        case list() if name in _LISTS:
            return "" if all(isinstance(one, str) for one in value) else "a list of texts"
        case date() if name in _TIMES:
            return ""
    if name in _TIMES:
        return 'a time such as 2026-01-31T00:00:00Z, or "enrolment"'
    return "a list of texts" if name in _LISTS else "a text"


def _show_version(shared: Shared, found: policy_pb2.PolicyVersion) -> None:
    rules = {
        f"rule {rule.name!r}": f"{rule.use}" + (f" for {_conditions(rule)}" if _conditions(rule) else "")
        for rule in found.policy.rules
    }
    lines = {
        "version": f"{found.number}{' (in force)' if found.in_force else ''}",
        "author": one_line(found.author),
        "reason": one_line(found.reason),
        **rules,
        "default": found.policy.default_use or "deny",
        **{
            f"wrapping of {enum_name(_ENUMS['asset_classes'], one.asset_class)}": enum_name(
                policy_pb2.Wrapping.DESCRIPTOR, one.wrapping
            )
            for one in found.policy.wrapping
        },
        **({"outage grace": f"{found.policy.outage_grace_seconds} s"} if found.policy.outage_grace_seconds else {}),
    }
    shared.output.answer(values(found), lines)


def _conditions(rule: policy_pb2.PolicyRule) -> str:
    conditions = {name: value for name, value in values(rule).items() if value and name not in ("name", "use")}
    return json.dumps(conditions, sort_keys=True) if conditions else ""


@policy.command("create")
@tenant_option
@document_option
@click.option("--activate", is_flag=True, help="Let it decide from now on.")
@etag_option
@change_options
@shared_options
@click.pass_obj
def create(shared: Shared, tenant: str, source: Path, activate: bool, etag: str, author: str, reason: str) -> None:
    """Add a version, from a file as [tenants.policy] of the tenants file: default and [[rules]]."""
    made = read_policy(source)
    with shared.admin(author) as client:
        if activate:
            etag = etag or client.get_tenant(tenant).etag
        version = client.create_policy_version(tenant, made, activate_with=etag if activate else "", reason=reason)
    _show_version(shared, version)


@policy.command("list")
@tenant_option
@shared_options
@click.pass_obj
def list_versions(shared: Shared, tenant: str) -> None:
    """List versions, the newest first."""

    def line(one: policy_pb2.PolicyVersion) -> tuple[str, str]:
        made = one.create_time.ToDatetime().isoformat(timespec="seconds") + "Z"
        said = ", ".join(part for part in (made, one.author, one.reason) if part)
        return f"{one.number}{' *' if one.in_force else ''}", said

    with shared.admin() as client:
        show_all(shared, "policy_versions", client.list_policy_versions(tenant), line)


@policy.command("show")
@tenant_option
@click.option("--version", "number", type=_NUMBER, default=None, help="Its number; else the one in force.")
@shared_options
@click.pass_obj
def show_version(shared: Shared, tenant: str, number: int | None) -> None:
    """Show a version: the one in force, or another."""
    with shared.admin() as client:
        _show_version(shared, client.get_policy_version(tenant, number or 0))


@policy.command("activate")
@click.argument("number", type=_NUMBER)
@tenant_option
@etag_option
@change_options
@shared_options
@click.pass_obj
def activate_version(shared: Shared, number: int, tenant: str, etag: str, author: str, reason: str) -> None:
    """Let version NUMBER decide from now on, an older one too."""
    with shared.admin(author) as client:
        etag = etag or client.get_tenant(tenant).etag
        _show_version(shared, client.activate_policy_version(tenant, number, etag, reason=reason))


@policy.command()
@tenant_option
@click.option("--version", "number", type=_NUMBER, default=None, help="A stored version to compare with.")
@click.option(
    "-f",
    "--file",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A policy that is not stored, to compare with.",
)
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True, max=MAX_DAYS),
    default=7.0,
    show_default=True,
    help="How far back the audit trail is looked at.",
)
@click.option(
    "--facts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON: a list of assets, each with class, id and what else `ownkey check` takes; instead of the audit trail.",
)
@shared_options
@click.pass_obj
def simulate(
    shared: Shared, tenant: str, number: int | None, source: Path | None, days: float, facts: Path | None
) -> None:
    """Tell what would change if another version were in force. Nothing is changed, and no key is used."""
    if (number is None) == (source is None):
        raise click.UsageError("name the other version: --version N, or -f FILE")
    candidate: policy_pb2.Policy | int = number if number is not None else read_policy(Path(str(source)))
    assets = _facts(tenant, facts) if facts else []
    with shared.admin() as client:
        report = client.simulate_policy(tenant, candidate, assets=assets, since=timedelta(days=days))
    if not report.total and not facts:
        shared.output.note(f"ownkey: note: the audit trail of the last {days:g} days has no assets: give --facts FILE")
    lines = {"asked about": f"{report.total} assets", "would change": str(report.changed)}
    lines |= {f"{one.before} -> {one.after}": str(one.count) for one in report.transitions}
    show(shared, report, **lines)


def _facts(tenant: str, path: Path) -> list[Asset]:
    wrong = click.UsageError(
        f'{path} must hold a list of assets such as [{{"class": "phone_recording", "id": "x", "user": "u"}}], with no'
        f" other facts than {', '.join(sorted(_FACTS))}"
    )
    try:
        listed = json.loads(read_text(path))
        if not isinstance(listed, list) or not all(_is_asset(one) for one in listed):
            raise wrong
        return [
            Asset(
                tenant,
                one["class"],
                one["id"],
                one.get("origin", "created"),
                one.get("user", ""),
                one.get("group", ""),
                datetime.fromisoformat(one["create_time"]) if one.get("create_time") else None,
            )
            for one in listed
        ]
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from None


def _is_asset(facts: object) -> bool:
    if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
        return False
    return {"class", "id"} <= facts.keys() <= _FACTS
