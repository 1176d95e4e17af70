"""Who may do what: service principals with their roles, and changes that take two persons."""

from __future__ import annotations

import json
from collections.abc import Iterable

import click

from ownkey.cli.admin_options import change_options, etag_option, gone, show, show_all
from ownkey.cli.main import Group, Shared, shared_options
from ownkey.models import ASSET_CLASSES
from ownkey.v1 import approval_pb2, asset_pb2, role_pb2, tenant_pb2

ROLES = {name.removeprefix("ROLE_").lower(): number for name, number in role_pb2.Role.items() if number}
_GRANT_FORM = "ROLE:TENANT[:CLASS,...][:METHOD,...]"


class _Grant(click.ParamType[role_pb2.RoleGrant]):
    """``recorder:acme``, ``operator:*``, ``player:acme:phone_recording,phone_voicemail``, ``data:acme::Unwrap``."""

    name = _GRANT_FORM

    def convert(
        self, value: str | role_pb2.RoleGrant, param: click.Parameter | None, ctx: click.Context | None
    ) -> role_pb2.RoleGrant:
        if isinstance(value, role_pb2.RoleGrant):
            return value
        role, *rest = value.split(":")
        if role not in ROLES:
            self.fail(f"there is no role {role!r}; there are: {', '.join(ROLES)}", param, ctx)
        if not 1 <= len(rest) <= 3 or not rest[0]:
            self.fail(
                f"{value!r} is not {_GRANT_FORM}: name a tenant, or * for all of them and the service", param, ctx
            )
        classes = [name for name in (rest[1] if len(rest) > 1 else "").split(",") if name]
        for name in classes:
            if name not in ASSET_CLASSES:
                self.fail(f"there is no asset class {name!r}; there are: {', '.join(ASSET_CLASSES)}", param, ctx)
        methods = [name for name in (rest[2] if len(rest) > 2 else "").split(",") if name]
        return role_pb2.RoleGrant(
            role=ROLES[role], tenant=rest[0], asset_classes=[ASSET_CLASSES[name] for name in classes], methods=methods
        )


_grants_option = click.option(
    "--grant",
    "grants",
    type=_Grant(),
    multiple=True,
    help=f"What it may do, {_GRANT_FORM}; any number of times. Roles: {', '.join(ROLES)}.",
)


@click.group(cls=Group, no_args_is_help=True)
def principal() -> None:
    """Services and people that ownkey knows by name, and what each may do."""


def _shown(grant: role_pb2.RoleGrant) -> str:
    classes = [asset_pb2.AssetClass.Name(one).removeprefix("ASSET_CLASS_").lower() for one in grant.asset_classes]
    parts = [role_pb2.Role.Name(grant.role).removeprefix("ROLE_").lower(), grant.tenant]
    if classes or grant.methods:
        parts.append(",".join(classes))
    if grant.methods:
        parts.append(",".join(grant.methods))
    return ":".join(parts)


def _show_principal(shared: Shared, found: tenant_pb2.ServicePrincipal) -> None:
    grants = [_shown(one) for one in found.grants] or "none: it may do nothing"
    show(shared, found, principal=found.id, name=found.display_name, grants=grants, etag=found.etag)


@principal.command("create")
@click.argument("principal_id", metavar="PRINCIPAL")
@click.option("--display-name", default="", help="The name for people.")
@_grants_option
@change_options
@shared_options
@click.pass_obj
def create_principal(
    shared: Shared,
    principal_id: str,
    display_name: str,
    grants: Iterable[role_pb2.RoleGrant],
    author: str,
    reason: str,
) -> None:
    """Add a service or a person, such as spiffe://example.org/recorder or corp/ann@example.com."""
    with shared.admin(author) as client:
        made = client.create_service_principal(principal_id, display_name=display_name, grants=grants, reason=reason)
    _show_principal(shared, made)


@principal.command("list")
@shared_options
@click.pass_obj
def list_principals(shared: Shared) -> None:
    """List principals by id, with what each may do."""
    with shared.admin() as client:
        found = client.list_service_principals()
        show_all(
            shared,
            "service_principals",
            found,
            lambda one: (one.id, ", ".join(_shown(grant) for grant in one.grants) or "may do nothing"),
        )


@principal.command("show")
@click.argument("principal_id", metavar="PRINCIPAL")
@shared_options
@click.pass_obj
def show_principal(shared: Shared, principal_id: str) -> None:
    """Show a principal."""
    with shared.admin() as client:
        _show_principal(shared, client.get_service_principal(principal_id))


@principal.command("update")
@click.argument("principal_id", metavar="PRINCIPAL")
@click.option("--display-name", default=None, help="The name for people; left out, it stays.")
@_grants_option
@click.option("--no-grants", is_flag=True, help="It may do nothing any more.")
@etag_option
@change_options
@shared_options
@click.pass_obj
def update_principal(
    shared: Shared,
    principal_id: str,
    display_name: str | None,
    grants: tuple[role_pb2.RoleGrant, ...],
    no_grants: bool,
    etag: str,
    author: str,
    reason: str,
) -> None:
    """Rename a principal, or say anew all that it may do. Without --grant its grants stay."""
    if grants and no_grants:
        raise click.UsageError("--grant and --no-grants say opposite things: give one of them")
    with shared.admin(author) as client:
        before = client.get_service_principal(principal_id)
        changed = client.update_service_principal(
            principal_id,
            etag or before.etag,
            display_name=before.display_name if display_name is None else display_name,
            grants=grants or (() if no_grants else before.grants),
            reason=reason,
        )
    _show_principal(shared, changed)


@principal.command("delete")
@click.argument("principal_id", metavar="PRINCIPAL")
@etag_option
@change_options
@shared_options
@click.pass_obj
def delete_principal(shared: Shared, principal_id: str, etag: str, author: str, reason: str) -> None:
    """Delete a principal: whoever comes by its name may do nothing any more."""
    with shared.admin(author) as client:
        etag = etag or client.get_service_principal(principal_id).etag
        client.delete_service_principal(principal_id, etag, reason=reason)
    gone(shared, f"servicePrincipals/{principal_id}")


@click.group(cls=Group, no_args_is_help=True)
def approval() -> None:
    """Changes that take two persons: one asks by making the change, another approves, and the first repeats it."""


def _state(one: approval_pb2.Approval) -> str:
    agreed = f"approved by {one.approved_by}" if one.approved_by else "waits"
    return f"{one.method} {one.resource}: {one.summary}; asked by {one.requested_by}; {agreed}"


@approval.command("list")
@click.option("--of", "tenant", default="", help="Only this tenant's.")
@shared_options
@click.pass_obj
def list_approvals(shared: Shared, tenant: str) -> None:
    """List the changes that wait, the oldest first, each with all that it would do."""
    with shared.admin() as client:
        found = client.list_approvals(tenant)
    show_all(shared, "approvals", found, lambda one: (one.id, f"{_state(one)}; changes {one.change}"))


@approval.command("show")
@click.argument("approval_id", metavar="APPROVAL")
@shared_options
@click.pass_obj
def show_approval(shared: Shared, approval_id: str) -> None:
    """Show all that a change would do, before and after: what is agreed to by approving it."""
    with shared.admin() as client:
        found = client.get_approval(approval_id)
    show(
        shared,
        found,
        approval=found.id,
        method=found.method,
        tenant=found.tenant,
        resource=found.resource,
        summary=found.summary,
        asked_by=found.requested_by,
        author=found.author,
        reason=found.reason,
        approved_by=found.approved_by,
        until=found.expire_time.ToJsonString(),
        **_effects(found.change),
    )


def _effects(change: str) -> dict[str, str]:
    """Each thing that a change does, before and after; what cannot be read is shown as it is."""
    try:
        effects = json.loads(change)["effects"]
        lines = {}
        for number, effect in enumerate(effects, 1):
            where = f"{number} of {len(effects)}"
            lines[f"{where}"] = f"{effect['danger']} {effect['resource']}"
            lines[f"{where} before"] = json.dumps(effect["before"], sort_keys=True)
            lines[f"{where} after"] = json.dumps(effect["after"], sort_keys=True)
    except (ValueError, TypeError, LookupError):
        return {"change": change}
    return lines


@approval.command("approve")
@click.argument("approval_id", metavar="APPROVAL")
@change_options
@shared_options
@click.pass_obj
def approve(shared: Shared, approval_id: str, author: str, reason: str) -> None:
    """Agree to somebody else's change."""
    with shared.admin(author) as client:
        found = client.approve_change(approval_id, reason=reason)
    show(shared, found, approved=_state(found), next=f"its requester repeats the change with --approval {found.id}")


@approval.command("withdraw")
@click.argument("approval_id", metavar="APPROVAL")
@change_options
@shared_options
@click.pass_obj
def withdraw(shared: Shared, approval_id: str, author: str, reason: str) -> None:
    """Let a change fall."""
    with shared.admin(author) as client:
        client.withdraw_approval(approval_id, reason=reason)
    gone(shared, f"approvals/{approval_id}")
