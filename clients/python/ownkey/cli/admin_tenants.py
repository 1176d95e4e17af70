"""Tenants and groups."""

from __future__ import annotations

import json
from datetime import datetime
from typing import IO, Any

import click
from google.protobuf import json_format

from ownkey.cli.admin_options import change_options, etag_option, gone, require_yes, show, show_all, yes_option
from ownkey.cli.main import Group, Shared, shared_options
from ownkey.cli.messages import enum_name, enum_number, names_of, with_full_names
from ownkey.cli.options import parse_time, tenant_option
from ownkey.v1 import call_pb2, tenant_pb2

_MODES = call_pb2.CallGateMode.DESCRIPTOR
_DIRECTIONS = call_pb2.CallDirection.DESCRIPTOR

_name_option = click.option("--display-name", help="The name for people.")
_gate_options = (
    click.option(
        "--gate",
        type=click.Choice([*names_of(_MODES), "off"]),
        help="What happens to calls while a key is not usable; off is the same as allow.",
    ),
    click.option(
        "--gate-file",
        type=click.File("r", encoding="utf-8"),
        help="The whole call gate with its rules, as JSON (docs/call-gate.md); instead of the other options.",
    ),
    click.option(
        "--grace",
        "grace_seconds",
        type=click.IntRange(0, 86_400),
        help="Seconds after a key was last seen working during which an outage counts for nothing.",
    ),
    click.option(
        "--direction",
        "directions",
        multiple=True,
        type=click.Choice(names_of(_DIRECTIONS)),
        help="Gate only these; all otherwise.",
    ),
    click.option(
        "--country", "countries", multiple=True, help="Whose emergency numbers always connect: ISO 3166 code."
    ),
    click.option("--emergency-number", "emergency_numbers", multiple=True, help="One of the tenant's own."),
    click.option(
        "--outside-line", "outside_line_prefixes", multiple=True, help="Digits dialled to get an outside line."
    ),
)


def _gate_of(options: dict[str, Any]) -> call_pb2.CallGate | None:
    mode, file, grace = options.pop("gate"), options.pop("gate_file"), options.pop("grace_seconds")
    lists = {name: options.pop(name) for name in ("countries", "emergency_numbers", "outside_line_prefixes")}
    directions = options.pop("directions")
    single = bool(directions or any(lists.values()) or grace is not None)
    if file is not None:
        if mode is not None or single:
            raise click.UsageError("--gate-file says all of the call gate: leave the other options out")
        return _gate_in(file)
    if mode is None:
        if single:
            raise click.UsageError("--gate is missing: the call gate is changed as a whole")
        return None
    number = enum_number(_MODES, "allow" if mode == "off" else mode)
    gate = call_pb2.CallGate(mode=number, grace_seconds=grace or 0, **lists)  # type: ignore[arg-type]
    gate.directions.extend(enum_number(_DIRECTIONS, one) for one in directions)  # type: ignore[misc]
    return gate


def _gate_in(file: IO[str]) -> call_pb2.CallGate:
    try:
        given = json.load(file)
        if not isinstance(given, dict):
            given = {"": given}  # for the parser to refuse: it would take [] for an empty gate
        return json_format.ParseDict(with_full_names(call_pb2.CallGate.DESCRIPTOR, given), call_pb2.CallGate())
    except (json_format.ParseError, ValueError, TypeError, AttributeError) as error:  # the parser's own slips, too
        what = " ".join(str(error).split()).removesuffix(".")
        raise click.UsageError(
            f"--gate-file: {file.name} is no call gate in JSON: {what}; docs/call-gate.md has one"
        ) from error


def gate_options(command: Any) -> Any:
    """How calls are gated, whole."""
    for option in reversed(_gate_options):
        command = option(command)
    return command


@click.group(cls=Group, no_args_is_help=True)
def tenant() -> None:
    """Customer organizations."""


def _show_tenant(shared: Shared, found: tenant_pb2.Tenant) -> None:
    show(
        shared,
        found,
        tenant=found.id,
        name=found.display_name,
        policy=f"version {found.policy_version}" if found.policy_version else "none: everything is denied",
        call_gate=enum_name(_MODES, found.call_gate.mode) + _more(found.call_gate),
        etag=found.etag,
    )


def _more(gate: call_pb2.CallGate) -> str:
    rules = len(gate.rules)
    return f" by default, after {rules} rule{'s' * (rules != 1)} (--json shows them)" if rules else ""


@tenant.command("create")
@click.argument("tenant_id", metavar="TENANT")
@_name_option
@click.option(
    "--enrolled-at", callback=parse_time, metavar="TIME", help="From when on its keys protect it; now otherwise."
)
@gate_options
@change_options
@shared_options
@click.pass_obj
def create_tenant(
    shared: Shared,
    /,
    tenant_id: str,
    display_name: str | None,
    enrolled_at: datetime | None,
    author: str,
    reason: str,
    **gate: Any,
) -> None:
    """Add a tenant. Until it has a policy, everything is denied."""
    with shared.admin(author) as client:
        made = client.create_tenant(
            tenant_id, display_name=display_name or "", enrolled_at=enrolled_at, call_gate=_gate_of(gate), reason=reason
        )
    _show_tenant(shared, made)


@tenant.command("list")
@shared_options
@click.pass_obj
def list_tenants(shared: Shared) -> None:
    """List tenants by id."""
    with shared.admin() as client:
        show_all(shared, "tenants", client.list_tenants(), lambda one: (one.id, one.display_name))


@tenant.command("show")
@click.argument("tenant_id", metavar="TENANT")
@shared_options
@click.pass_obj
def show_tenant(shared: Shared, tenant_id: str) -> None:
    """Show a tenant."""
    with shared.admin() as client:
        _show_tenant(shared, client.get_tenant(tenant_id))


@tenant.command("update")
@click.argument("tenant_id", metavar="TENANT")
@_name_option
@gate_options
@etag_option
@change_options
@shared_options
@click.pass_obj
def update_tenant(
    shared: Shared, /, tenant_id: str, display_name: str | None, etag: str, author: str, reason: str, **gate: Any
) -> None:
    """Change a tenant. What is left out stays as it is."""
    call_gate = _gate_of(gate)
    if display_name is None and call_gate is None:
        raise click.UsageError("nothing to change: give --display-name or --gate")
    with shared.admin(author) as client:
        etag = etag or client.get_tenant(tenant_id).etag
        changed = client.update_tenant(tenant_id, etag, display_name=display_name, call_gate=call_gate, reason=reason)
    _show_tenant(shared, changed)


@tenant.command("delete")
@click.argument("tenant_id", metavar="TENANT")
@yes_option
@click.option("--abandon-branch-keys", is_flag=True, help="Delete its branch keys too, and give up what they wrapped.")
@etag_option
@change_options
@shared_options
@click.pass_obj
def delete_tenant(
    shared: Shared, tenant_id: str, yes: bool, abandon_branch_keys: bool, etag: str, author: str, reason: str
) -> None:
    """Delete a tenant that has neither keys nor groups. Its audit records stay."""
    lost = " Nothing that its branch keys wrapped can ever be opened again." if abandon_branch_keys else ""
    require_yes(f"tenants/{tenant_id} is then not known any more, nor its policy versions.{lost} Delete it?", yes=yes)
    with shared.admin(author) as client:
        etag = etag or client.get_tenant(tenant_id).etag
        client.delete_tenant(tenant_id, etag, abandon_branch_keys=abandon_branch_keys, reason=reason)
    gone(shared, f"tenants/{tenant_id}")


@click.group(cls=Group, no_args_is_help=True)
def group() -> None:
    """Sets of a tenant's users, which its policy can name."""


_user_option = click.option("--user", "users", multiple=True, help="Id of a user; again for each.")


def _show_group(shared: Shared, found: tenant_pb2.Group) -> None:
    show(shared, found, group=f"tenants/{found.tenant}/groups/{found.id}", users=found.users, etag=found.etag)


@group.command("create")
@click.argument("group_id", metavar="GROUP")
@tenant_option
@_user_option
@change_options
@shared_options
@click.pass_obj
def create_group(shared: Shared, group_id: str, tenant: str, users: tuple[str, ...], author: str, reason: str) -> None:
    """Add a group."""
    with shared.admin(author) as client:
        _show_group(shared, client.create_group(tenant, group_id, users, reason=reason))


@group.command("list")
@tenant_option
@shared_options
@click.pass_obj
def list_groups(shared: Shared, tenant: str) -> None:
    """List a tenant's groups by id."""
    with shared.admin() as client:
        show_all(shared, "groups", client.list_groups(tenant), lambda one: (one.id, f"{len(one.users)} users"))


@group.command("show")
@click.argument("group_id", metavar="GROUP")
@tenant_option
@shared_options
@click.pass_obj
def show_group(shared: Shared, group_id: str, tenant: str) -> None:
    """Show a group."""
    with shared.admin() as client:
        _show_group(shared, client.get_group(tenant, group_id))


@group.command("update")
@click.argument("group_id", metavar="GROUP")
@tenant_option
@click.option("--add", multiple=True, metavar="USER", help="Take a user in; again for each.")
@click.option("--remove", multiple=True, metavar="USER", help="Put a user out; again for each.")
@etag_option
@change_options
@shared_options
@click.pass_obj
def update_group(
    shared: Shared,
    group_id: str,
    tenant: str,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    etag: str,
    author: str,
    reason: str,
) -> None:
    """Change who is in a group."""
    if not (add or remove):
        raise click.UsageError("nothing to change: give --add or --remove")
    with shared.admin(author) as client:
        before = client.get_group(tenant, group_id)
        for user in sorted(set(remove) - set(before.users)):
            shared.output.note(f"ownkey: note: {user!r} was not in the group")
        users = (set(before.users) | set(add)) - set(remove)
        changed = client.update_group(tenant, group_id, etag or before.etag, sorted(users), reason=reason)
    _show_group(shared, changed)


@group.command("delete")
@click.argument("group_id", metavar="GROUP")
@tenant_option
@etag_option
@change_options
@shared_options
@click.pass_obj
def delete_group(shared: Shared, group_id: str, tenant: str, etag: str, author: str, reason: str) -> None:
    """Delete a group that the policy in force does not name."""
    with shared.admin(author) as client:
        client.delete_group(tenant, group_id, etag or client.get_group(tenant, group_id).etag, reason=reason)
    gone(shared, f"tenants/{tenant}/groups/{group_id}")
