"""``ownkey hsm init``: a token, its two PINs, and never by accident one that somebody uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ownkey.cli.main import Shared, output_options
from ownkey_server.commands.asking import typed
from ownkey_server.commands.hsm.confirming import CeremonyChoice, ceremony_options
from ownkey_server.commands.hsm.options import WHERE, module_arguments_option, reference, so_pin_option, told
from ownkey_server.domain.ceremonies import Action
from ownkey_server.hsm.ceremony_log import Intent, opened
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import TokenFacts
from ownkey_server.hsm.operations.tokens import LABEL_LENGTH, InitializeToken, ListTokens
from ownkey_server.hsm.processes import ModuleProcess
from ownkey_server.hsm.work import text_of
from ownkey_server.secret_sources import PROMPT, SecretReference, take_from_environment

SECONDS = 120.0


@click.command("init")
@click.option(
    "--module", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The vendor's library: a .so file."
)
@module_arguments_option
@click.option("--token", "label", metavar="LABEL", required=True, help="The token's label: at most 32 bytes.")
@so_pin_option
@click.option("--pin", metavar="WHERE", default=PROMPT, show_default=True, help=f"Where the new user PIN is: {WHERE}.")
@click.option(
    "--erase",
    metavar="LABEL:SERIAL",
    help="Initialize this token anew, and lose every key in it for ever. Its label and serial number, as it has them.",
)
@ceremony_options
@output_options
@click.pass_obj
def init_command(
    shared: Shared,
    /,
    module: Path,
    module_arguments: str | None,
    label: str,
    so_pin: str,
    pin: str,
    erase: str | None,
    **options: Any,
) -> None:
    """Initialize a token: its label, its SO PIN and its user PIN.

    A token that has been initialized is left alone, unless --erase names it by its label and its serial number. One
    that was left without a user PIN, because this was cut off, is given it.
    """
    with told():
        choice = CeremonyChoice.taken(options)
        if not 0 < len(label.encode()) <= LABEL_LENGTH:
            raise HsmError(f"a token's label has 1 to {LABEL_LENGTH} bytes")
        first = None if so_pin == PROMPT else reference("--so-pin", so_pin, str)
        second = None if pin == PROMPT else reference("--pin", pin, str)
        take_from_environment(one for one in (first, second) if one)
        with (
            ModuleProcess(module, module_arguments, verbose=shared.verbose) as process,
            opened(choice.log, choice.clock) as log,
        ):
            was, keep = _chosen(process.ask(ListTokens()), label, erase)
            loss = f"erase {was}, with every key in it" if was.initialized and not keep else ""
            what = {"ceremony": "initialize a token", "token": label, "first": loss, "module": str(module)}
            custodians = choice.custodians(shared, {name: text for name, text in what.items() if text})
            first = first or SecretReference.typed(_ask("PIN of the security officer", new=not was.initialized))
            second = second or SecretReference.typed(_ask("New user PIN", new=True))
            operation = InitializeToken(label, was, text_of(first, "SO PIN"), text_of(second, "user PIN"), keep)
            detail = {"label": label, "module": module.name, "erased": was.identity if loss else {}}
            ceremony = log.begin(Intent(Action.INITIALIZE, (was.identity,), detail=detail), custodians)
            try:
                made = process.ask(operation, SECONDS)
            except HsmError as error:
                ceremony.failed(str(error))
                raise
            head = ceremony.done({"erased": detail["erased"]}, (made.identity,))
    following = f"ownkey hsm keygen NAME --module {module} --token {label}, or a key store in the settings"
    value = {"token": made.identity, "ceremony": ceremony.number, "head": str(head), "next": following}
    lines = {
        "initialized": str(made),
        "ceremony": f"{ceremony.number} in {choice.log}",
        "head": head,
        "next": following,
    }
    shared.output.answer(value, lines)


def _chosen(tokens: Sequence[TokenFacts], label: str, erase: str | None) -> tuple[TokenFacts, bool]:
    """The token to initialize, and whether only its user PIN is missing."""
    there = [each for each in tokens if each.initialized]
    same = [each for each in there if each.label == label]
    if erase is not None:
        named = [each for each in there if f"{each.label}:{each.serial}" == erase]
        if len(named) != 1:
            known = ", ".join(f"{each.label}:{each.serial}" for each in there) or "none"
            raise HsmError("--erase names no token that is here", Trouble.NOT_FOUND, f"there are: {known}")
        if [each for each in same if each != named[0]]:
            raise HsmError(f"another token has the label {label!r}", Trouble.TAKEN)
        return named[0], False
    if len(same) == 1 and not same[0].has_user_pin:
        return same[0], True
    if same:
        hint = f"to lose every key in it for ever: --erase {same[0].label}:{same[0].serial}"
        raise HsmError(f"the token {same[0]} is initialized", Trouble.TAKEN, hint)
    free = [each for each in tokens if not each.initialized]
    if not free:
        known = ", ".join(f"{each.label}:{each.serial}" for each in there) or "none"
        raise HsmError(
            "no token is waiting to be initialized", Trouble.NOT_FOUND, f"there are: {known}; --erase names one"
        )
    return free[0], False


def _ask(what: str, *, new: bool) -> str:
    return typed(what, new=new)
