"""``ownkey keystore check``: whether the key stores of the settings can be opened, before a server needs them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import click

from ownkey.cli.main import Shared, output_options
from ownkey.cli.output import MISCONFIGURED, NOT_FOUND, OK, UNAVAILABLE, Failure
from ownkey_server import hardening
from ownkey_server.commands.errors import config_option, exit_code, load
from ownkey_server.composition.core import open_key_stores
from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.keystores.base import Checkable
from ownkey_server.service.store_checks import found_wrong

UNCHECKED = "not looked at here; `ownkey aws verify` does"


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Say nothing of key stores that are not for production: that belongs to a server that starts."""
    log = logging.getLogger("ownkey_server")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@click.command()
@click.option("--store", help="The key store's name in the settings; all of them otherwise.")
@config_option
@output_options
@click.pass_obj
def check(shared: Shared, store: str | None, config: Path) -> int:
    """Tell whether each key store can be opened: its folder or module, its token, its PIN or passphrase.

    No key is used. The exit code is 0 when all can be; else 9 for one that is misconfigured, or 5.
    """
    hardening.harden()
    settings = load(config)
    if store is not None and store not in settings.key_stores:
        names = ", ".join(settings.key_stores)
        raise Failure(f"the settings have no key store {store!r}; they have: {names}", NOT_FOUND)

    async def run() -> dict[str, KeyStoreError | None]:
        with without_warnings():
            stores = open_key_stores(settings)
        looked_at = {name: one for name, one in stores.items() if store in (None, name) and isinstance(one, Checkable)}
        try:
            return await found_wrong(looked_at)
        finally:
            for one in stores.values():
                await one.close()

    found = asyncio.run(run())
    chosen = [name for name in settings.key_stores if store in (None, name)]
    value = [
        {
            "key_store": name,
            "kind": settings.key_stores[name].kind,
            "checked": name in found,
            "cause": error.cause if (error := found.get(name)) else "",
        }
        for name in chosen
    ]
    lines = {name: _told(found[name]) if name in found else UNCHECKED for name in chosen}
    shared.output.answer({"key_stores": value}, lines)
    codes = {exit_code(error) for error in found.values() if error}
    return next((code for code in (MISCONFIGURED, UNAVAILABLE) if code in codes), max(codes, default=OK))


def _told(error: KeyStoreError | None) -> str:
    return f"cannot be opened: {error.cause}" if error else "can be opened"
