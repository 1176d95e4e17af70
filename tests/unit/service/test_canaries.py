"""A key that is exchanged for another by the same name still wraps and opens: its canary tells."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ownkey_server.composition.shared_states import open_canaries
from ownkey_server.domain.canaries import EXCHANGED
from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import CiphertextInvalid
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, Replica
from ownkey_server.keystores.catalog import EmbeddedOptions, Modules, open_key_store
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.storage.database import Database

PLACE = Replica("files", "acme-main")
KEY = CustomerKey("tenants/acme/keys/main", (PLACE,))


async def test_an_exchanged_key_is_misconfigured_whatever_uses_of_it_show(database: Database, tmp_path: Path) -> None:
    store = open_key_store("files", EmbeddedOptions(tmp_path / "keys"), Modules())
    await store.create("acme-main")  # type: ignore[attr-defined]
    await store.create("another")  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as executor:

        def instance() -> tuple[KeyRing, StatusBoard]:
            board = StatusBoard(timedelta(seconds=60))
            kept = open_canaries(database, executor, system_clock)
            return KeyRing({"files": store}, board, system_clock, timedelta(seconds=5), canaries=kept), board

        def state(board: StatusBoard) -> tuple[KeyState, str]:
            evidence = board.of(KEY, system_clock())
            assert evidence is not None
            return evidence.state, evidence.cause

        keys, board = instance()
        await keys.probe(KEY)
        assert state(board) == (KeyState.AVAILABLE, "")
        file = tmp_path / "keys" / "acme-main.key"
        was = file.read_bytes()
        file.write_bytes((tmp_path / "keys" / "another.key").read_bytes())
        # After a restart, for what was opened a moment ago is not opened again at once.
        keys, board = instance()
        await keys.probe(KEY)
        assert state(board) == (KeyState.MISCONFIGURED, EXCHANGED)
        await keys.generate(KEY, {}, None)
        assert state(board) == (KeyState.MISCONFIGURED, EXCHANGED), "it works, and is another key all the same"
        file.write_bytes(was)
        await keys.probe(KEY)
        assert state(board) == (KeyState.AVAILABLE, "")


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
