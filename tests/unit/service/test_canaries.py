"""A key that is exchanged for another by the same name still wraps and opens: its canary tells."""

from __future__ import annotations

import contextlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from ownkey_server.composition.shared_states import open_canaries
from ownkey_server.domain.canaries import EXCHANGED, Canary
from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import CiphertextInvalid, DatabaseUnavailable, KeyMisconfigured, KeyRevoked
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, KeyLifecycle, Replica
from ownkey_server.keystores.base import KeyDescription, KeyStore, UnwrappedDataKey
from ownkey_server.keystores.catalog import EmbeddedOptions, Modules, open_key_store
from ownkey_server.service.canaries import Canaries, made
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.storage.database import Database

PLACE = Replica("files", "acme-main")
KEY = CustomerKey("tenants/acme/keys/main", (PLACE,))


def canaries(kept: dict[tuple[str, Replica], Canary], executor: ThreadPoolExecutor) -> Canaries:
    """Canaries that are kept in a dictionary."""
    return Canaries(
        lambda key, place: kept.get((key, place)),
        lambda place, canary: kept.update({(canary.key, place): canary}),
        executor,
    )


async def test_an_exchanged_key_is_misconfigured_whatever_uses_of_it_show(database: Database, tmp_path: Path) -> None:
    store = open_key_store("files", EmbeddedOptions(tmp_path / "keys"), Modules())
    await store.create("acme-main")  # type: ignore[attr-defined]
    await store.create("another")  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as executor:

        def instance() -> tuple[KeyRing, StatusBoard]:
            board = StatusBoard(timedelta(seconds=60))
            kept = open_canaries(database, executor, system_clock)
            fresh = open_key_store("files", EmbeddedOptions(tmp_path / "keys"), Modules())
            return KeyRing({"files": fresh}, board, system_clock, timedelta(seconds=5), canaries=kept), board

        def state(board: StatusBoard) -> tuple[KeyState, str]:
            evidence = board.of(KEY, system_clock())
            assert evidence is not None
            return evidence.state, evidence.cause

        keys, board = instance()
        await keys.probe(KEY)
        assert state(board) == (KeyState.AVAILABLE, "")
        content = await keys.generate(KEY, {}, None)
        file = tmp_path / "keys" / "acme-main.key"
        was = file.read_bytes()
        file.write_bytes((tmp_path / "keys" / "another.key").read_bytes())
        with pytest.raises(KeyMisconfigured, match="another key than the one that has worked"):
            await keys.generate(KEY, {}, None)
        # After a restart, when the key store has seen no other.
        keys, board = instance()
        await keys.probe(KEY)
        assert state(board) == (KeyState.MISCONFIGURED, EXCHANGED)
        with pytest.raises(KeyMisconfigured, match="another key by the same name"):
            await keys.generate(KEY, {}, None)
        assert state(board) == (KeyState.MISCONFIGURED, EXCHANGED), "it works, and is another key all the same"
        # And before any probe, at the very first use of a new process.
        early, _ = instance()
        with pytest.raises(KeyMisconfigured, match="another key by the same name"):
            await early.generate(KEY, {}, None)
        with pytest.raises(KeyMisconfigured, match="another key by the same name"):
            await early.unwrap(KEY, content.value.wrapped, {}, None)
        file.write_bytes(was)
        assert (await early.unwrap(KEY, content.value.wrapped, {}, None)).value.plaintext
        assert await early.generate(KEY, {}, None)
        await keys.probe(KEY)
        assert state(board) == (KeyState.AVAILABLE, "")


async def test_a_key_store_that_took_to_another_key_comes_back_to_the_right_one(tmp_path: Path) -> None:
    """It may see another key work after that was found out, and before its file is put right."""
    store = open_key_store("files", EmbeddedOptions(tmp_path / "keys"), Modules())
    await store.create("acme-main")  # type: ignore[attr-defined]
    kept: dict[tuple[str, Replica], Canary] = {}
    with ThreadPoolExecutor(1) as executor:

        def instance() -> KeyRing:
            fresh = open_key_store("files", EmbeddedOptions(tmp_path / "keys"), Modules())
            stores.append(fresh)
            board = StatusBoard(timedelta(seconds=60))
            return KeyRing(
                {"files": fresh}, board, system_clock, timedelta(seconds=5), canaries=canaries(kept, executor)
            )

        stores: list[KeyStore] = []
        assert await instance().generate(KEY, {}, None)
        file = tmp_path / "keys" / "acme-main.key"
        was = file.read_bytes()
        file.write_bytes(os.urandom(len(was)))
        for mend in (lambda ring: ring.generate(KEY, {}, None), lambda ring: ring.probe(KEY)):
            ring = instance()
            assert (await stores[-1].describe("acme-main", 5.0)).state is KeyState.AVAILABLE
            right, wrong = was, file.read_bytes()
            file.write_bytes(right)
            with contextlib.suppress(KeyMisconfigured):
                await mend(ring)
            assert await ring.generate(KEY, {}, None)
            file.write_bytes(wrong)


async def test_what_one_instance_has_proven_anew_is_the_key_for_all(tmp_path: Path) -> None:
    store = open_key_store("files", EmbeddedOptions(tmp_path / "keys"), Modules())
    await store.create("acme-main")  # type: ignore[attr-defined]
    kept: dict[tuple[str, Replica], Canary] = {}
    with ThreadPoolExecutor(1) as executor:
        board = StatusBoard(timedelta(seconds=60))
        ring = KeyRing({"files": store}, board, system_clock, timedelta(seconds=5), canaries=canaries(kept, executor))
        assert await ring.generate(KEY, {}, None)
        file = tmp_path / "keys" / "acme-main.key"
        file.write_bytes(os.urandom(file.stat().st_size))
        await ring.probe(KEY)
        with pytest.raises(KeyMisconfigured):
            await ring.generate(KEY, {}, None)
        # Another instance activates it.
        other = open_key_store("files", EmbeddedOptions(tmp_path / "keys"), Modules())
        kept[KEY.name, PLACE] = await made(KEY.name, PLACE, other, 5.0)
        await ring.probe(KEY)
        assert await ring.generate(KEY, {}, None)


async def test_no_key_is_used_while_it_is_not_known_which_it_is(tmp_path: Path) -> None:
    store = open_key_store("files", EmbeddedOptions(tmp_path / "keys"), Modules())
    await store.create("acme-main")  # type: ignore[attr-defined]
    away = True

    def find(key: str, place: Replica) -> Canary | None:
        if away:
            raise DatabaseUnavailable("it is away")
        return kept.get((key, place))

    kept: dict[tuple[str, Replica], Canary] = {}
    with ThreadPoolExecutor(1) as executor:
        opened = Canaries(find, lambda place, canary: kept.update({(canary.key, place): canary}), executor)
        board = StatusBoard(timedelta(seconds=60))
        keys = KeyRing({"files": store}, board, system_clock, timedelta(seconds=5), canaries=opened)
        with pytest.raises(DatabaseUnavailable):
            await keys.generate(KEY, {}, None)
        away = False
        made = await keys.generate(KEY, {}, None)
        assert list(kept) == [(KEY.name, PLACE)], "a key that has no canary is given one before it is used"
        away = True  # from now on it is known here
        assert (await keys.unwrap(KEY, made.value.wrapped, {}, None)).value.plaintext


async def test_another_place_serves_while_one_has_another_key(tmp_path: Path) -> None:
    folders = tmp_path / "one", tmp_path / "two"
    stores = {folder.name: open_key_store(folder.name, EmbeddedOptions(folder), Modules()) for folder in folders}
    await stores["one"].create("acme-main")  # type: ignore[attr-defined]
    shutil.copytree(*folders)
    key = CustomerKey(KEY.name, (Replica("one", "acme-main"), Replica("two", "acme-main")))
    kept: dict[tuple[str, Replica], Canary] = {}
    with ThreadPoolExecutor(1) as executor:

        def instance() -> KeyRing:
            board = StatusBoard(timedelta(seconds=60))
            return KeyRing(stores, board, system_clock, timedelta(seconds=5), canaries=canaries(kept, executor))

        made = await instance().generate(key, {}, None)
        assert made.replica == "one"
        file = tmp_path / "one" / "acme-main.key"
        was = file.read_bytes()
        file.write_bytes(os.urandom(len(was)))
        after = instance()
        assert (await after.unwrap(key, made.value.wrapped, {}, None)).replica == "two"
        assert (await after.generate(key, {}, None)).replica == "two"
        file.write_bytes(was)
        assert (await after.generate(key, {}, None)).replica == "one"


async def test_a_forged_ciphertext_changes_no_state(tmp_path: Path) -> None:
    store = open_key_store("files", EmbeddedOptions(tmp_path / "keys"), Modules())
    await store.create("acme-main")  # type: ignore[attr-defined]
    board = StatusBoard(timedelta(seconds=60))
    keys = KeyRing({"files": store}, board, system_clock, timedelta(seconds=5))
    made = await keys.generate(KEY, {}, None)
    before = board.judged(KEY.name, "files")
    entry = made.value.wrapped
    for forged in (
        replace(entry, ciphertext=bytes(len(entry.ciphertext))),
        replace(entry, ciphertext=entry.ciphertext[:-1]),
        replace(entry, ciphertext=b""),
    ):
        with pytest.raises(CiphertextInvalid):
            await keys.unwrap(KEY, forged, {}, None)
    assert board.judged(KEY.name, "files") == before


class Closed:
    """A key store whose keys' holder has taken the right to wrap, and then perhaps all rights."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self.wraps = self.opens = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        if self.wraps and self.opens:
            return await self._store.describe(reference, timeout)
        return KeyDescription(KeyState.REVOKED, "it may not wrap")

    async def unwrap(self, reference: str, *arguments: Any) -> UnwrappedDataKey:
        if not self.opens:
            raise KeyRevoked("files", reference, "it may not open")
        return await self._store.unwrap(reference, *arguments)


async def test_a_retired_key_that_may_only_open_is_available_and_an_active_one_is_not(
    database: Database, tmp_path: Path
) -> None:
    files = open_key_store("files", EmbeddedOptions(tmp_path / "keys"), Modules())
    await files.create("acme-main")  # type: ignore[attr-defined]
    store = Closed(files)
    retired = replace(KEY, lifecycle=KeyLifecycle.RETIRED)
    with ThreadPoolExecutor(1) as executor:

        async def state(key: CustomerKey) -> KeyState:
            board = StatusBoard(timedelta(seconds=60))
            kept = open_canaries(database, executor, system_clock)
            ring = KeyRing({"files": cast("KeyStore", store)}, board, system_clock, timedelta(seconds=5), canaries=kept)
            await ring.probe(key)
            evidence = board.of(key, system_clock())
            assert evidence is not None
            return evidence.state

        store.wraps = False
        assert await state(retired) is KeyState.REVOKED, "nothing shows yet that it opens anything"
        store.wraps = True
        assert await state(KEY) is KeyState.AVAILABLE
        store.wraps = False
        assert await state(retired) is KeyState.AVAILABLE
        assert await state(KEY) is KeyState.REVOKED, "policy may still name it, and it wraps nothing"
        store.opens = False
        assert await state(retired) is KeyState.REVOKED
