"""Many uses at once of a key that is not known yet: it is found out once, and never for another than it is for."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.canaries import Canary
from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import KeyMisconfigured, KeyStoreThrottled
from ownkey_server.domain.tenants import CustomerKey, KeyLifecycle, Replica
from ownkey_server.keystores.base import KeyStore
from ownkey_server.keystores.catalog import EmbeddedOptions, Modules, open_key_store
from ownkey_server.service.canaries import Canaries, made
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.status_board import StatusBoard

PLACE = Replica("files", "acme-main")
KEY = CustomerKey("tenants/acme/keys/main", (PLACE,))


class Shelf:
    """Where canaries are kept, and how often somebody looked."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, Replica], Canary] = {}
        self.looks = self.writes = 0
        self.open = threading.Event()
        self.open.set()

    def find(self, key: str, place: Replica) -> Canary | None:
        self.looks += 1
        self.open.wait(30)
        return self.kept.get((key, place))

    def keep(self, place: Replica, canary: Canary) -> None:
        self.writes += 1
        self.kept.setdefault((canary.key, place), canary)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made_one:
        yield made_one


def opened(folder: Path) -> KeyStore:
    return open_key_store("files", EmbeddedOptions(folder), Modules())


def ring(store: KeyStore, shelf: Shelf, executor: ThreadPoolExecutor, seconds: float = 5.0) -> KeyRing:
    board = StatusBoard(timedelta(seconds=60))
    kept = Canaries(shelf.find, shelf.keep, executor)
    return KeyRing({"files": store}, board, system_clock, timedelta(seconds=seconds), canaries=kept)


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    await opened(tmp_path / "keys").create("acme-main")  # type: ignore[attr-defined]
    return tmp_path / "keys"


async def entry(folder: Path) -> EncryptedDataKey:
    return (await opened(folder).generate_data_key("acme-main", {}, 5.0)).wrapped


@pytest.mark.parametrize("enrolled", [True, False], ids=["canary", "no-canary-yet"])
async def test_a_thousand_first_uses_ask_the_database_for_one(
    folder: Path, executor: ThreadPoolExecutor, enrolled: bool
) -> None:
    shelf = Shelf()
    if enrolled:
        shelf.kept[KEY.name, PLACE] = await made(KEY.name, PLACE, opened(folder), 5.0)
    keys = ring(opened(folder), shelf, executor)
    await asyncio.gather(*(keys.generate(KEY, {}, None) for _ in range(1000)))
    assert (shelf.looks, shelf.writes) == ((1, 0) if enrolled else (2, 1))


async def test_a_key_without_a_canary_that_only_opens_is_not_looked_up_every_time(
    folder: Path, executor: ThreadPoolExecutor
) -> None:
    shelf, wrapped = Shelf(), await entry(folder)
    keys = ring(opened(folder), shelf, executor)
    retired = replace(KEY, lifecycle=KeyLifecycle.RETIRED)
    for _ in range(20):
        assert await keys.unwrap(retired, wrapped, {}, None)
    assert shelf.looks == 1
    # What it wraps is another matter.
    assert await keys.generate(KEY, {}, None)
    assert shelf.writes == 1


async def test_whoever_gives_up_takes_nothing_from_the_others(folder: Path, executor: ThreadPoolExecutor) -> None:
    shelf = Shelf()
    shelf.kept[KEY.name, PLACE] = await made(KEY.name, PLACE, opened(folder), 5.0)
    keys = ring(opened(folder), shelf, executor)
    shelf.open.clear()
    first = asyncio.ensure_future(keys.generate(KEY, {}, None))
    hasty = asyncio.ensure_future(keys.generate(KEY, {}, 0.05))
    patient = asyncio.ensure_future(keys.generate(KEY, {}, None))
    with pytest.raises(KeyStoreThrottled):  # not for 5 seconds, and it is no outage of the key's
        await hasty
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    shelf.open.set()
    assert await patient
    assert shelf.looks == 1


async def test_what_was_found_out_of_one_key_does_not_hold_for_the_next(
    folder: Path, executor: ThreadPoolExecutor
) -> None:
    """Begun anew while somebody finds out: the answer is of the key that was there before."""
    store, shelf = opened(folder), Shelf()
    shelf.kept[KEY.name, PLACE] = await made(KEY.name, PLACE, store, 5.0)
    keys = ring(store, shelf, executor)
    unwrap = store.unwrap
    exchanged = False

    async def unwrap_and_exchange(*arguments: object) -> object:
        nonlocal exchanged
        found = await unwrap(*arguments)  # type: ignore[arg-type]
        if not exchanged:
            exchanged = True
            file = folder / "acme-main.key"
            file.write_bytes(os.urandom(file.stat().st_size))
            keys.forget(PLACE)
        return found

    store.unwrap = unwrap_and_exchange  # type: ignore[assignment,method-assign]
    with pytest.raises(KeyMisconfigured, match="another key by the same name"):
        await keys.generate(KEY, {}, None)


async def test_a_key_that_moved_within_its_store_is_looked_at_there(folder: Path, executor: ThreadPoolExecutor) -> None:
    """Another instance has moved it, whose files are its own: here, there is another key by the new name."""
    shelf = Shelf()
    keys = ring(opened(folder), shelf, executor)
    assert await keys.generate(KEY, {}, None)
    there = folder.parent / "there"
    there.mkdir(mode=0o700)
    (there / "acme-next.key").write_bytes((folder / "acme-main.key").read_bytes())
    (there / "acme-next.key").chmod(0o600)
    place = Replica("files", "acme-next")
    shelf.kept[KEY.name, place] = await made(KEY.name, place, opened(there), 5.0)
    await opened(folder).create("acme-next")  # type: ignore[attr-defined]
    with pytest.raises(KeyMisconfigured, match="another key by the same name"):
        await keys.generate(CustomerKey(KEY.name, (place,)), {}, None)
