"""``ownkey hsm close`` and ``retire``: a key wraps no more, opens no more, is no more."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ownkey.cli.main import Shared, output_options
from ownkey_server.commands.hsm.confirming import CeremonyChoice, ceremony_options
from ownkey_server.commands.hsm.making import answer, describe
from ownkey_server.commands.hsm.options import TokenChoice, replica_options, token_options, told
from ownkey_server.hsm import ending, making
from ownkey_server.hsm.ceremony_check import Checked
from ownkey_server.hsm.ceremony_log import opened
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import KeyFacts, told_check_value
from ownkey_server.hsm.operations.keys import LookAtKey
from ownkey_server.hsm.work import TokenAtWork, at_work

_ASKED = {
    False: "Take from {} (check value {}) the right to wrap?",
    True: "Take from {} (check value {}) all rights, so that it opens nothing more?",
}
# Told without a method, as `--confirm LABEL:none` has it.
NO_VALUES: Mapping[str, str] = {"aes-ecb": "none"}
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
            keys = [token.ask(LookAtKey(label)) for token in tokens]
            known = [_known_values(log.checked, token, key) for token, key in zip(tokens, keys, strict=True)]
            if confirm is not None:
                _require_named(label, confirm, known)
            elif not click.confirm(_ASKED[opening].format(label, _shown(known)), err=True):
                raise HsmError("it was not agreed to: nothing was done", Trouble.REFUSED)
            what = "a key opens nothing more" if opening else "a key wraps nothing more"
            custodians = ceremony.custodians(shared, describe(what, label, tokens))
            made = ending.take_rights(log, custodians, tokens, keys, opening=opening)
        following = "" if opening else f"once nothing is wrapped under it any more: ownkey hsm retire {label}"
        answer(shared, ceremony, tokens, made, following)


def _destroy(shared: Shared, label: str, confirm: str | None, options: dict[str, Any]) -> None:
    with told():
        label = str(making.parsed(label))
        choice, ceremony = TokenChoice.taken(options), CeremonyChoice.taken(options)
        with at_work(choice.places(), verbose=shared.verbose) as tokens, opened(ceremony.log, ceremony.clock) as log:
            keys = [token.ask(LookAtKey(label)) for token in tokens]
            ending.require_destroyable(keys)
            known = [_known_values(log.checked, token, key) for token, key in zip(tokens, keys, strict=True)]
            _require_named(label, confirm, known)
            custodians = ceremony.custodians(shared, describe("DESTROY a key, for ever", label, tokens))
            made = ending.destroy(log, custodians, tokens, keys)
        answer(shared, ceremony, tokens, made, "take it out of the settings of the service: it is gone")


def _require_named(label: str, confirm: str | None, known: Sequence[Mapping[str, str]]) -> None:
    """Refuse what does not name the key of every token: one is named by its value, and no other has another."""
    if confirm is None:
        raise HsmError(f"to destroy {label!r}, say which key it is", Trouble.REFUSED, _how(label))
    # With the method before it or without, as people have it from elsewhere.
    named = {
        method
        for values in known
        for method, value in values.items()
        if confirm in (f"{label}:{told_check_value({method: value})}", f"{label}:{value}")
    }
    seen = {values[method] for values in known for method in named if method in values}
    if not named or len(seen) > 1:
        raise HsmError(f"--confirm {confirm} names another key: nothing was done", Trouble.REFUSED, _how(label))


def _how(label: str) -> str:
    return (
        f"--confirm {label}:CHECKVALUE, with the check value that `ownkey hsm list` and the log have; of a key without"
        f" one, --confirm {label}:none"
    )


def _known_values(checked: Checked, token: TokenAtWork, key: KeyFacts) -> Mapping[str, str]:
    """Check values of the key, by method: of now, and as it was made, where its rights let those be computed no more.

    The label may be another key's by now. Where one value shows that, what the log knows of the first names nothing.
    """
    record, now = checked.published(key.label, token.facts.serial), key.check_values
    made = record.detail.get("keys", ()) if record else ()
    before = {method: value for each in made for method, value in each.get("check_values", {}).items()}
    is_another = any(before.get(method, value) != value for method, value in now.items())
    return (dict(now) if is_another else {**before, **now}) or NO_VALUES


def _shown(known: Sequence[Mapping[str, str]]) -> str:
    return ", ".join(sorted({told_check_value({method: value}) for one in known for method, value in one.items()}))
