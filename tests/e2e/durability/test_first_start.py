"""The first start, cut off or done twice at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path

import pytest

from ownkey_server import main, settings
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.storage.audit import signing as audit_signing
from support.server import write_settings


def test_two_servers_that_both_find_the_key_store_new_both_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, create = threading.Barrier(2), EmbeddedKeyStore.create

    async def create_at_the_same_moment(self: EmbeddedKeyStore, reference: str) -> None:
        if reference == "provider":
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(2)
        await create(self, reference)

    monkeypatch.setattr(EmbeddedKeyStore, "create", create_at_the_same_moment)
    loaded = settings.load(write_settings(tmp_path))
    failures: list[BaseException] = []

    def start() -> None:
        try:
            asyncio.run(main.prepare(loaded))
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("made", ["provider", "acme-main"])
def test_a_first_start_that_was_cut_off_while_it_made_keys_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    create = EmbeddedKeyStore.create

    async def create_and_die(self: EmbeddedKeyStore, reference: str) -> None:
        await create(self, reference)
        if reference == made:
            raise KeyboardInterrupt

    loaded = settings.load(write_settings(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedKeyStore, "create", create_and_die)
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main.prepare(loaded))
    asyncio.run(main.prepare(loaded))


def test_a_signing_key_can_be_made_after_a_process_of_the_same_number_died_making_it(tmp_path: Path) -> None:
    # In a container the process has the same number at every start.
    key = tmp_path / "audit-signing.pem"
    key.with_name(f".{key.name}.{os.getpid()}").write_bytes(b"half a k")
    audit_signing.load_or_make_signer(key)


def test_the_public_key_is_there_even_if_the_process_died_before_it_wrote_it(tmp_path: Path) -> None:
    key = tmp_path / "audit-signing.pem"
    audit_signing.load_or_make_signer(key)
    audit_signing.public_path(key).unlink()  # as after a death between the two files
    audit_signing.load_or_make_signer(key)
    assert audit_signing.public_path(key).exists()
