"""``ownkey hsm export``: a key that was made exportable, wrapped by its token for one recipient."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ownkey.cli.main import Shared, output_options
from ownkey_server.commands.asking import typed
from ownkey_server.commands.hsm.confirming import CeremonyChoice, ceremony_options
from ownkey_server.commands.hsm.making import describe
from ownkey_server.commands.hsm.options import TokenChoice, reference, so_pin_option, token_options, told
from ownkey_server.hsm import exporting, making
from ownkey_server.hsm.ceremony_log import opened
from ownkey_server.hsm.check_value_methods import ECB
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.exporting import PublicKeyFile
from ownkey_server.hsm.facts import KeyFacts, told_check_value
from ownkey_server.hsm.operations.transport import OAEP, SCHEMES
from ownkey_server.hsm.work import at_work
from ownkey_server.secret_sources import PROMPT, SecretReference, take_from_environment


@click.command("export")
@click.argument("label")
@token_options
@click.option(
    "--to",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The recipient's RSA public key: what `ownkey hsm import --begin` of the other token wrote, in PEM.",
)
@click.option(
    "--fingerprint",
    metavar="HEX",
    help="What the recipient says that its fingerprint is, by another way than the file came. Asked otherwise.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Where the wrapped key is written. Nothing is overwritten.",
)
@click.option(
    "--scheme",
    type=click.Choice(SCHEMES),
    default=SCHEMES[0],
    show_default=True,
    help="RSA-OAEP of the key, or RSA-AES key wrap: as the recipient opens it.",
)
@click.option(
    "--hash",
    "hash_name",
    type=click.Choice([*OAEP]),
    default="sha256",
    show_default=True,
    help="For OAEP: by which the recipient opens it. `ownkey hsm import --begin` says so in its instructions.",
)
@so_pin_option
@ceremony_options
@output_options
@click.pass_obj
def export_command(
    shared: Shared,
    /,
    label: str,
    to: Path,
    fingerprint: str | None,
    out: Path,
    scheme: str,
    hash_name: str,
    so_pin: str,
    **options: Any,
) -> None:
    """Have the token wrap the key LABEL for another token, or whoever holds the private half of --to.

    Only a key that was made with --exportable, only by two custodians at least, and only with the security officer's
    PIN: the officer trusts the recipient's public key for this one command, and the token wraps under no other. The
    other side takes the file with `ownkey hsm import --finish`; `ownkey hsm compare` proves that it is the same key.
    """
    with told():
        label = str(making.parsed(label))
        public = exporting.read_public_key(to)
        _require_fingerprint(shared, public, to, fingerprint)
        given = None if so_pin == PROMPT else reference("--so-pin", so_pin, str)
        take_from_environment([given] if given else [])
        choice, ceremony = TokenChoice.taken(options), CeremonyChoice.taken(options)
        recipient = public.recipient(scheme, hash_name)
        with at_work(choice.places(), verbose=shared.verbose) as tokens, opened(ceremony.log, ceremony.clock) as log:
            token = tokens[0]
            key = exporting.look(token, label, recipient)
            value = told_check_value(key.check_values) or "none: the token lets none be computed"
            what = describe("EXPORT a key: whoever opens the file has the key", label, tokens)
            custodians = ceremony.custodians(shared, {**what, "check value": value, "recipient": public.fingerprint})
            if fingerprint is None:
                _ask_fingerprint(public, to)
            officer = given or SecretReference.typed(typed(f"PIN of the security officer of token {token.facts.label}"))
            done = exporting.export(log, custodians, token, key, public, recipient, officer, out)
        following = f"where it goes: ownkey hsm import {label} --finish {out.name}{_comparing(key)}"
        answer = {
            "exported": label,
            "out": str(out),
            "recipient": public.fingerprint,
            "scheme": scheme,
            "hash": hash_name,
            "check_values": dict(key.check_values),
            "wrapped_sha256": done.wrapped_sha256,
            "ceremony": done.ceremony,
            "log": str(ceremony.log),
            "head": str(done.head),
            "next": following,
        }
        lines = {
            "exported": label,
            "wrote": out,
            "recipient": public.fingerprint,
            "wrapped by": f"{scheme} with {hash_name}",
            "check value": value,
            "ceremony": f"{done.ceremony} in {ceremony.log}",
            "head": done.head,
            "next": following,
        }
        shared.output.answer(answer, lines)


def _require_fingerprint(shared: Shared, public: PublicKeyFile, file: Path, said: str | None) -> None:
    """Refuse a key that is not the recipient's; and to go on where nobody has said so and nobody can be asked."""
    if said is None:
        if shared.as_json or not sys.stdin.isatty():
            raise HsmError(
                f"nobody has confirmed that {file} is the recipient's: its fingerprint is {public.fingerprint}",
                Trouble.REFUSED,
                "--fingerprint with what the recipient says, by another way than the file came",
            )
        return
    if "".join(said.split()).replace(":", "").lower() != public.fingerprint:
        raise HsmError(
            f"{file} is not the key that was confirmed: its fingerprint is {public.fingerprint}",
            Trouble.REFUSED,
            "have the recipient send the file again, and tell its fingerprint by another way",
        )


def _ask_fingerprint(public: PublicKeyFile, file: Path) -> None:
    question = (
        f"The fingerprint of {file} is\n{public.fingerprint}\nHas the recipient told you the same, by another way?"
    )
    if not click.confirm(question, err=True):
        raise HsmError("the recipient's key was not confirmed: nothing was exported", Trouble.REFUSED)


def _comparing(key: KeyFacts) -> str:
    """The option with the key's check value, for the import."""
    values = key.check_values
    if ECB in values:
        return f" --check-value {values[ECB]}"
    return "".join(f" --check-value {method}:{value}" for method, value in sorted(values.items())[:1])
