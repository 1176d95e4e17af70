"""``ownkey hsm keygen``, ``rotate`` and ``settle``: keys, their next versions, and what was cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ownkey.cli.main import Shared, output_options
from ownkey_server.commands.hsm.confirming import CeremonyChoice, ceremony_options, log_option
from ownkey_server.commands.hsm.options import TokenChoice, exportable_option, replica_options, token_options, told
from ownkey_server.domain.ceremonies import Action
from ownkey_server.domain.clock import system_clock
from ownkey_server.hsm import making
from ownkey_server.hsm.ceremony_log import opened
from ownkey_server.hsm.facts import told_check_value
from ownkey_server.hsm.import_pairs import settle_pairs
from ownkey_server.hsm.making import Made
from ownkey_server.hsm.work import TokenAtWork, at_work

EXPORTABLE = "yes: two custodians and the security officer can have it wrapped for another token"


@click.command("keygen")
@click.argument("name")
@token_options
@replica_options
@exportable_option
@ceremony_options
@output_options
@click.pass_obj
def keygen_command(shared: Shared, /, name: str, exportable: bool, **options: Any) -> None:
    """Make the first version of the key NAME in a token: NAME/v1, AES of 256 bits, sensitive, never to be extracted.

    With --replica, the same key in several tokens: made in the first, wrapped for each by an RSA key of that token, and
    in clear nowhere. Each key is tried before it counts, and all open what each has wrapped.

    With --exportable, `ownkey hsm export` can have it wrapped for another token later: with the security officer's PIN,
    and by two custodians. Only where the token keeps to CKA_WRAP_WITH_TRUSTED, which is tried first; and the service
    uses such a key only where the settings of its key store say exportable_keys = true.
    """
    with told():
        key = making.parsed(name)
        choice, ceremony = TokenChoice.taken(options), CeremonyChoice.taken(options)
        with at_work(choice.places(), verbose=shared.verbose) as tokens, opened(ceremony.log, ceremony.clock) as log:
            label = str(making.first_version(tokens, key))
            what = describe("make a key", label, tokens, exportable=exportable)
            custodians = ceremony.custodians(shared, what)
            made = making.make(
                log,
                custodians,
                Action.KEYGEN,
                tokens,
                label,
                lambda: making.generate(tokens, label, exportable=exportable),
                ceremony.approve(shared),
            )
        answer(shared, ceremony, tokens, made, f'reference = "{label}" for the key in the tenants file')


@click.command("rotate")
@click.argument("name")
@token_options
@replica_options
@exportable_option
@ceremony_options
@output_options
@click.pass_obj
def rotate_command(shared: Shared, /, name: str, exportable: bool, **options: Any) -> None:
    """Make the next version of the key NAME. The old ones are left as they are, until nobody wraps under them.

    Whether it can be exported is said anew for each version: without --exportable it never can.

    Name every token that has the key. What comes after: enrol the new version and have policy name it; `ownkey hsm
    close` takes the right to wrap from the old one, and `ownkey hsm retire` ends it once nothing is wrapped under it.
    """
    with told():
        key = making.parsed(name)
        choice, ceremony = TokenChoice.taken(options), CeremonyChoice.taken(options)
        with at_work(choice.places(), verbose=shared.verbose) as tokens, opened(ceremony.log, ceremony.clock) as log:
            old, new = making.next_version(tokens, key)
            label = str(new)
            what = describe("rotate a key", label, tokens, exportable=exportable)
            custodians = ceremony.custodians(shared, {**what, "after": str(old)})
            made = making.make(
                log,
                custodians,
                Action.ROTATE,
                tokens,
                label,
                lambda: making.generate(tokens, label, exportable=exportable),
                ceremony.approve(shared),
                {"after": str(old)},
            )
        following = f"enrol a key with reference {label}, have policy name it; then: ownkey hsm close {old}"
        answer(shared, ceremony, tokens, made, following, {"after": str(old)})


@click.command("settle")
@token_options
@log_option
@output_options
@click.pass_obj
def settle_command(shared: Shared, /, **options: Any) -> None:
    """End what ceremonies that were cut off have left in a token.

    A key that was made, proved and recorded gets its label; any other is destroyed: it was never used. So is
    the wrapping key of an import that has ended.
    """
    with told():
        choice = TokenChoice.taken(options)
        with at_work(choice.places(), verbose=shared.verbose) as tokens, opened(options["log"], system_clock) as log:
            done = making.settle(log, tokens[0])
            pairs = settle_pairs(log, tokens[0])
        value = {
            "published": list(done.published),
            "discarded": list(done.discarded),
            "wrapping_keys": list(pairs),
            "token": tokens[0].facts.identity,
        }
        lines = {
            "published": ", ".join(done.published) or "none",
            "destroyed": ", ".join(done.discarded) or "none",
            "wrapping keys": ", ".join(pairs) or "none",
            "token": str(tokens[0].facts),
        }
        shared.output.answer(value, lines)


def describe(what: str, label: str, tokens: Sequence[TokenAtWork], *, exportable: bool = False) -> dict[str, str]:
    """What is to be done, for those who confirm it."""
    said = {"ceremony": what, "key": label, "token": "; ".join(str(token.facts) for token in tokens)}
    return {**said, "exportable": EXPORTABLE} if exportable else said


def answer(
    shared: Shared,
    ceremony: CeremonyChoice,
    tokens: Sequence[TokenAtWork],
    made: Made,
    following: str = "",
    more: dict[str, str] | None = None,
) -> None:
    """Tell what came of a ceremony about a key."""
    first = made.keys[0]
    value = {
        "key": made.label,
        "check_values": dict(first.check_values),
        "use": first.use.value,
        "exportable": first.exportable,
        "tokens": [dict(token.facts.identity) for token in tokens],
        "ceremony": made.ceremony,
        "log": str(ceremony.log),
        "head": str(made.head),
        "next": following,
        **(more or {}),
    }
    lines = {
        "key": made.label,
        **(more or {}),
        "check value": told_check_value(first.check_values) or "none: the token lets none be computed",
        "use": first.use.value,
        **({"exportable": EXPORTABLE} if first.exportable else {}),
        "token": "; ".join(str(token.facts) for token in tokens),
        "ceremony": f"{made.ceremony} in {ceremony.log}",
        "head": made.head,
        "next": following,
    }
    shared.output.answer(value, lines)
