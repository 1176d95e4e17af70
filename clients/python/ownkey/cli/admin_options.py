"""What administrative commands share: who changes something and why, and the etag by which no change is lost."""

from __future__ import annotations

import functools
import getpass
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from google.protobuf.message import Message

from ownkey.cli.main import Shared
from ownkey.cli.messages import values
from ownkey.cli.output import Failure

F = TypeVar("F", bound=Callable[..., Any])


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def _approved_by(context: click.Context, _parameter: click.Parameter, value: str) -> None:
    context.ensure_object(Shared).approval = value


def change_options(command: F) -> F:
    """Who stands behind a change, and why."""
    options = (
        click.option(
            "--author",
            default=_login_name,
            show_default="your login name",
            envvar="OWNKEY_AUTHOR",
            help="Who stands behind the change, for the audit trail.",
        ),
        click.option("--reason", default="", help="Why, for the audit trail."),
        click.option(
            "--approval",
            default="",
            expose_value=False,
            callback=_approved_by,
            help="Id of the approval by which the change is made, where a second person had to agree.",
        ),
    )
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def require_yes(question: str, *, yes: bool) -> None:
    """Make sure that somebody means it.

    Raises:
        click.UsageError: Nobody can be asked.
        Failure: They do not.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("this is asked about, and nobody is at a terminal to answer: give --yes")
    if not click.confirm(question, err=True):
        raise Failure("it was not confirmed: nothing was changed")


etag_option = click.option(
    "--etag",
    default="",
    help="The etag that you read: if it was changed since, nothing is done. Without it, it is read now; * writes over "
    "whatever there is.",
)

document_option = click.option(
    "-f",
    "--file",
    "source",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    required=True,
    help="The file; - reads standard input.",
)


def read_text(source: Path) -> str:
    """The text of a file, or of standard input.

    Raises:
        click.UsageError: It is no text.
    """
    try:
        with click.open_file(str(source), encoding="utf-8") as file:
            return str(file.read())
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{source} is not UTF-8: {error}") from None


def show(shared: Shared, message: Message, **shown: object) -> None:
    """Answer with one thing: all of it for machines, and for people what ``shown`` says."""
    lines = {name.replace("_", " "): one_line(value) for name, value in shown.items()}
    shared.output.answer(values(message), lines)


def show_all(shared: Shared, name: str, messages: Iterable[Message], line: Callable[[Any], tuple[str, str]]) -> None:
    """Answer with many things: a line of people's each, or all of them in one JSON object."""
    found = list(messages)
    lines: Mapping[str, object] = {key: one_line(value) or "-" for key, value in (line(one) for one in found)}
    shared.output.answer({name: [values(one) for one in found]}, lines or {name.replace("_", " "): "none"})


def gone(shared: Shared, resource: str) -> None:
    """Answer that something is no longer there."""
    shared.output.answer({"deleted": resource}, {"deleted": resource})


def one_line(value: object) -> object:
    """What stands in one line of an answer: a name with a line feed must not look like another."""
    if isinstance(value, str):
        return value.replace("\n", "\\n")
    if isinstance(value, Iterable):
        return one_line(", ".join(str(one) for one in value))
    return value
