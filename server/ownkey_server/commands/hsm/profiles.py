"""``ownkey hsm profiles``: what ownkey knows of families of tokens, and where it knows it from."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ownkey.cli.main import Shared, output_options
from ownkey_server.keystores.pkcs11 import profiles
from ownkey_server.keystores.pkcs11.profile_reader import ProfileInvalid
from ownkey_server.keystores.pkcs11.profiles import Profile

WIDTH = 160  # where nobody looks: nothing is cut off or folded


@click.command("profiles")
@click.argument("name", required=False)
@click.option("--toml", "as_toml", is_flag=True, help="Print the file of the profile, to begin one of your own with.")
@output_options
@click.pass_obj
def profiles_command(shared: Shared, /, name: str | None, *, as_toml: bool) -> None:
    """List the families of tokens that ownkey knows, or show one: NAME, or a file of your own, PATH.toml.

    `tried` is by ownkey's tests with the real thing; `documented` is what the vendor says. A key store takes the one by
    which its token is recognized, or the one that its `profile` names.
    """
    if name is None:
        if as_toml:
            raise click.UsageError("--toml prints one: give its NAME")
        _list(shared, [profiles.built_in()[one] for one in sorted(profiles.built_in())])
        return
    try:
        profile = profiles.load(name)
        text = profiles.source_of(name) if as_toml else ""
    except ProfileInvalid as error:
        raise click.UsageError(str(error)) from None
    if profile is None:
        raise click.UsageError("auto is no profile: it stands for the one that the token is recognized by")
    if as_toml:
        click.echo(text, nl=False)
        return
    facts = _facts(profile)
    if shared.as_json:
        shared.output.answer(facts)
        return
    for title, value in facts.items():
        for line in value if isinstance(value, list) else [value]:
            click.echo(f"{title:22} {line}")
            title = ""  # noqa: PLW2901 - once is enough


def _list(shared: Shared, found: list[Profile]) -> None:
    if shared.as_json:
        shared.output.answer({"profiles": [_facts(profile) for profile in found]})
        return
    table = Table(box=None, pad_edge=False)
    for title in ("profile", "status", "wraps by", "tokens"):
        table.add_column(title, overflow="fold")
    for profile in found:
        table.add_row(
            profile.name, profile.status, ", ".join(way.value for way in profile.order) or "nothing", profile.title
        )
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH).print(table)


def _facts(profile: Profile) -> dict[str, Any]:
    return {
        "profile": profile.name,
        "title": profile.title,
        "status": profile.status,
        "sources": list(profile.sources),
        "notes": list(profile.notes),
        "wraps by": [
            f"{way.value}: {', '.join(f'{one.name} ({int(one):#x})' for one in profile.mechanisms[way])}"
            for way in profile.order
        ],
        "IV of AES-GCM": f"made by {'the token' if profile.gcm_iv is profiles.GcmIv.TOKEN else 'ownkey'}",
        "AES key wrap": f"by C_{'Encrypt' if profile.key_wrap_by is profiles.KeyWrapBy.ENCRYPT else 'WrapKey'}",
        "forged bytes": sorted(profile.errors.bad_ciphertext),
        "token gone": sorted(profile.errors.gone),
        "PIN refused": sorted(profile.errors.pin_refused),
        "serial number": "tells tokens apart" if profile.serial_identifies else "tells nothing",
        "random bytes": f"from: {profile.random.value}",
        "exports all keys": "YES: not for production" if profile.wraps_unextractable else "no",
        "sessions": f"{profile.max_sessions or 'as many as the token says'}"
        f"{', for writing alone' if profile.read_write_sessions else ''}",
    }
