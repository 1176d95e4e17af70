"""What is special about keys in files; what every key store must do is in tests/contract."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from ownkey_server.domain.errors import (
    KeyMisconfigured,
    KeyRevoked,
    KeyStoreError,
    KeyUnreachable,
)
from ownkey_server.keystores.base import GeneratedDataKey
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore

CONTEXT = {"ownkey:tenant": "acme"}
KEY = "acme-main"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "keys"


@pytest.fixture
async def store(directory: Path) -> EmbeddedKeyStore:
    made = EmbeddedKeyStore("embedded", directory)
    await made.create(KEY)
    return made


async def use(store: EmbeddedKeyStore, reference: str = KEY) -> GeneratedDataKey:
    return await store.generate_data_key(reference, CONTEXT, 5.0)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_only_its_owner_may_read_a_key(store: EmbeddedKeyStore, directory: Path) -> None:
    assert mode(directory) == 0o700
    assert mode(directory / f"{KEY}.key") == 0o600
    assert (directory / f"{KEY}.key").stat().st_size == 32


async def test_a_loose_umask_changes_nothing(directory: Path) -> None:
    before = os.umask(0)
    try:
        await EmbeddedKeyStore("embedded", directory).create(KEY)
    finally:
        os.umask(before)
    assert (mode(directory), mode(directory / f"{KEY}.key")) == (0o700, 0o600)


async def test_making_a_key_leaves_nothing_else_behind(store: EmbeddedKeyStore, directory: Path) -> None:
    with pytest.raises(KeyMisconfigured, match="already"):
        await store.create(KEY)
    assert [path.name for path in directory.iterdir()] == [f"{KEY}.key"]


async def test_keys_are_random(store: EmbeddedKeyStore, directory: Path) -> None:
    await store.create("another")
    assert (directory / "another.key").read_bytes() != (directory / f"{KEY}.key").read_bytes()


async def test_it_is_new_until_it_has_a_key(directory: Path) -> None:
    store = EmbeddedKeyStore("embedded", directory)
    assert store.is_new
    await store.create(KEY)
    assert not store.is_new


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KeyMisconfigured, match="cannot be made"):
        await EmbeddedKeyStore("embedded", tmp_path / "file" / "keys").create(KEY)


@pytest.mark.parametrize("permissions", [0o640, 0o604, 0o620, 0o644, 0o666, 0o610])
async def test_a_key_that_others_may_touch_is_refused_with_the_command_that_mends_it(
    store: EmbeddedKeyStore, directory: Path, permissions: int
) -> None:
    path = directory / f"{KEY}.key"
    path.chmod(permissions)
    with pytest.raises(KeyMisconfigured, match=f"chmod 600 {path}"):
        await use(store)
    path.chmod(0o600)
    await use(store)


async def test_permissions_loosened_while_it_is_in_use_are_noticed(store: EmbeddedKeyStore, directory: Path) -> None:
    await use(store)
    (directory / f"{KEY}.key").chmod(0o644)
    with pytest.raises(KeyMisconfigured):
        await use(store)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
async def test_a_key_of_another_size_is_refused(store: EmbeddedKeyStore, directory: Path, size: int) -> None:
    (directory / f"{KEY}.key").write_bytes(bytes(size))
    with pytest.raises(KeyMisconfigured, match="exactly 32 bytes"):
        await use(store)


async def test_a_pipe_in_place_of_a_key_does_not_hold_up_the_server(store: EmbeddedKeyStore, directory: Path) -> None:
    path = directory / f"{KEY}.key"
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyMisconfigured):
        await use(store)


async def test_a_directory_in_place_of_a_key_is_an_error_of_ours(store: EmbeddedKeyStore, directory: Path) -> None:
    (directory / f"{KEY}.key").unlink()
    (directory / f"{KEY}.key").mkdir(mode=0o700)
    with pytest.raises(KeyStoreError):
        await use(store)


async def test_another_key_in_the_file_is_not_used(store: EmbeddedKeyStore, directory: Path) -> None:
    made = await use(store)
    path = directory / f"{KEY}.key"
    old = path.read_bytes()
    found = path.stat()
    path.write_bytes(os.urandom(32))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))  # as a restored backup would
    for _ in range(2):
        with pytest.raises(KeyMisconfigured, match="another key than the one that has worked"):
            await store.unwrap(KEY, made.wrapped, CONTEXT, 5.0)
        with pytest.raises(KeyMisconfigured, match="another key than the one that has worked"):
            await use(store)
    path.write_bytes(old)
    assert (await store.unwrap(KEY, made.wrapped, CONTEXT, 5.0)).plaintext.reveal() == made.plaintext.reveal()
    path.write_bytes(os.urandom(32))
    store.forget(KEY)  # it was meant
    assert await use(store)


async def test_a_file_that_is_gone_is_an_outage_only_if_it_was_there(store: EmbeddedKeyStore, directory: Path) -> None:
    await store.create("another")
    await use(store)
    (directory / f"{KEY}.key").unlink()
    with pytest.raises(KeyUnreachable):
        await use(store)
    with pytest.raises(KeyMisconfigured):
        await use(EmbeddedKeyStore("restarted", directory))


async def test_its_holder_disables_and_enables_it_at_once(store: EmbeddedKeyStore) -> None:
    await store.disable(KEY)
    await store.disable(KEY)
    with pytest.raises(KeyRevoked):
        await use(store)
    await store.enable(KEY)
    await store.enable(KEY)
    await use(store)


async def test_a_dangling_marker_disables_too(store: EmbeddedKeyStore, directory: Path) -> None:
    (directory / f"{KEY}.disabled").symlink_to("nowhere")
    with pytest.raises(KeyRevoked):
        await use(store)


async def test_a_key_that_is_not_there_is_neither_disabled_nor_enabled(store: EmbeddedKeyStore) -> None:
    for act in (store.disable, store.enable):
        with pytest.raises(KeyMisconfigured, match="no such key"):
            await act("acme-mian")


@pytest.mark.parametrize(
    "reference", ["", ".", "..", ".hidden", "../x", "a/b", "/etc/passwd", "a\0b", "a b", "-x", "ä", "x" * 129]
)
async def test_no_name_leads_out_of_the_directory(store: EmbeddedKeyStore, directory: Path, reference: str) -> None:
    before = sorted(directory.parent.rglob("*"))
    for act in (store.create, store.disable, store.enable):
        with pytest.raises(KeyMisconfigured):
            await act(reference)
    with pytest.raises(KeyMisconfigured):
        await use(store, reference)
    assert sorted(directory.parent.rglob("*")) == before


def test_it_says_loudly_that_it_is_not_for_production(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    EmbeddedKeyStore("embedded", directory)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name.startswith("ownkey_server.keystores")
    assert "not for production" in record.getMessage()


@pytest.mark.parametrize("left", [True, False], ids=["an empty mount point", "nothing"])
async def test_a_volume_that_is_not_mounted_when_the_server_starts_is_an_outage(
    store: EmbeddedKeyStore, directory: Path, left: bool
) -> None:
    await use(store)
    away = directory.with_name("away")
    directory.rename(away)
    if left:
        directory.mkdir()
    restarted = EmbeddedKeyStore("embedded", directory)
    for reference in (KEY, "never-made"):
        with pytest.raises(KeyUnreachable, match="is its volume mounted"):
            await use(restarted, reference)
    if left:
        directory.rmdir()
    away.rename(directory)
    await use(restarted)
    with pytest.raises(KeyMisconfigured):
        await use(restarted, "never-made")
