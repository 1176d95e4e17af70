"""``ownkey hsm compare``: whether tokens have the same key under a label, by using it."""

from __future__ import annotations

from typing import Any

import click

from ownkey.cli.main import Shared, output_options
from ownkey_server.commands.hsm.options import TokenChoice, replica_options, token_options, told
from ownkey_server.hsm import making
from ownkey_server.hsm.facts import told_check_value
from ownkey_server.hsm.operations.keys import LookAtKey
from ownkey_server.hsm.work import at_work


@click.command("compare")
@click.argument("label")
@token_options
@replica_options
@output_options
@click.pass_obj
def compare_command(shared: Shared, /, label: str, **options: Any) -> None:
    """Prove that the tokens have the same key LABEL: its check values, and each opens what every other has wrapped.

    Nothing is changed, and nothing is left behind. With one token: that it opens what it wraps.
    """
    with told():
        label = str(making.parsed(label))
        choice = TokenChoice.taken(options)
        with at_work(choice.places(), verbose=shared.verbose) as tokens:
            keys = [token.ask(LookAtKey(label)) for token in tokens]
            making.require_same(tokens, keys)
            making.prove(tokens, label)
        values = {token.name: dict(key.check_values) for token, key in zip(tokens, keys, strict=True)}
        lines = {token.name: told_check_value(values[token.name]) for token in tokens}
        proved = "each opens what every other wraps" if len(tokens) > 1 else "it opens what it wraps"
        shared.output.answer(
            {"key": label, "same": True, "check_values": values}, {"key": label, **lines, "proved": proved}
        )
