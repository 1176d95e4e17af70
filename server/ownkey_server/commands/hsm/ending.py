"""``ownkey hsm close`` and ``retire``: a key wraps no more, opens no more, is no more."""

from __future__ import annotations

import sys
from typing import Any

import click

from ownkey.cli.main import Shared, output_options
from ownkey_server.commands.hsm.confirming import CeremonyChoice, ceremony_options
from ownkey_server.commands.hsm.making import answer, describe
from ownkey_server.commands.hsm.options import TokenChoice, replica_options, token_options, told
from ownkey_server.hsm import ending, making
from ownkey_server.hsm.ceremony_log import opened
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import KeyFacts, told_check_value
from ownkey_server.hsm.operations.keys import LookAtKey
from ownkey_server.hsm.work import at_work

_ASKED = {
    False: "Take from {} (check value {}) the right to wrap?",
    True: "Take from {} (check value {}) all rights, so that it opens nothing more?",
}
_confirm_option = click.option(
    "--confirm",
    metavar="LABEL:CHECKVALUE",
    help="Which key, again, and its check value: needed with --json, where nobody is at a terminal, and to destroy.",
)


@click.command("close")
@click.argument("label")
@token_options
@replica_options
@_confirm_option
@ceremony_options
@output_options
@click.pass_obj
def close_command(shared: Shared, /, label: str, confirm: str | None, **options: Any) -> None:
    """Take from the key LABEL the right to wrap: what it has wrapped, it still opens.

    First have policy name its successor, and retire it in the service: it would take this for a revocation otherwise.
    """
    _take(shared, label, confirm, options, opening=False)


@click.command("retire")
@click.argument("label")
@token_options
@replica_options
@click.option("--destroy", is_flag=True, help="Destroy the key, which must be retired already: two custodians confirm.")
@_confirm_option
@ceremony_options
@output_options
@click.pass_obj
def retire_command(shared: Shared, /, label: str, destroy: bool, confirm: str | None, **options: Any) -> None:
    """Take all rights from the key LABEL: what is wrapped under it opens no more, and the service tells it as revoked.

    The rights can be given back by the vendor's tools. With --destroy, nothing brings the key back.
    """
    if destroy:
        _destroy(shared, label, confirm, options)
    else:
        _take(shared, label, confirm, options, opening=True)


def _take(shared: Shared, label: str, confirm: str | None, options: dict[str, Any], *, opening: bool) -> None:
    with told():
        label = str(making.parsed(label))
        asks = sys.stdin.isatty() and not shared.as_json
        if confirm is None and not asks:
            raise click.UsageError(f"nobody is at a terminal to be asked whether this key is meant: say {_how(label)}")
        choice, ceremony = TokenChoice.taken(options), CeremonyChoice.taken(options)
        with at_work(choice.places(), verbose=shared.verbose) as tokens, opened(ceremony.log, ceremony.clock) as log:
            known = _known_values(
                log.checked.published(label, tokens[0].facts.serial), [token.ask(LookAtKey(label)) for token in tokens]
            )
            if confirm is not None:
                _require_named(label, confirm, known)
            elif not click.confirm(_ASKED[opening].format(label, ", ".join(sorted(known))), err=True):
                raise HsmError("it was not agreed to: nothing was done", Trouble.REFUSED)
            what = "a key opens nothing more" if opening else "a key wraps nothing more"
            custodians = ceremony.custodians(shared, describe(what, label, tokens))
            made = ending.take_rights(log, custodians, tokens, label, opening=opening)
        following = "" if opening else f"once nothing is wrapped under it any more: ownkey hsm retire {label}"
        answer(shared, ceremony, tokens, made, following)


def _destroy(shared: Shared, label: str, confirm: str | None, options: dict[str, Any]) -> None:
    with told():
        label = str(making.parsed(label))
        choice, ceremony = TokenChoice.taken(options), CeremonyChoice.taken(options)
        with at_work(choice.places(), verbose=shared.verbose) as tokens, opened(ceremony.log, ceremony.clock) as log:
            keys = [token.ask(LookAtKey(label)) for token in tokens]
            ending.require_destroyable(keys)
            known = _known_values(log.checked.published(label, tokens[0].facts.serial), keys)
            _require_named(label, confirm, known)
            custodians = ceremony.custodians(shared, describe("DESTROY a key, for ever", label, tokens))
            made = ending.destroy(log, custodians, tokens, keys)
        answer(shared, ceremony, tokens, made, "take it out of the settings of the service: it is gone")


def _require_named(label: str, confirm: str | None, known: set[str]) -> None:
    if confirm is None:
        raise HsmError(f"to destroy {label!r}, say which key it is", Trouble.REFUSED, _how(label))
    # With the method before it or without, as people have it from elsewhere.
    if confirm not in {f"{label}:{value}" for told in known for value in (told, told.rpartition(":")[2])}:
        raise HsmError(f"--confirm {confirm} names another key: nothing was done", Trouble.REFUSED, _how(label))


def _how(label: str) -> str:
    return (
        f"--confirm {label}:CHECKVALUE, with the check value that `ownkey hsm list` and the log have; of a key without"
        f" one, --confirm {label}:none"
    )


def _known_values(record: Any, keys: list[KeyFacts]) -> set[str]:
    """Check values of the key, of now and of when it was made: a retired key may let none be computed any more."""
    found = [key.check_values for key in keys]
    found += [made.get("check_values", {}) for made in (record.detail.get("keys", ()) if record else ())]
    return {told_check_value({method: value}) for values in found for method, value in values.items()} or {"none"}
