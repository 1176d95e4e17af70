"""Customer keys: enrolled, given replicas, retired, removed."""

from __future__ import annotations

import click

from ownkey.cli.admin_options import change_options, etag_option, require_yes, show, show_all, yes_option
from ownkey.cli.main import Group, Shared, shared_options
from ownkey.cli.messages import enum_name
from ownkey.cli.options import tenant_option
from ownkey.cli.output import NOT_FOUND, Failure
from ownkey.v1 import customer_key_pb2

_LIFECYCLES = customer_key_pb2.KeyLifecycle.DESCRIPTOR

_key_argument = click.argument("key_id", metavar="KEY")
_store_option = click.option("--store", required=True, help="Name of the key store in the server's settings.")
_reference_option = click.option("--reference", required=True, help="What the key is called there.")


@click.group(cls=Group, no_args_is_help=True)
def key() -> None:
    """Customer keys, and the places where they can be used."""


def _places(found: customer_key_pb2.CustomerKey) -> list[str]:
    return [f"{one.place.key_store}/{one.place.reference}" for one in found.replicas]


def _show_key(shared: Shared, found: customer_key_pb2.CustomerKey) -> None:
    lifecycle = enum_name(_LIFECYCLES, found.lifecycle)
    show(shared, found, key=found.name, lifecycle=lifecycle, replicas=_places(found), etag=found.etag)


@key.command()
@_key_argument
@tenant_option
@_store_option
@_reference_option
@change_options
@shared_options
@click.pass_obj
def enrol(shared: Shared, key_id: str, tenant: str, store: str, reference: str, author: str, reason: str) -> None:
    """Add a key by its primary place. It is tried by wrapping and unwrapping first."""
    with shared.admin(author) as client:
        _show_key(shared, client.enrol_key(tenant, key_id, store, reference, reason=reason))


@key.command("list")
@tenant_option
@shared_options
@click.pass_obj
def list_keys(shared: Shared, tenant: str) -> None:
    """List a tenant's keys, removed ones too."""

    def line(one: customer_key_pb2.CustomerKey) -> tuple[str, str]:
        return one.name, ", ".join([enum_name(_LIFECYCLES, one.lifecycle), *_places(one)])

    with shared.admin() as client:
        show_all(shared, "keys", client.list_keys(tenant), line)


@key.command("show")
@_key_argument
@tenant_option
@shared_options
@click.pass_obj
def show_key(shared: Shared, key_id: str, tenant: str) -> None:
    """Show a key. `ownkey status` tells its state."""
    with shared.admin() as client:
        _show_key(shared, client.get_key(tenant, key_id))


@key.command("add-replica")
@_key_argument
@tenant_option
@_store_option
@_reference_option
@etag_option
@change_options
@shared_options
@click.pass_obj
def add_replica(
    shared: Shared, key_id: str, tenant: str, store: str, reference: str, etag: str, author: str, reason: str
) -> None:
    """Add another place where the very same key can be used; each must open what the other has wrapped."""
    with shared.admin(author) as client:
        etag = etag or client.get_key(tenant, key_id).etag
        _show_key(shared, client.add_key_replica(tenant, key_id, etag, store, reference, reason=reason))


@key.command("remove-replica")
@_key_argument
@tenant_option
@click.option(
    "--store",
    required=True,
    metavar="STORE[/REGION]",
    help="The place, as `ownkey status` tells it: the key store, and the region where the key has several in it.",
)
@click.option("--reference", default="", help="What the key is called there, instead of the region.")
@etag_option
@change_options
@shared_options
@click.pass_obj
def remove_replica(
    shared: Shared, key_id: str, tenant: str, store: str, reference: str, etag: str, author: str, reason: str
) -> None:
    """Take a place away from a key. Without its primary, the next place is the primary."""
    with shared.admin(author) as client:
        found = client.get_key(tenant, key_id)
        place = _place_called(found, store, reference) if reference else store
        _show_key(shared, client.remove_key_replica(tenant, key_id, etag or found.etag, place, reason=reason))


def _place_called(found: customer_key_pb2.CustomerKey, store: str, reference: str) -> str:
    """The name of the place where a key is called so."""
    for one in found.replicas:
        name = _place_name(one.place)
        if one.place.reference == reference and store in (one.place.key_store, name):
            return name
    raise Failure(
        f"{found.name} is not called {reference!r} in {store!r}",
        NOT_FOUND,
        hint=f"it has these places: {', '.join(_places(found))}",
    )


def _place_name(place: customer_key_pb2.KeyPlace) -> str:
    """A place's name, as KeyStatus tells it: the key store, and its region for an ARN."""
    parts = place.reference.split(":", 4)
    return f"{place.key_store}/{parts[3]}" if parts[0] == "arn" and len(parts) == 5 else place.key_store


@key.command()
@_key_argument
@tenant_option
@etag_option
@change_options
@shared_options
@click.pass_obj
def activate(shared: Shared, key_id: str, tenant: str, etag: str, author: str, reason: str) -> None:
    """Try a key anew in all of its places, and let it wrap again."""
    with shared.admin(author) as client:
        etag = etag or client.get_key(tenant, key_id).etag
        _show_key(shared, client.activate_key(tenant, key_id, etag, reason=reason))


@key.command()
@_key_argument
@tenant_option
@etag_option
@change_options
@shared_options
@click.pass_obj
def retire(shared: Shared, key_id: str, tenant: str, etag: str, author: str, reason: str) -> None:
    """Let a key open what it has wrapped, and wrap nothing more. The policy in force must not name it."""
    with shared.admin(author) as client:
        etag = etag or client.get_key(tenant, key_id).etag
        _show_key(shared, client.retire_key(tenant, key_id, etag, reason=reason))


@key.command()
@_key_argument
@tenant_option
@yes_option
@click.option("--abandon-branch-keys", is_flag=True, help="Give up all that branch keys under it wrapped.")
@etag_option
@change_options
@shared_options
@click.pass_obj
def remove(
    shared: Shared,
    key_id: str,
    tenant: str,
    yes: bool,
    abandon_branch_keys: bool,
    etag: str,
    author: str,
    reason: str,
) -> None:
    """Let go of a retired key: nothing that it wrapped can be opened here any more. Its id stays taken.

    Branch keys that are wrapped under it are moved first: ownkey admin branch-key rewrap.
    """
    require_yes(f"What tenants/{tenant}/keys/{key_id} wrapped can then not be opened any more. Remove it?", yes=yes)
    with shared.admin(author) as client:
        etag = etag or client.get_key(tenant, key_id).etag
        removed = client.remove_key(tenant, key_id, etag, abandon_branch_keys=abandon_branch_keys, reason=reason)
        _show_key(shared, removed)
