"""``ownkey aws verify``: whether a customer's key is what ownkey needs, and what to mend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from botocore.exceptions import BotoCoreError, ProfileNotFound

from ownkey.cli.main import Shared, output_options
from ownkey.cli.options import optional_tenant_option
from ownkey.cli.output import OTHER_ERROR, USAGE, Failure, printable
from ownkey_server import hardening
from ownkey_server.commands.aws.arguments import require_tenant, usage
from ownkey_server.commands.errors import config_option, load
from ownkey_server.domain.clock import system_clock
from ownkey_server.keystores.aws.errors import by_exception
from ownkey_server.keystores.aws.findings import Finding, Outcome
from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.settings import key_store_options
from ownkey_server.settings.aws import AwsKmsSettings

COLOURS = {Outcome.PASS: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red"}
_ENDLESS = 10_000


@click.command("verify")
@click.argument("arns", nargs=-1, required=True, metavar="ARN...")
@click.option("--store", help="The key store's name in the settings.  [default: the only one of kind aws_kms]")
@optional_tenant_option
@config_option
@output_options
@click.pass_context
def verify_command(context: click.Context, arns: tuple[str, ...], store: str | None, tenant: str, config: Path) -> None:
    """Check that keys are what ownkey needs, and say what to mend. Give a key's ARN in each of its regions.

    Uses the credentials and the role that the key store's settings name, on throw-away bytes, and changes nothing. Ends
    with exit code 1 when a check fails; warnings are let pass.
    """
    shared = context.ensure_object(Shared)
    with usage():
        if tenant:
            require_tenant(tenant)
    hardening.harden()
    name, options = _aws_store(config, store)
    from ownkey_server.keystores.aws.reach import SettingsReach  # noqa: PLC0415 - boto3 takes a while to load
    from ownkey_server.keystores.aws.verify import Verification  # noqa: PLC0415

    try:
        reach = SettingsReach(name, options, tenant)
    except BotoCoreError as error:
        cause = by_exception(error).cause
        if isinstance(error, ProfileNotFound):
            named = f" of [key_stores.{name}] in {config}" if options.profile else ", which AWS_PROFILE names"
            cause += f" {error.kwargs['profile']!r}{named}"
        raise Failure(f"key store {name!r}: {cause}", USAGE) from error
    verification = Verification(reach, system_clock, options=options, tenant=tenant)
    findings = list(verification.check(arns))
    counts = {outcome.value: sum(one.outcome is outcome for one in findings) for outcome in Outcome}
    if shared.as_json:
        shared.output.answer({"ok": not counts["fail"], **counts, "key_store": name, "findings": findings})
    else:
        show_findings(findings)
        click.echo(", ".join(f"{number} {outcome}" for outcome, number in counts.items()))
    if counts["fail"]:
        context.exit(OTHER_ERROR)


def show_findings(findings: Sequence[Finding]) -> None:
    """A line for each finding; on a terminal in its colours and width, elsewhere as long as it is."""
    from rich.console import Console  # noqa: PLC0415 - only people need it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("where", "check", ""):
        table.add_column(column, no_wrap=True)
    table.add_column("what was seen, and what to do", overflow="fold")
    for one in findings:
        told = printable(one.seen) + (f" -> {printable(one.advice)}" if one.advice else "")
        outcome = Text(one.outcome.value, style=COLOURS[one.outcome])
        table.add_row(Text(printable(one.place)), Text(one.check), outcome, Text(told))
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    endless = Console(highlight=False, width=_ENDLESS)
    with endless.capture() as lines:
        endless.print(table)
    for line in lines.get().splitlines():
        click.echo(line.rstrip())


def _aws_store(config: Path, store: str | None) -> tuple[str, AwsKmsOptions]:
    settings = load(config)
    found = {name: one for name, one in settings.key_stores.items() if isinstance(one, AwsKmsSettings)}
    there_are = f"{config} has {', '.join(found) or 'none'} of kind aws_kms"
    if store is None and len(found) != 1:
        raise click.UsageError(f"say --store NAME: {there_are}")
    name = store or next(iter(found))
    if name not in found:
        raise click.UsageError(f"there is no key store {name!r} of kind aws_kms: {there_are}")
    options = key_store_options(found[name])
    assert isinstance(options, AwsKmsOptions)  # noqa: S101
    return name, options
