"""``ownkey apply`` and ``ownkey export``: tenants as one file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ownkey.cli.admin_options import change_options, document_option, read_text
from ownkey.cli.main import Shared, shared_options
from ownkey.cli.messages import enum_name, values
from ownkey.cli.output import printable
from ownkey.files import write_file
from ownkey.v1 import admin_service_pb2

_KINDS = admin_service_pb2.ConfigurationStepKind.DESCRIPTOR
_SIGNS = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red"), "keep": ("=", "cyan")}


@click.command()
@document_option
@click.option(
    "--dry-run", is_flag=True, help="Tell what would change, and change nothing. New keys are tried all the same."
)
@click.option("--etag", default="", help="What a dry run told: nothing is done if anything was changed since.")
@change_options
@shared_options
@click.pass_obj
def apply(shared: Shared, source: Path, dry_run: bool, etag: str, author: str, reason: str) -> None:
    """Make tenants as a tenants file says, all at once or not at all, and tell each difference.

    + is added, ~ changed, - removed; = stays although the file says otherwise, and the line says why. Tenants that the
    file does not name are left alone.
    """
    document = read_text(source)
    with shared.admin(author) as client:
        answer = client.apply_tenants(document, dry_run=dry_run, etag=etag, reason=reason)
    if shared.as_json:
        shared.output.answer(values(answer))
        return
    for step in answer.steps:
        click.echo(_line(step))
    done = [step for step in answer.steps if enum_name(_KINDS, step.kind) != "keep"]
    if not done:
        click.echo("nothing to change")
    elif not answer.applied:
        click.echo(f"{len(done)} changes to make; nothing was changed. To make just these: --etag {answer.etag}")
    else:
        click.echo(f"{len(done)} changes made")


def _line(step: admin_service_pb2.ConfigurationStep) -> str:
    sign, colour = _SIGNS[enum_name(_KINDS, step.kind)]
    text = f"{sign} {step.resource}" + (f" {step.field}" if step.field else "")
    if step.before and step.after:
        text += f": {step.before} -> {step.after}"
    elif step.before or step.after:
        text += f": {step.before or step.after}"
    if step.note:
        text += f" ({step.note})"
    text = printable(text)
    return click.style(text, fg=colour) if sys.stdout.isatty() else text


@click.command()
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to; else to standard output.",
)
@click.option("--tenant", "tenants", multiple=True, help="Only this tenant; again for each.")
@click.option("--force", is_flag=True, help="Replace the file that is there.")
@shared_options
@click.pass_obj
def export(shared: Shared, target: Path | None, tenants: Sequence[str], force: bool) -> None:
    """Write the tenants file that says what there is. Applying it changes nothing."""
    with shared.admin() as client:
        document = client.export_tenants(tenants)
    if target is None:
        shared.output.document("document", document)
        return
    write_file([document.encode()], target, overwrite=force)
    shared.output.answer({"wrote": str(target)}, {"wrote": target})
