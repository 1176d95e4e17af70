"""``ownkey hsm list``: the keys of a token, what they may do, and whether the service would use them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ownkey.cli.main import Shared, output_options
from ownkey.cli.output import printable
from ownkey_server.commands.hsm.confirming import log_option
from ownkey_server.commands.hsm.options import TokenChoice, token_options, told
from ownkey_server.domain.key_labels import KeyLabel, LabelInvalid, pending_for
from ownkey_server.hsm.ceremony_check import Checked, check
from ownkey_server.hsm.facts import KeyFacts, told_check_value
from ownkey_server.hsm.import_pairs import wrapping_keys
from ownkey_server.hsm.operations.tokens import ListKeys
from ownkey_server.hsm.work import at_work

_PAIRS = {
    "waiting": "waits for what the customer sends",
    "left": "its import has ended, and it should be gone: `ownkey hsm settle` destroys it",
    "unknown": "no ceremony log that was looked at knows it",
}
WIDTH = 160  # where nobody looks: nothing is cut off or folded


@click.command("list")
@token_options
@log_option
@output_options
@click.pass_obj
def list_command(shared: Shared, /, log: Path, **options: Any) -> None:
    """List the secret keys of a token: version, check value, use, rights, and why the service would not use one.

    With a ceremony log, also in which ceremony each was made.
    """
    with told():
        choice = TokenChoice.taken(options)
        checked = check(log) if log.exists() else None
        with at_work(choice.places(), verbose=shared.verbose) as tokens:
            keys = tokens[0].ask(ListKeys())
            pairs = wrapping_keys(checked, tokens[0])
            facts = tokens[0].facts
    rows = [_row(key, checked, facts.serial) for key in keys]
    if shared.as_json:
        imports = [{"key": label, "state": state} for label, state in sorted(pairs.items())]
        shared.output.answer({"token": facts.identity, "keys": rows, "wrapping_keys": imports})
        return
    shared.output.note(str(facts))
    for label, state in sorted(pairs.items()):
        shared.output.note(f"the wrapping key for the import of {printable(label)}: {_PAIRS[state]}")
    if not rows:
        shared.output.note("no secret keys")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("key", "version", "check value", "use", "rights", "made", "remarks"):
        table.add_column(title, overflow="fold")
    for key, row in zip(keys, rows, strict=True):
        version = str(row["version"]) if row["version"] else ""
        made = f"ceremony {row['ceremony']}" if row["ceremony"] else ""
        cells = (
            str(row["key"]),
            version,
            told_check_value(key.check_values),
            key.use.value,
            ", ".join(key.rights) or "none",
            made,
            "; ".join(row["remarks"]),
        )
        table.add_row(*map(printable, cells))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH).print(table)


def _row(key: KeyFacts, checked: Checked | None, serial: str) -> dict[str, Any]:
    label = pending_for(key.label) or key.label
    try:
        version = KeyLabel.parse(label).version
    except LabelInvalid:
        version = 0
    ceremony, remarks = _ceremony(key, checked, serial), list(key.unfit)
    if key.exportable and not key.unfit:
        remarks.append("can be exported: the service uses it where its key store has exportable_keys = true")
    if pending_for(key.label):
        remarks.insert(0, "half made: `ownkey hsm settle` ends it")
    elif checked is not None and not ceremony:
        remarks.append("the ceremony log does not know it")
    return {
        "key": label,
        "version": version,
        "check_values": dict(key.check_values),
        "use": key.use.value,
        "type": key.key_type,
        "bits": key.bits,
        "rights": list(key.rights),
        "sensitive": key.sensitive,
        "extractable": key.extractable,
        "exportable": key.exportable,
        "never_extractable": key.never_extractable,
        "local": key.local,
        "modifiable": key.modifiable,
        "ceremony": ceremony,
        "remarks": remarks,
    }


def _ceremony(key: KeyFacts, checked: Checked | None, serial: str) -> int | None:
    """The ceremony in which this very key was made, as far as its check values tell."""
    record = checked.published(pending_for(key.label) or key.label, serial) if checked else None
    for made in record.detail.get("keys", ()) if record else ():
        values = made.get("check_values", {})
        same = all(values.get(method, value) == value for method, value in key.check_values.items())
        if made.get("serial") == serial and same:
            return record.ceremony if record else None
    return None
