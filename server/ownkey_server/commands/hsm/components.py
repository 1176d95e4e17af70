"""``ownkey hsm split`` and ``load``: a key in components, of which no holder has anything of the key."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ownkey.cli.main import Shared, output_options
from ownkey_server.commands.asking import typed
from ownkey_server.commands.hsm.confirming import CeremonyChoice, ceremony_options
from ownkey_server.commands.hsm.making import answer, describe
from ownkey_server.commands.hsm.options import WHERE, TokenChoice, reference, replica_options, token_options, told
from ownkey_server.domain.ceremonies import Action
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.hsm import components, loading, making
from ownkey_server.hsm.ceremony_log import opened
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.work import at_work, text_of
from ownkey_server.secret_sources import PROMPT, SecretReference, take_from_environment

METHODS = ("xor", "slip39")
_method_option = click.option(
    "--method",
    type=click.Choice(METHODS),
    required=True,
    help="xor: 64 hexadecimal digits each, and all are needed. slip39: 33 words each, and so many of them as were set.",
)


@click.command("split")
@_method_option
@click.option("--of", "count", type=click.IntRange(2, components.MOST), required=True, help="How many components.")
@click.option(
    "--need", type=click.IntRange(2, components.MOST), help="How many give the key back; all of them, by xor."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write each into a file of its own here, in place of showing them one by one. Nobody else may read them.",
)
@output_options
@click.pass_obj
def split_command(shared: Shared, method: str, count: int, need: int | None, out: Path | None) -> None:
    """Make a new key, and show it in components, each to its holder alone; it is in no token yet.

    Whoever runs this has the whole key in this process for a moment: do it on a machine that does nothing else. By xor,
    each holder may as well make their own component with `openssl rand -hex 32`, and nobody ever has the whole.
    """
    with told():
        if method == "xor" and need not in (None, count):
            raise click.UsageError("by xor all components are needed: leave --need out, or take --method slip39")
        if method == "slip39" and need is None:
            raise click.UsageError("--method slip39 takes --need: how many give the key back")
        if out is None and (shared.as_json or not sys.stdin.isatty()):
            raise click.UsageError("components are shown on a terminal, one by one; --out writes files")
        key = components.new_key()
        parts = (
            components.split_xor(key, count) if method == "xor" else components.split_slip39(key, need or count, count)
        )
        value = components.check_values_of(key.reveal())["aes-ecb"]
        key.wipe()
        files = [_write(out, number, part) for number, part in enumerate(parts, 1)] if out is not None else []
        if out is None:
            for number, part in enumerate(parts, 1):
                _show(number, count, part, method)
        following = f"ownkey hsm load NAME --method {method} --check-value {value}"
        shared.output.answer(
            {"check_value": value, "components": files, "needed": need or count, "next": following},
            {"check value": value, "components": ", ".join(files) or count, "needed": need or count, "next": following},
        )


@click.command("load")
@click.argument("name")
@_method_option
@click.option(
    "--component",
    "places",
    metavar="WHERE",
    multiple=True,
    help=f"Where a component is, once for each: {WHERE}. All are typed, otherwise.",
)
@click.option("--count", type=click.IntRange(2, components.MOST), help="How many components will be typed, by xor.")
@click.option("--check-value", default="", metavar="VALUE", help="Of the whole key: another one is refused.")
@token_options
@replica_options
@ceremony_options
@output_options
@click.pass_obj
def load_command(shared: Shared, /, name: str, method: str, places: tuple[str, ...], **options: Any) -> None:
    """Load the key NAME, in its next version, from the components of its holders.

    Each types theirs without echo and is shown its check value. The key is put together in this process, wrapped for
    the token at once, and wiped. With --replica, it goes into several tokens.
    """
    with told():
        wanted, count, check_value = making.parsed(name), options.pop("count"), options.pop("check_value")
        if not places and method == "xor" and count is None:
            raise click.UsageError("--count says how many components will be typed, or --component where they are")
        choice, ceremony = TokenChoice.taken(options), CeremonyChoice.taken(options)
        sources = _sources(places or (PROMPT,) * (count or components.MOST))
        with at_work(choice.places(), verbose=shared.verbose) as tokens, opened(ceremony.log, ceremony.clock) as log:
            label = str(making.free_version(tokens, wanted))
            custodians = ceremony.custodians(shared, describe("load a key from components", label, tokens))
            # Made before anybody types: the key is whole for milliseconds, and an RSA key takes seconds.
            ways = [loading.way_into(token) for token in tokens]
            key = (_by_xor if method == "xor" else _by_slip39)(shared, sources)
            try:
                loading.require_value(key, check_value)
                made = making.make(
                    log,
                    custodians,
                    Action.LOAD,
                    tokens,
                    label,
                    lambda: loading.put_into(tokens, ways, label, key),
                    ceremony.approve(shared),
                    {"method": method, "how": ["created" if way is None else "wrapped" for way in ways]},
                )
            finally:
                key.wipe()
        answer(shared, ceremony, tokens, made, f'reference = "{label}" for the key in the tenants file')


def _by_xor(shared: Shared, sources: Sequence[SecretReference | None]) -> SecretBytes:
    parts: list[SecretBytes] = []
    try:
        for number, source in enumerate(sources, 1):
            part = components.parse_xor(_typed(number, source))
            value = components.check_values_of(part.reveal())["aes-ecb"]
            shared.output.note(f"component {number}: check value {value}")
            parts.append(part)
        return components.join_xor(parts)
    finally:
        for part in parts:
            part.wipe()


def _by_slip39(shared: Shared, sources: Sequence[SecretReference | None]) -> SecretBytes:
    shares: dict[int, str] = {}
    first = ""
    for number, source in enumerate(sources, 1):
        share = _typed(number, source)
        of, index, needed = components.slip39_facts(share)
        if first not in ("", of):
            raise HsmError(f"component {number} is of another key than those before it", Trouble.REFUSED)
        if index in shares:
            raise HsmError(f"component {number} was given already", Trouble.REFUSED)
        first, shares[index] = of, share
        shared.output.note(f"component {number}: share {index} of set {of}, {needed} are needed")
        if len(shares) == needed:
            break
    return components.join_slip39(list(shares.values()))


def _sources(places: Sequence[str]) -> list[SecretReference | None]:
    """Where components are; None for those that will be typed."""
    found = [None if where == PROMPT else reference("--component", where, str) for where in places]
    take_from_environment(source for source in found if source)
    return found


def _typed(number: int, source: SecretReference | None) -> str:
    if source is None:
        source = SecretReference.typed(typed(f"Component {number}"))
    return text_of(source, f"component {number}")


def _write(folder: Path, number: int, part: str) -> str:
    path = folder / f"component-{number}.txt"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(part + "\n")
    except FileExistsError:
        raise HsmError(f"{path} is there already: nothing was overwritten", Trouble.TAKEN) from None
    except OSError as error:
        raise HsmError(f"{path}: cannot be written: {error.strerror}") from None
    return str(path)


def _show(number: int, count: int, part: str, method: str) -> None:
    """Show a component to its holder, and nobody after them."""
    click.pause(f"Component {number} of {count}: its holder alone looks, and presses a key ...", err=True)
    click.echo(part, err=True)
    if method == "xor":
        value = components.check_values_of(components.parse_xor(part).reveal())["aes-ecb"]
        click.echo(f"check value {value}", err=True)
    click.pause("Written down? Press a key, and it is cleared ...", err=True)
    click.echo("\033[2J\033[3J\033[H", nl=False, err=True)
