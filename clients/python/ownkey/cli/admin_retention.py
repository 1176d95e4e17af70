"""``ownkey admin retention``: how long audit records are kept, and who agreed to that."""

from __future__ import annotations

from datetime import timedelta

import click
from google.protobuf import duration_pb2

from ownkey.cli.admin_options import change_options, etag_option, show
from ownkey.cli.main import Group, Shared, shared_options
from ownkey.v1 import admin_service_pb2


@click.group(cls=Group, no_args_is_help=True)
def retention() -> None:
    """How long audit records are kept. The settings say it, and less than was agreed can take two persons."""


@retention.command("show")
@shared_options
@click.pass_obj
def show_retention(shared: Shared) -> None:
    """Show what was agreed, what the server's settings say, and what counts."""
    with shared.admin() as client:
        _show(shared, client.get_audit_retention())


@retention.command("agree")
@click.argument("days", type=click.FloatRange(min=0, min_open=True, max=365_000), required=False)
@click.option("--forever", is_flag=True, help="Records are never removed.")
@etag_option
@change_options
@shared_options
@click.pass_obj
def agree(shared: Shared, days: float | None, forever: bool, etag: str, author: str, reason: str) -> None:
    """Agree to keep audit records for at least so many DAYS.

    Where the settings name retention in second_person, less than before takes two persons. Set audit.retention_days
    first, on every server: what is longer there is agreed to again at its next start.
    """
    if (days is None) != forever:
        raise click.UsageError("give either the number of days or --forever")
    with shared.admin(author) as client:
        etag = etag or client.get_audit_retention().etag
        _show(
            shared,
            client.update_audit_retention(timedelta(days=days) if days is not None else None, etag, reason=reason),
        )


def _show(shared: Shared, found: admin_service_pb2.AuditRetention) -> None:
    def said(name: str) -> str:
        return _days(getattr(found, name)) if found.HasField(name) else "for ever"  # type: ignore[arg-type]

    show(
        shared,
        found,
        kept=said("in_force"),
        agreed=said("agreed"),
        configured=said("configured"),
        less_takes="two persons" if found.second_person else "one person",
    )


def _days(length: duration_pb2.Duration) -> str:
    return f"{length.ToTimedelta() / timedelta(days=1):g} days"
