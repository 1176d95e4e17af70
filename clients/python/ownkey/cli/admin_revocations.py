"""Revocations: what a tenant takes back here, and gives back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import click

from ownkey.cli.admin_options import change_options, require_yes, show, show_all, yes_option
from ownkey.cli.admin_receipts import receipt, verify
from ownkey.cli.main import Group, Shared, shared_options
from ownkey.cli.messages import enum_name
from ownkey.cli.options import parse_time, tenant_option
from ownkey.models import ASSET_CLASSES
from ownkey.v1 import asset_pb2, revocation_pb2

_CLASSES = asset_pb2.AssetClass.DESCRIPTOR


@click.group(cls=Group, no_args_is_help=True)
def revocation() -> None:
    """What a tenant has taken back here. Its key store is not touched; to take a key away there is another matter."""


@revocation.command("create")
@tenant_option
@click.option("--key", "keys", multiple=True, help="Only what is under this key, or provider_key; again for each.")
@click.option("--group", "groups", multiple=True, help="Only content of users in this group; again for each.")
@click.option("--user", "users", multiple=True, help="Only content of this user; again for each.")
@click.option(
    "--class",
    "classes",
    multiple=True,
    type=click.Choice(list(ASSET_CLASSES)),
    help="Only content of this class; again for each.",
)
@click.option("--asset-id", "asset_ids", multiple=True, help="Only this asset; again for each.")
@click.option("--from", "created_from", callback=parse_time, metavar="TIME", help="Only content created then or later.")
@click.option("--before", "created_before", callback=parse_time, metavar="TIME", help="Only content created earlier.")
@click.option("--queue", "queues", multiple=True, help="Only calls of this queue; again for each.")
@click.option("--everything", is_flag=True, help="All of the tenant: no other condition stands beside it.")
@click.option("--drain", is_flag=True, help="What is being encrypted at the moment may be finished.")
@click.option("--preview", is_flag=True, help="Only show what would end, and what was lately used within it.")
@click.option(
    "--hours",
    type=click.IntRange(1, 168),
    default=24,
    show_default=True,
    help="With --preview: how many hours of the audit trail are looked at.",
)
@yes_option
@change_options
@shared_options
@click.pass_obj
def create(
    shared: Shared,
    tenant: str,
    keys: tuple[str, ...],
    groups: tuple[str, ...],
    users: tuple[str, ...],
    classes: tuple[str, ...],
    asset_ids: tuple[str, ...],
    created_from: datetime | None,
    created_before: datetime | None,
    queues: tuple[str, ...],
    everything: bool,
    drain: bool,
    preview: bool,
    hours: int,
    yes: bool,
    author: str,
    reason: str,
) -> None:
    """Take something back: from then on no use within it is served, on any instance, within a second.

    All conditions that are given must hold. Streams within it end; calls are refused as the tenant's call gate says.
    """
    scope = revocation_pb2.RevocationScope(
        keys=keys,
        groups=groups,
        users=users,
        asset_classes=[ASSET_CLASSES[one] for one in classes],
        asset_ids=asset_ids,
        queues=queues,
    )
    for field, time in (("created_from", created_from), ("created_before", created_before)):
        if time is not None:
            getattr(scope, field).FromDatetime(time)
    if everything == bool(scope.ListFields()):
        raise click.UsageError("say what is taken back, by conditions or by --everything")
    if preview:
        with shared.admin() as client:
            shown = client.preview_revocation(tenant, None if everything else scope, drain=drain, hours=hours)
        show(shared, shown, **_previewed(shown))
        return
    require_yes(f"Take back {'everything' if everything else told(scope)} of tenant {tenant}?", yes=yes)
    with shared.admin(author) as client:
        made = client.revoke(tenant, None if everything else scope, drain=drain, reason=reason)
    show(shared, made, revocation=made.id, tenant=made.tenant, about=told(made.scope), since=_moment(made))


@revocation.command()
@click.argument("revocation_id", metavar="REVOCATION")
@tenant_option
@change_options
@shared_options
@click.pass_obj
def restore(shared: Shared, revocation_id: str, tenant: str, author: str, reason: str) -> None:
    """Give back what REVOCATION took. What others took stays taken."""
    with shared.admin(author) as client:
        ended = client.restore(tenant, revocation_id, reason=reason)
    show(shared, ended, restored=ended.id, about=told(ended.scope))


@revocation.command("get")
@click.argument("revocation_id", metavar="REVOCATION")
@tenant_option
@shared_options
@click.pass_obj
def get_revocation(shared: Shared, revocation_id: str, tenant: str) -> None:
    """Show a revocation."""
    with shared.admin() as client:
        found = client.get_revocation(tenant, revocation_id)
    state = "restored" if found.HasField("restore_time") else "in force"
    show(
        shared,
        found,
        revocation=found.id,
        about=told(found.scope),
        state=state,
        since=_moment(found),
        author=found.author or "-",
        reason=found.reason or "-",
    )


@revocation.command("list")
@tenant_option
@click.option("--restored", is_flag=True, help="Those too that are in force no more.")
@shared_options
@click.pass_obj
def list_revocations(shared: Shared, tenant: str, restored: bool) -> None:
    """List a tenant's revocations, the newest first."""

    def line(one: revocation_pb2.Revocation) -> tuple[str, str]:
        ended = ", restored" if one.HasField("restore_time") else ""
        return one.id, f"{told(one.scope)}, since {_moment(one)}{ended}"

    with shared.admin() as client:
        show_all(shared, "revocations", client.list_revocations(tenant, restored=restored), line)


revocation.add_command(receipt)
revocation.add_command(verify)


def told(scope: revocation_pb2.RevocationScope) -> str:
    """A scope in words: ``key main, class team_chat``."""
    parts = []
    for name, values in (
        ("key", scope.keys),
        ("group", scope.groups),
        ("user", scope.users),
        ("class", [enum_name(_CLASSES, one) for one in scope.asset_classes]),
        ("asset", scope.asset_ids),
        ("queue", scope.queues),
    ):
        if values:
            parts.append(f"{name} {' or '.join(values)}")
    for field, time in scope.ListFields():
        if field.name.startswith("created_"):
            moment = time.ToDatetime(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            parts.append(f"{field.name.replace('_', ' ')} {moment}")
    return ", ".join(parts) or "everything"


def _previewed(shown: revocation_pb2.RevocationPreview) -> dict[str, object]:
    """What would end, and what was used."""

    def used(uses: Iterable[revocation_pb2.RevocationPreviewUse]) -> str:
        return ", ".join(f"{one.name} {one.count}" for one in uses) or "-"

    since = shown.counted_from.ToDatetime().isoformat(timespec="seconds") + "Z"
    streams = f"{shown.streams_ended} would end, {shown.streams_draining} be let finish, in {shown.process}"
    if shown.other_processes:
        streams += f"; at most {shown.streams_elsewhere} in {shown.other_processes} other processes"
    return {
        "streams": streams,
        "leases": f"{shown.leases_ended} would end, in {shown.process}",
        "uses": f"{shown.uses} since {since}",
        "keys": used(shown.keys),
        "classes": used(shown.asset_classes),
        "groups": used(shown.groups),
        "users": used(shown.users),
        "calls": f"gated: {shown.call_gate}" if shown.calls else "not concerned",
    }


def _moment(one: revocation_pb2.Revocation) -> str:
    return one.create_time.ToDatetime().isoformat(timespec="seconds") + "Z"
