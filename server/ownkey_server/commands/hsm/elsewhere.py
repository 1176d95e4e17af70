"""``ownkey hsm ceremony confirm``: a custodian at a terminal of their own confirms what somebody else runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from ownkey.cli.main import Shared, output_options
from ownkey.cli.output import DENIED, OK
from ownkey_server.commands.hsm.confirming import CeremonyChoice, wait_option
from ownkey_server.commands.hsm.options import told
from ownkey_server.domain.ceremonies import Phase, Record, Register
from ownkey_server.hsm.ceremony_check import check
from ownkey_server.hsm.custodians import Custodian
from ownkey_server.hsm.elsewhere import SECONDS_BETWEEN_LOOKS, Request, answer_path, following
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.new_files import write_new


@click.command("confirm")
@click.argument("request", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--custodian", "custodian_key", metavar="NAME=KEYFILE", required=True, help="Who you are, and your key.")
@click.option(
    "--passphrase",
    metavar="WHERE",
    help="Where your passphrase is: file:PATH, env:NAME or credential:NAME. Typed, if not.",
)
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A ceremony log of your own: the request must go on where it ends.",
)
@click.option("--refuse", is_flag=True, help="Say no. Nothing is signed, and nothing is done.")
@click.option("--once", is_flag=True, help="Do not wait for what comes of it; that is then another request.")
@click.option("--yes", is_flag=True, help="Confirm what comes of it without a question.")
@wait_option
@output_options
@click.pass_obj
def confirm_command(
    shared: Shared,
    /,
    request: Path,
    custodian_key: str,
    passphrase: str | None,
    log: Path | None,
    refuse: bool,
    once: bool,
    yes: bool,
    wait: float,
) -> int:
    """Confirm what a REQUEST says, at your own terminal or machine, and then what came of it.

    What is shown is what is signed. The answer is a file beside the request: carry it back if that was carried to you.
    """
    with told():
        asked = Request.read(request)
        name, _, file = custodian_key.partition("=")
        if not file:
            raise click.UsageError("--custodian must be NAME=KEYFILE")
        if asked.custodian != name:
            raise HsmError(f"{request}: it asks {asked.custodian}, and not {name}", Trouble.REFUSED)
        known = _require_next(asked, log) if log is not None else None
        CeremonyChoice.show(shared, shown(asked))
        if refuse:
            write_new(answer_path(request), asked.refused())
            value = {"custodian": name, "ceremony": asked.ceremony, "confirmed": [], "shown": [shown(asked)]}
            shared.output.answer(value, {"custodian": name, "confirmed": "nothing"})
            return DENIED
        custodian = _custodian(custodian_key, passphrase)
        if known is not None and known.custodians.get(name) != custodian.public_key:
            raise HsmError(
                f"{file}: that is not the key by which {log} knows {name}: nothing was signed", Trouble.REFUSED
            )
        confirmed, seen, agreed = [_sign(asked, request, custodian)], [shown(asked)], True
        if asked.record.phase is Phase.BEGUN and not once:
            shared.output.note("confirmed. Waiting for what comes of it, which you confirm too; Ctrl-C if nothing does")
            path, outcome = _outcome(asked, request, wait)
            seen.append(shown(outcome))
            CeremonyChoice.show(shared, seen[-1])
            agreed = (
                yes or shared.as_json or not sys.stdin.isatty() or click.confirm("Confirm what came of it?", err=True)
            )
            if agreed:
                confirmed.append(_sign(outcome, path, custodian))
            else:
                write_new(answer_path(path), outcome.refused())
        value = {"custodian": name, "ceremony": asked.ceremony, "confirmed": confirmed, "shown": seen}
        shared.output.answer(value, {"custodian": name, "confirmed": ", ".join(map(str, confirmed))})
        return OK if agreed else DENIED


def shown(request: Request) -> Mapping[str, str]:
    """What a request says, a line each: all of it that is signed. No name in its detail stands in for another's."""
    return dict(_lines(request.record, request))


def _lines(record: Record, request: Request) -> Iterator[tuple[str, str]]:
    what = "to be done" if record.phase is Phase.BEGUN else f"what came of ceremony {record.ceremony}"
    yield what, record.action.value.replace("_", " ")
    if record.key:
        yield "key", record.key
    for number, token in enumerate(record.tokens, 1):
        yield f"token {number}" if len(record.tokens) > 1 else "token", ", ".join(map(str, token.values()))
    for name, value in sorted(record.detail.items()):
        yield f"detail {name}", value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    yield "run by", record.operator
    yield "time", record.time.isoformat(timespec="seconds")
    yield "in the log", f"record {request.number}, after {request.previous.hex()}"


def _require_next(request: Request, log: Path) -> Register:
    """Make sure that a request goes on where a log ends; who its custodians are."""
    checked = check(log)
    checked.require_sound(log)
    if (checked.head.sequence + 1, checked.head.hash) != (request.number, request.previous):
        raise HsmError(
            f"the request is for record {request.number} after {request.previous.hex()[:16]}…, and {log} ends with"
            f" {str(checked.head)[:24]}…: it is another log, or one of them was changed",
            Trouble.FORGED,
        )
    return checked.register


def _custodian(custodian_key: str, passphrase: str | None) -> Custodian:
    name = custodian_key.partition("=")[0]
    options: dict[str, Any] = {
        "custodian_keys": (custodian_key,),
        "passphrases": (f"{name}={passphrase}",) if passphrase else (),
        "log": Path(),
        "exchange": Path(),
        "wait": 0.0,
    }
    choice = CeremonyChoice.taken(options)
    return choice.load(choice.custodian_keys)[0]


def _sign(request: Request, path: Path, custodian: Custodian) -> int:
    write_new(answer_path(path), request.confirmed(custodian))
    return request.number


def _outcome(request: Request, path: Path, wait: float) -> tuple[Path, Request]:
    until = time.monotonic() + wait
    while (found := following(request, path)) is None:
        if time.monotonic() >= until:
            raise HsmError(
                f"nothing came of ceremony {request.number} within {wait:g} s",
                Trouble.NOT_FOUND,
                "whoever runs it knows; what comes of it later is a request of its own",
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return found
