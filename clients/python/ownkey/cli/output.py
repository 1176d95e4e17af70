"""What the command line prints, and how it ends: for people in lines, for machines in JSON."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from ownkey import errors

OK = 0
OTHER_ERROR = 1
USAGE = 2
DENIED = 3
REVOKED = 4
UNAVAILABLE = 5
INVALID_OBJECT = 6
CALL_REFUSED = 7
NOT_FOUND = 8
MISCONFIGURED = 9
CONFLICT = 10
UNAUTHENTICATED = 11
WARNED = 12

EXIT_CODES: Mapping[int, str] = {
    OK: "done",
    OTHER_ERROR: "another error",
    USAGE: "the command, the request or the settings are wrong",
    DENIED: "denied by the tenant's policy, or by your roles",
    REVOKED: "the key was revoked",
    UNAVAILABLE: "key or service unreachable: try again later",
    INVALID_OBJECT: "the object or wrapped key is damaged, forged, or another asset's",
    CALL_REFUSED: "the call is refused",
    NOT_FOUND: "no such tenant, key or other thing",
    MISCONFIGURED: "the key is misconfigured",
    CONFLICT: "something is there already, or the change is not possible as things are, or needs a second person",
    UNAUTHENTICATED: "the service does not know who you are",
    WARNED: "nothing failed, there are warnings, and --strict was given",
}
EXIT_CODE_OF_ERROR: Mapping[type[errors.OwnkeyError], int] = {
    errors.InvalidRequest: USAGE,
    errors.NotFound: NOT_FOUND,
    errors.NotAuthenticated: UNAUTHENTICATED,
    errors.PermissionDenied: DENIED,
    errors.PolicyDenied: DENIED,
    errors.ApprovalRequired: CONFLICT,
    errors.TooMuch: UNAVAILABLE,
    errors.KeyRevoked: REVOKED,
    errors.KeyUnreachable: UNAVAILABLE,
    errors.KeyMisconfigured: MISCONFIGURED,
    errors.CiphertextInvalid: INVALID_OBJECT,
    errors.AlreadyExists: CONFLICT,
    errors.InUse: CONFLICT,
    errors.Conflict: CONFLICT,
    errors.EnrolmentFailed: MISCONFIGURED,
    errors.ServiceImpaired: UNAVAILABLE,
    errors.ServiceUnavailable: UNAVAILABLE,
    errors.ServiceFailed: OTHER_ERROR,
    errors.OwnkeyError: OTHER_ERROR,
}


class Failure(click.ClickException):
    """What ends a command that asked no service.

    Args:
        message: What happened.
        code: One of the codes above.
        hint: What to do about it.
    """

    def __init__(self, message: str, code: int = OTHER_ERROR, *, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # click means one for each class
        self.hint = hint


_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
STATE_COLOURS = {
    "available": "green",
    "degraded": "yellow",
    "revoked": "red",
    "unreachable": "yellow",
    "misconfigured": "magenta",
}


class Output:
    """Where answers and errors go.

    Args:
        as_json: One JSON object for an answer on standard output, one for an error on standard error.
        verbose: Details with errors.
    """

    def __init__(self, *, as_json: bool, verbose: bool) -> None:
        self.as_json = as_json
        self.verbose = verbose

    def answer(self, value: object, lines: Mapping[str, object] | None = None) -> None:
        """Print an answer: ``value`` for machines, and for people a line for each of ``lines``."""
        if self.as_json:
            click.echo(json.dumps(plain(value), sort_keys=True))
            return
        shown = {name: text for name, text in (lines or {}).items() if text not in ("", None)}
        width = max((len(name) for name in shown), default=0)
        for name, text in shown.items():
            click.echo(f"{printable(name):<{width}}  {_printable_in_colour(str(text))}")

    def document(self, name: str, text: str) -> None:
        """Print a whole document: as it is, or as a field of a JSON object."""
        if self.as_json:
            self.answer({name: text})
        else:
            click.echo(text, nl=not text.endswith("\n"))

    def note(self, text: str) -> None:
        """Say something besides the answer, to people only."""
        if not self.as_json:
            click.echo(printable(text), err=True)

    def error(self, message: str, exit_code: int, *, reason: str | None = None, hint: str = "", **more: object) -> None:
        """Print an error."""
        if self.as_json:
            fields = {"error": message, "exit_code": exit_code, "reason": reason, "hint": hint, **more}
            click.echo(
                json.dumps({name: value for name, value in fields.items() if value not in (None, "", {})}), err=True
            )
            return
        click.echo(f"ownkey: error: {printable(message)}", err=True)
        if hint:
            click.echo(f"ownkey: hint: {printable(hint)}", err=True)
        if self.verbose:
            for name, value in {"reason": reason, **more}.items():
                if value:
                    click.echo(f"ownkey: {name}: {printable(str(value))}", err=True)

    def failure(self, error: errors.OwnkeyError, message: str = "") -> int:
        """Print an error of the SDK, in its own words or in others; gives the exit code."""
        code = exit_code_of(type(error))
        self.error(
            message or str(error),
            code,
            reason=error.reason,
            hint=error.hint,
            retry_after=error.retry_after,
            metadata=error.metadata,
            violations=error.violations,
        )
        return code


def exit_code_of(kind: type[errors.OwnkeyError]) -> int:
    """How a command ends that such an error ends."""
    return next(code for listed, code in EXIT_CODE_OF_ERROR.items() if issubclass(kind, listed))


def plain(value: object) -> Any:  # noqa: PLR0911 - a kind a line
    """The value as JSON has it: bytes in base64, times in ISO 8601, lengths of time in seconds."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    match value:
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case bytes():
            return base64.b64encode(value).decode()
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            return value.total_seconds()
        case _:
            return value


def moment(time: datetime) -> str:
    """A time as people read it: ``2026-11-27T16:43:29Z``."""
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def printable(text: str) -> str:
    """The text without what would move a terminal's cursor: a name in a file may be anybody's."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _printable_in_colour(text: str) -> str:
    """The same, but colours stay: they move no cursor."""
    return "".join(part if _COLOUR.fullmatch(part) else printable(part) for part in _COLOUR.split(text))


def coloured(state: str) -> str:
    """A key's state in its colour, where there are colours."""
    return click.style(state, fg=STATE_COLOURS.get(state, "yellow")) if sys.stdout.isatty() else state


def ago(age: timedelta | None) -> str:
    """How long ago something was seen."""
    return "never asked" if age is None else f"seen {age.total_seconds():.1f} s ago"
