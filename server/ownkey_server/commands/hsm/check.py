"""``ownkey hsm check``: whether a token will serve."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

import ownkey
from ownkey.cli.main import Shared, output_options
from ownkey.cli.output import MISCONFIGURED, OK, WARNED, printable
from ownkey.files import require_free, write_file
from ownkey_server.commands.hsm.options import TokenChoice, token_options, told
from ownkey_server.hsm.check.page import page
from ownkey_server.hsm.check.plan import MECHANISMS, Plan
from ownkey_server.hsm.check.runner import Runner
from ownkey_server.hsm.check.terminal import lines
from ownkey_server.hsm.check.verdicts import Verdict
from ownkey_server.hsm.errors import HsmError
from ownkey_server.hsm.work import TokenPlace
from ownkey_server.keystores.pkcs11 import profiles
from ownkey_server.keystores.pkcs11.profile_reader import ProfileInvalid
from ownkey_server.secret_sources import SecretUnusable

_CLEAR_LINE = "\r\x1b[K"
_WIDTH = 76


@click.command()
@token_options
@click.option(
    "--key",
    "keys",
    metavar="LABEL",
    multiple=True,
    help="A key of the token to look at and to use; may be repeated. Without one, a key of the session is made for it.",
)
@click.option(
    "--mechanism",
    type=click.Choice(MECHANISMS),
    help="What the key store is to wrap with. What the settings say, otherwise, or auto.",
)
@click.option(
    "--profile",
    metavar="NAME",
    help="The token's family: a name of `ownkey hsm profiles`, or a file of your own, PATH.toml. What the settings say,"
    " otherwise, or what token and module say of themselves.",
)
@click.option(
    "--sessions", type=click.IntRange(2, 1024), default=32, show_default=True, help="How many to open at the most."
)
@click.option(
    "--patience",
    type=click.FloatRange(1, 600),
    default=20.0,
    show_default=True,
    help="Seconds of silence after which the module has hung.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 60),
    default=1.0,
    show_default=True,
    help="How long to measure with 1, 2, 4 and 8 sessions, each; 0 for not at all.",
)
@click.option("--strict", is_flag=True, help="Warnings have an exit code of their own.")
@click.option(
    "--report",
    "report_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report there too: one HTML file that needs no other, to print or to file.",
)
@click.option("--force", is_flag=True, help="Replace the report that is there.")
@output_options
@click.pass_obj
def check_command(
    shared: Shared,
    /,
    keys: tuple[str, ...],
    mechanism: str | None,
    profile: str | None,
    sessions: int,
    patience: float,
    seconds: float,
    report_file: Path | None,
    strict: bool,
    force: bool,
    **choice: Any,
) -> int:
    """Tell whether a token will serve: a verdict a line, why it matters, and what to do.

    Looks at library, token, mechanisms and keys; wraps and unwraps with the right context and the wrong one, changes
    bytes, tries to get a key out, counts sessions, ends them, and measures. It changes nothing and leaves nothing
    behind: keys that it makes are objects of its session. The exit code is 0 when nothing failed; 9 when something
    did; with --strict 12 when there are warnings.
    """
    if report_file is not None:
        require_free(report_file, overwrite=force)
    started = datetime.now(UTC)
    with told():
        place, *_ = TokenChoice.taken(choice).places()
        _require_profile(profile or place.profile)
        pin = _pin(place)
    plan = Plan(
        module=place.module,
        token_label=place.label,
        serial=place.serial,
        keys=keys,
        mechanism=mechanism or place.mechanism,
        arguments=place.arguments,
        profile=profile or place.profile,
        sessions=sessions,
        patience=patience,
        speed_seconds=seconds,
        exportable_keys=place.exportable_keys,
    )
    progress = _Progress(shown=not shared.as_json, in_place=sys.stderr.isatty())
    try:
        report = Runner(plan, pin, progress.tell, show_noise=shared.verbose).run(ownkey.__version__, started)
    finally:
        progress.clear()
    if report_file is not None:
        write_file([page(report).encode()], report_file, overwrite=force)
        shared.output.note(f"the report is in {report_file}")
    if shared.as_json:
        shared.output.answer(report.plain())
    else:
        blocks = "utf" in (sys.stdout.encoding or "").lower()
        for line in lines(report, blocks=blocks):
            click.echo(line)
    if report.verdict is Verdict.FAIL:
        return MISCONFIGURED
    return WARNED if strict and report.verdict is Verdict.WARN else OK


class _Progress:
    """What is being done: in a terminal in one line that the next one replaces, elsewhere a line for each step."""

    def __init__(self, *, shown: bool, in_place: bool) -> None:
        self._shown = shown
        self._in_place = in_place
        self._step = ""

    def tell(self, doing: str) -> None:
        """Say it."""
        if not self._shown:
            return
        step = doing.partition(":")[0]
        if self._in_place:
            click.echo(f"{_CLEAR_LINE}{printable(doing)[:_WIDTH]} ...", err=True, nl=False)
        elif step != self._step:
            click.echo(f"{step} ...", err=True)
        self._step = step

    def clear(self) -> None:
        """Leave an empty line."""
        if self._shown and self._in_place:
            click.echo(_CLEAR_LINE, err=True, nl=False)


def _require_profile(name: str) -> None:
    try:
        profiles.load(name)
    except ProfileInvalid as error:
        raise HsmError(str(error), hint="`ownkey hsm profiles` lists those that there are") from None


def _pin(place: TokenPlace) -> str:
    try:
        return place.pin.read().reveal().decode()
    except UnicodeDecodeError:
        raise HsmError(f"the PIN in {place.pin} is no text in UTF-8") from None
    except SecretUnusable as error:
        raise HsmError(f"the PIN in {error}") from None
