"""Branch keys: listed with all that opening them takes, made anew, and moved to another customer key."""

from __future__ import annotations

import click

from ownkey.cli.admin_options import change_options, show, show_all
from ownkey.cli.main import Group, Shared, shared_options
from ownkey.cli.messages import enum_name
from ownkey.cli.options import tenant_option
from ownkey.v1 import branch_key_pb2

_STATES = branch_key_pb2.BranchKeyState.DESCRIPTOR
_KEY_HELP = "Id of the customer key, or provider_key for what is under the provider's."


@click.group("branch-key", cls=Group, no_args_is_help=True)
def branch_key() -> None:
    """Branch keys, which wrap the data keys of tokens, chats and voicemails, or as a policy says."""


@branch_key.command("list")
@tenant_option
@click.option("--key", "key_id", default="", help="Only those under this key, or provider_key.")
@shared_options
@click.pass_obj
def list_branch_keys(shared: Shared, tenant: str, key_id: str) -> None:
    """List a tenant's branch keys.

    With --json, each comes wrapped as it is kept: with the customer key, all that it takes to open what it wrapped
    without ownkey (docs/formats.md).
    """

    def line(one: branch_key_pb2.BranchKey) -> tuple[str, str]:
        made = one.create_time.ToDatetime().isoformat(timespec="seconds") + "Z"
        return one.id, f"{enum_name(_STATES, one.state)}, number {one.version} under {one.key}, made {made}"

    with shared.admin() as client:
        show_all(shared, "branch_keys", client.list_branch_keys(tenant, key_id), line)


@branch_key.command()
@click.argument("key_id", metavar="KEY")
@tenant_option
@change_options
@shared_options
@click.pass_obj
def rotate(shared: Shared, key_id: str, tenant: str, author: str, reason: str) -> None:
    """Make a new branch key under KEY (or provider_key). The one before opens on, and wraps nothing more."""
    with shared.admin(author) as client:
        made = client.rotate_branch_key(tenant, key_id, reason=reason)
    show(shared, made, branch=made.id, key=made.key, number=made.version, state=enum_name(_STATES, made.state))


@branch_key.command()
@tenant_option
@click.option("--from", "from_key", required=True, help=_KEY_HELP)
@click.option("--to", "to_key", required=True, help="Id of the customer key that they go to; it must be active.")
@click.option("--max", "most", type=click.IntRange(min=1), default=None, help="At most how many; else all.")
@change_options
@shared_options
@click.pass_obj
def rewrap(shared: Shared, tenant: str, from_key: str, to_key: str, most: int | None, author: str, reason: str) -> None:
    """Move branch keys to another customer key: what they wrapped then opens with that, and no object is touched.

    Each is moved by itself: begin again where it was broken off. With --approval, at most 20 at a time.
    """
    rewrapped, at_once = 0, 20
    with shared.admin(author) as client:
        while True:
            wanted = at_once if most is None else min(at_once, most - rewrapped)
            answer = client.rewrap_branch_keys(tenant, from_key, to_key, most=wanted, reason=reason)
            rewrapped += answer.rewrapped
            # A second person has agreed to one call, and to no more.
            if shared.approval or not answer.remaining or not answer.rewrapped or rewrapped == most:
                break
    remaining = answer.remaining
    shared.output.answer(
        {"rewrapped": rewrapped, "remaining": remaining},
        {"rewrapped": str(rewrapped), "remaining": f"{remaining} under {from_key}"},
    )
