"""``ownkey hsm ceremony`` and ``ownkey hsm custodian``: the log of ceremonies, and those who confirm them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ownkey.cli.main import Group, Shared, output_options
from ownkey.cli.output import INVALID_OBJECT, OK, moment, printable
from ownkey_server.commands.asking import typed
from ownkey_server.commands.hsm.confirming import CeremonyChoice, custodian_options, log_option
from ownkey_server.commands.hsm.options import WHERE, named, reference, told
from ownkey_server.domain.ceremonies import Action, CeremonyInvalid, Register
from ownkey_server.hsm import custodians as keys
from ownkey_server.hsm.ceremony_check import Checked, Head, check, fingerprint
from ownkey_server.hsm.ceremony_log import Intent, open_new, opened
from ownkey_server.hsm.custodians import Confirming
from ownkey_server.hsm.errors import HsmError
from ownkey_server.secret_sources import PROMPT, SecretUnusable


@click.group(cls=Group, no_args_is_help=True)
def custodian() -> None:
    """Make keys for custodians, who confirm ceremonies."""


@custodian.command("new")
@click.argument("name")
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The file to make, on NAME's own medium.",
)
@click.option(
    "--passphrase", "where", metavar="WHERE", default=PROMPT, show_default=True, help=f"Where it is: {WHERE}."
)
@output_options
@click.pass_obj
def new_command(shared: Shared, /, name: str, key: Path, where: str) -> None:
    """Make the key of custodian NAME, under a passphrase that NAME alone knows.

    Whoever has the file and the passphrase can confirm in NAME's name.
    """
    with told():
        source = reference("--passphrase", where, _ask_new)
        try:
            passphrase = source.read()
        except SecretUnusable as error:
            raise HsmError(f"the passphrase in {error}") from None
        made = keys.make(name, key, passphrase)
        passphrase.wipe()
        value = {
            "custodian": name,
            "key": str(key),
            "public_key": made.public_key.hex(),
            "fingerprint": fingerprint(made.public_key),
        }
        shared.output.answer(value, {"custodian": name, "key": key, "fingerprint": value["fingerprint"]})


def _ask_new() -> str:
    return typed("A passphrase of your own", new=True)


@click.group(cls=Group, no_args_is_help=True)
def ceremony() -> None:
    """Begin a ceremony log, read it and verify it, and say who confirms."""


_needed_option = click.option(
    "--needed",
    type=click.IntRange(min=0),
    help="How many custodians confirm each ceremony; two otherwise. One key is destroyed by two, in any case.",
)


@ceremony.command("open")
@log_option
@custodian_options
@_needed_option
@click.option("--alone", is_flag=True, help="Without custodians: whoever runs a command acts alone. For labs.")
@output_options
@click.pass_obj
def open_command(shared: Shared, /, log: Path, needed: int | None, alone: bool, **options: Any) -> None:
    """Begin a ceremony log, with its custodians: each confirms by the key that the log will know them by."""
    with told():
        choice = CeremonyChoice.taken({"log": log, **options})
        if alone and choice.custodian_keys:
            raise click.UsageError("--alone is for a log without --custodian")
        if choice.elsewhere:
            raise click.UsageError(
                f"--custodian {choice.elsewhere[0]}: who opens a log is here, for it does not know their keys yet:"
                f" {choice.elsewhere[0]}=KEYFILE"
            )
        if not alone and not choice.custodian_keys:
            raise click.UsageError("name the custodians by --custodian, or say --alone")
        number = 0 if alone else 2 if needed is None else needed
        choice.show(shared, {"ceremony": "begin a log", "log": str(log), "needed": str(number)})
        present = choice.load(choice.custodian_keys)
        register = Register({each.name: each.public_key for each in present}, number)
        head = open_new(log, choice.clock, register, present)
        shared.output.answer({"log": str(log), "head": str(head), **_told(register)}, _lines(log, head, register))
        if alone:
            shared.output.note("no custodians: one person alone makes and rotates keys here, and nobody destroys any")


@ceremony.command("custodians")
@log_option
@custodian_options
@_needed_option
@click.option("--remove", metavar="NAME", multiple=True, help="Who is no custodian any more; may be repeated.")
@click.option(
    "--add", metavar="NAME=KEYFILE", multiple=True, help="Who becomes one; their passphrase is asked for too."
)
@output_options
@click.pass_obj
def custodians_command(
    shared: Shared, /, log: Path, needed: int | None, remove: tuple[str, ...], add: tuple[str, ...], **options: Any
) -> None:
    """Show the custodians of a log, or change them: as many as each ceremony needs confirm, and those who join."""
    with told():
        choice = CeremonyChoice.taken({"log": log, "add": add, **options})
        if not remove and not add and needed is None:
            checked = check(log)
            shared.output.answer(_told(checked.register), _lines(log, checked.head, checked.register))
            return
        joining = named("--add", add, "NAME=KEYFILE")
        with opened(log, choice.clock) as book:
            present = choice.load({**choice.custodian_keys, **{name: Path(key) for name, key in joining.items()}})
            kept = {name: key for name, key in book.register.custodians.items() if name not in remove}
            unknown = sorted({*remove} - {*book.register.custodians})
            if unknown:
                raise HsmError(f"{unknown[0]} is no custodian of {log}")
            again = sorted({*joining} & {*kept})
            if again:
                raise HsmError(f"{again[0]} is a custodian already")
            new = {each.name: each.public_key for each in present if each.name in joining}
            register = Register({**kept, **new}, book.register.needed if needed is None else needed)
            try:
                register.require_sound()
            except CeremonyInvalid as error:
                raise HsmError(str(error)) from None
            confirming: list[Confirming] = [*present, *choice.absent(shared)]
            begun = book.begin(Intent(Action.CUSTODIANS, detail=register.to_fields()), confirming)
            head = begun.done(register.to_fields())
        shared.output.answer({"log": str(log), "head": str(head), **_told(register)}, _lines(log, head, register))


@ceremony.command("verify")
@log_option
@click.option("--head", "known", metavar="HEAD", help="A head that a ceremony printed: the log must have come by it.")
@output_options
@click.pass_obj
def verify_command(shared: Shared, /, log: Path, known: str | None) -> int:
    """Check a ceremony log: that no record was changed, removed or added, and that each was confirmed as it had to be.

    What was written after the last head that you know of, whoever can write the file may have removed.
    """
    with told():
        checked = check(log, Head.parse(known) if known else None)
    for problem in checked.problems:
        shared.output.note(f"wrong: {problem}")
    for note in checked.notes:
        shared.output.note(f"note: {note}")
    sound = not checked.problems
    value = {
        "log": str(log),
        "sound": sound,
        "records": checked.head.sequence,
        "head": str(checked.head),
        "problems": checked.problems,
        "notes": checked.notes,
        "unfinished": sorted(checked.unfinished),
        **_told(checked.register),
    }
    verdict = "sound: every record is as it was written, and was confirmed" if sound else "not as it was written"
    shared.output.answer(value, {"log": f"{log}: {verdict}", "records": checked.head.sequence, "head": checked.head})
    return OK if sound else INVALID_OBJECT


@ceremony.command("show")
@log_option
@output_options
@click.pass_obj
def show_command(shared: Shared, /, log: Path) -> None:
    """Show all ceremonies: when, what, which key and token, its check value, and who confirmed."""
    with told():
        checked = check(log)
    if shared.as_json:
        shared.output.answer({"log": str(log), "head": str(checked.head), "records": _records(checked)})
        return
    for number, record in checked.records.items():
        who = ", ".join(each.custodian for each in record.confirmations) or "nobody"
        values = [_values(key) for key in record.detail.get("keys", ()) if isinstance(key, dict)]
        parts = [
            f"{number:>4}  {moment(record.time)}  {record.action.value} {record.phase.value}",
            record.key,
            ", ".join(f"{one.get('label')} ({one.get('serial')})" for one in record.tokens),
            f"check value {values[0]}" if values and values[0] else "",
            f"by {record.operator}, confirmed by {who}",
            str(record.detail.get("why", "")),
        ]
        shared.output.document("", printable("  ".join(part for part in parts if part)))
    for problem in checked.problems:
        shared.output.note(f"wrong: {problem}")


def _values(key: dict[str, Any]) -> str:
    values = key.get("check_values")
    return ", ".join(map(str, values.values())) if isinstance(values, dict) else ""


def _records(checked: Checked) -> list[dict[str, Any]]:
    return [
        {
            "number": number,
            "action": record.action.value,
            "phase": record.phase.value,
            "time": record.time,
            "ceremony": record.ceremony or number,
            "operator": record.operator,
            "tokens": list(record.tokens),
            "key": record.key,
            "detail": record.detail,
            "confirmed_by": [each.custodian for each in record.confirmations],
        }
        for number, record in checked.records.items()
    ]


def _told(register: Register) -> dict[str, Any]:
    return {
        "custodians": {name: fingerprint(key) for name, key in sorted(register.custodians.items())},
        "needed": register.needed,
    }


def _lines(log: Path, head: Head, register: Register) -> dict[str, object]:
    return {
        "log": log,
        "custodians": ", ".join(sorted(register.custodians)) or "none",
        "needed": register.needed,
        "head": head,
    }
