"""``ownkey audit``: checks, exports and shows the audit trail. Works on the database itself, and needs no server."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from ownkey.cli.main import Group, Shared, shared_options
from ownkey.cli.output import CONFLICT, NOT_FOUND, OTHER_ERROR, Failure, moment, printable
from ownkey_server.commands import audit_files
from ownkey_server.commands.audit_table import Columns
from ownkey_server.commands.errors import config_option, failure_of, load
from ownkey_server.domain.approvals import Danger
from ownkey_server.domain.audit_chain import ChainRow
from ownkey_server.domain.audit_documents import DocumentInvalid, line, signed_document
from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import DatabaseUnavailable
from ownkey_server.service.audit_setup import open_keeper, open_verifier
from ownkey_server.settings import Settings
from ownkey_server.storage import upgrade
from ownkey_server.storage.audit import export as audit_export
from ownkey_server.storage.audit.keeper import Kept
from ownkey_server.storage.audit.rows import read_newest_checkpoint
from ownkey_server.storage.audit.signing import SigningKeyError, Verifier, load_signer, load_verifier
from ownkey_server.storage.audit.sink import SinkError
from ownkey_server.storage.audit.verify import Progress, Report, no_progress, verify
from ownkey_server.storage.audit.verify_directory import verify_directory
from ownkey_server.storage.database import Database, parse_url
from ownkey_server.storage.upgrade import SchemaMismatch

FOLLOW_SECONDS = 1.0

_tenant_option = click.option("--tenant", help="Only records of this tenant; all otherwise.")


def _parse_time(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time such as 2026-01-31T09:30:00Z") from None
    if parsed.tzinfo is None:
        raise click.BadParameter(f"{value!r} needs a time zone, such as {value}Z")
    return parsed


@click.group(cls=Group)
def audit() -> None:
    """Check, export and show the audit trail.

    These commands work on the database itself, and need no running server.
    """


@audit.command("verify")
@config_option
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Check this directory of a sink instead of the database.",
)
@click.option(
    "--public-key",
    "public_keys",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="A public key to trust, in place of those of the settings; may be repeated.",
)
@click.option(
    "--checkpoint",
    type=click.File("rb"),
    help="A checkpoint that was kept elsewhere, as `ownkey audit checkpoint` prints it: the log must continue it.",
)
@shared_options
@click.pass_context
def verify_command(
    context: click.Context,
    config: Path,
    directory: Path | None,
    public_keys: tuple[Path, ...],
    checkpoint: BinaryIO | None,
) -> None:
    """Check the whole trail: that no record was changed, removed, moved or added.

    Tells every finding with its place, and ends with exit code 1 when there is one.
    """
    shared = context.ensure_object(Shared)
    known = checkpoint.read() if checkpoint is not None else None
    progress = _progress if sys.stderr.isatty() and not shared.as_json else no_progress
    with _refusals():
        if directory is not None:
            verifier = load_verifier(list(public_keys)) if public_keys else open_verifier(load(config).audit)
            report = verify_directory(directory, verifier, progress=progress, known_checkpoint=known)
            if not report.segments and not report.checkpoints and report.ok:
                raise click.ClickException(
                    f"{directory} holds no segment and no checkpoint: is the sink mounted there?"
                )
        else:
            settings = load(config)
            verifier = load_verifier(list(public_keys)) if public_keys else open_verifier(settings.audit)
            report = _verify_database(settings, verifier, progress, known)
    if progress is _progress:
        click.echo("\r\033[K", nl=False, err=True)
    _show(report, shared)
    if not report.ok:
        context.exit(OTHER_ERROR)


@audit.command("export")
@config_option
@_tenant_option
@click.option("--from", "start", callback=_parse_time, metavar="TIME", help="Not before this time.")
@click.option("--to", "end", callback=_parse_time, metavar="TIME", help="Before this time.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Standard output otherwise.")
@click.option("--resume", is_flag=True, help="Go on after the last whole line of the output that is there.")
@shared_options
@click.pass_obj
def export_command(
    shared: Shared,
    config: Path,
    tenant: str | None,
    start: datetime | None,
    end: datetime | None,
    output: Path | None,
    resume: bool,
) -> None:
    """Write records as JSON Lines, in the order of time.

    The last records may still get company for as long as calls take: end a little in the past for a complete file.
    """
    if resume and output is None:
        raise click.UsageError("--resume needs an output: -o FILE")
    chosen = tenant or shared.tenant or None
    with _refusals(), _open(load(config)) as database:
        if output is None:
            out = sys.stdout.buffer
            for row in audit_export.read_all(database, tenant=chosen, start=start, end=end):
                out.write(line(row))
            out.flush()
            return
        with audit_files.appending(output, resume=resume) as (file, after):
            count = 0
            for row in audit_export.read_all(database, tenant=chosen, start=start, end=end, after=after):
                file.write(line(row))
                count += 1
    shared.output.answer({"records": count, "output": str(output)}, {"wrote": f"{count:,} records to {output}"})


@audit.command("tail")
@config_option
@_tenant_option
@click.option("-n", "count", type=click.IntRange(min=0), default=10, show_default=True, help="How many to begin with.")
@click.option("--follow/--no-follow", default=False, help="Go on with what is written from now on.")
@shared_options
@click.pass_obj
def tail_command(shared: Shared, config: Path, tenant: str | None, count: int, follow: bool) -> None:
    """Show the last records: a line each, or with --json all of each, as JSON Lines."""
    chosen = tenant or shared.tenant or None
    with _refusals(), _open(load(config)) as database:
        rows, positions = audit_export.read_last(database, count, tenant=chosen)
        show = _shown_in_json if shared.as_json else _shown_in_columns(rows)
        while True:
            show(row for row in rows if chosen in (None, row.tenant))
            sys.stdout.flush()
            if not follow:
                return
            if not rows:
                time.sleep(FOLLOW_SECONDS)
            rows, positions = audit_export.read_new(database, positions, system_clock())


def _shown_in_json(rows: Iterable[ChainRow]) -> None:
    sys.stdout.buffer.writelines(map(line, rows))


def _shown_in_columns(first: Iterable[ChainRow]) -> Callable[[Iterable[ChainRow]], None]:
    columns = Columns(map(_record, first))
    click.echo(columns.heading())

    def show(rows: Iterable[ChainRow]) -> None:
        for text in columns.lines(map(_record, rows)):
            click.echo(text)

    return show


def _record(row: ChainRow) -> dict[str, Any]:
    """What a record says; one that somebody changed may say anything."""
    try:
        fields = json.loads(row.body)
    except ValueError:
        fields = None
    known = fields if isinstance(fields, dict) and isinstance(fields.get("asset", {}), dict) else {}
    return {"time": "?", "action": "? (not a record any more: ownkey audit verify)", **known}


@audit.command("checkpoint")
@config_option
@shared_options
def checkpoint_command(config: Path) -> None:
    """Print the newest signed checkpoint, to keep where nobody who can change the database can reach it."""
    with _refusals(), _open(load(config)) as database:
        with database.reading() as connection:
            row = read_newest_checkpoint(connection)
        if row is None:
            raise click.ClickException("there is no checkpoint yet; the server makes them, or: ownkey audit keep")
        click.echo(signed_document(row.description, row.signature), nl=False)


@audit.command("keep")
@config_option
@shared_options
@click.pass_context
def keep_command(context: click.Context, config: Path) -> None:
    """Seal, sign, copy and remove what is due now, as the server does by itself."""
    shared = context.ensure_object(Shared)
    settings = load(config)
    with _refusals(), _open(settings) as database:
        signer = load_signer(settings.audit.signing_key_file, settings.audit.signing_key_passphrase)
        guarded = Danger.RETENTION in settings.authorization.second_person
        kept = open_keeper(database, signer, system_clock, settings.audit, guarded=guarded).keep()
    _show_kept(kept, shared)
    if kept.problem or any(not finding.informational for finding in kept.findings):
        context.exit(OTHER_ERROR)


@contextlib.contextmanager
def _open(settings: Settings) -> Iterator[Database]:
    url = parse_url(settings.storage.url)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        # A command that reads must not make one: the next one would find it empty, and say so.
        raise Failure(f"there is no database at {url.database}", NOT_FOUND, hint="is --config right?")
    database = Database(settings.storage.url, password=settings.storage.password)
    try:
        upgrade.require_newest(database)
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Tell in a line what stands in the way."""
    try:
        yield
    except DatabaseUnavailable as error:
        raise failure_of(error) from error
    except audit_files.FileTaken as error:
        raise Failure(str(error), CONFLICT, hint="--resume goes on with it") from error
    except DocumentInvalid as error:
        raise click.ClickException(f"the kept checkpoint cannot be used: {error}") from error
    except (SchemaMismatch, SigningKeyError, SinkError, audit_files.FileUnusable) as error:
        raise click.ClickException(str(error)) from error


def _verify_database(settings: Settings, verifier: Verifier, progress: Progress, known: bytes | None) -> Report:
    with _open(settings) as database:
        return verify(database, verifier, progress=progress, known_checkpoint=known)


def _progress(done: int, about: int) -> None:
    click.echo(f"\r{done:,} of about {about:,} records", nl=False, err=True)


def _show(report: Report, shared: Shared) -> None:
    if shared.as_json:
        shared.output.answer(report)
        return
    for finding in report.findings:
        time_text = f" ({moment(finding.time)})" if finding.time else ""
        text = f"{finding.place}{time_text}: {finding.kind}: {finding.explanation}"
        click.echo(("note: " if finding.informational else "FOUND: ") + printable(text))
    if report.omitted:
        click.echo(f"and {report.omitted:,} more")
    newest = (
        f", the newest is {report.checkpoint} of {moment(report.checkpoint_time)}" if report.checkpoint_time else ""
    )
    checked = (
        f"{report.records:,} records of {report.writers:,} writers, {report.segments:,} segments and"
        f" {report.checkpoints:,} checkpoints{newest}"
    )
    click.echo(f"{'good' if report.ok else 'CHANGED'}: checked {checked}")


def _show_kept(kept: Kept, shared: Shared) -> None:
    if shared.as_json:
        shared.output.answer(kept)
        return
    if kept.elsewhere:
        click.echo("another instance is at it now")
        return
    for finding in kept.findings:
        click.echo(printable(f"FOUND: {finding.place}: {finding.kind}: {finding.explanation}"))
    shared.output.answer(
        None,
        {
            "checkpoints made": kept.checkpoints,
            "segments sealed": kept.segments,
            "copied to the sink": kept.exported,
            "records removed": kept.removed_records,
            "the sink": kept.problem,
        },
    )
