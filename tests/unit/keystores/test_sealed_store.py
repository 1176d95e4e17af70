"""Embedded keys under a passphrase: what opens them, what each failure means, and how old keys are sealed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ownkey_server.domain.errors import KeyMisconfigured, KeyRevoked, KeyUnreachable
from ownkey_server.keystores.base import GeneratedDataKey
from ownkey_server.keystores.embedded import sealing
from ownkey_server.keystores.embedded.sealed_directory import SealedDirectory
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.secret_sources import SecretReference
from support.key_stores import CHEAP

CONTEXT = {"ownkey:tenant": "acme"}
KEY, OTHER = "acme-main", "acme-other"
PASSPHRASE = "seven stones"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_text(PASSPHRASE, encoding="utf-8")
    return path


def write_anew(path: Path, text: str) -> None:
    found = path.stat()
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000))


def opened(directory: Path, passphrase: Path | None) -> EmbeddedKeyStore:
    """A store as a server has it after a restart."""
    reference = SecretReference.file(passphrase) if passphrase else None
    return EmbeddedKeyStore("embedded", directory, reference, seal_cost=CHEAP)


@pytest.fixture
async def store(directory: Path, passphrase: Path) -> EmbeddedKeyStore:
    made = opened(directory, passphrase)
    for reference in (KEY, OTHER):
        await made.create(reference)
    return made


@pytest.fixture
async def plain(directory: Path) -> EmbeddedKeyStore:
    made = opened(directory, None)
    for reference in (KEY, OTHER):
        await made.create(reference)
    return made


async def use(store: EmbeddedKeyStore, reference: str = KEY) -> GeneratedDataKey:
    return await store.generate_data_key(reference, CONTEXT, 5.0)


async def assert_misconfigured(store: EmbeddedKeyStore, cause: str, reference: str = KEY) -> None:
    with pytest.raises(KeyMisconfigured, match=cause) as caught:
        await use(store, reference)
    assert PASSPHRASE not in str(caught.value)


async def test_its_files_hold_no_key_and_are_its_owner_s_alone(store: EmbeddedKeyStore, directory: Path) -> None:
    files = {path.name: (path.stat().st_size, path.stat().st_mode & 0o777) for path in directory.iterdir()}
    assert files == {".seal": (65, 0o600), f"{KEY}.key": (97, 0o600), f"{OTHER}.key": (97, 0o600)}


async def test_a_restarted_server_opens_what_was_wrapped(
    store: EmbeddedKeyStore, directory: Path, passphrase: Path
) -> None:
    made = await use(store)
    again = await opened(directory, passphrase).unwrap(KEY, made.wrapped, CONTEXT, 5.0)
    assert again.plaintext.reveal() == made.plaintext.reveal()


async def test_a_key_is_derived_once_for_a_store(
    store: EmbeddedKeyStore, directory: Path, passphrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    derived: list[int] = []
    real = sealing.Argon2id

    def counted(**options: int) -> object:
        derived.append(1)
        return real(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(sealing, "Argon2id", counted)
    again = opened(directory, passphrase)
    for _ in range(3):
        for reference in (KEY, OTHER):
            await use(again, reference)
    await again.create("third")
    await use(again, "third")
    assert len(derived) == 1
    # Nor does a wrong one cost more than once, however many calls there are.
    write_anew(passphrase, "eight stones")
    refused = opened(directory, passphrase)
    for _ in range(20):
        await assert_misconfigured(refused, "the passphrase is wrong")
    assert len(derived) == 2


async def test_a_wrong_passphrase_is_never_a_revocation_and_ends_when_it_is_mended(
    store: EmbeddedKeyStore, directory: Path, passphrase: Path
) -> None:
    write_anew(passphrase, "eight stones")
    restarted = opened(directory, passphrase)
    await assert_misconfigured(restarted, "the passphrase is wrong, or the seal was changed")
    await use(store)  # what was opened before goes on
    write_anew(passphrase, PASSPHRASE)
    await use(restarted)


async def test_a_passphrase_that_cannot_be_had_is_misconfigured(
    store: EmbeddedKeyStore, directory: Path, passphrase: Path
) -> None:
    passphrase.chmod(0o644)
    restarted = opened(directory, passphrase)
    await assert_misconfigured(restarted, f"chmod 600 {passphrase}")
    passphrase.unlink()
    await assert_misconfigured(restarted, "cannot be read: No such file")
    await use(store)


async def test_a_sealed_key_without_a_passphrase_says_what_to_set(store: EmbeddedKeyStore, directory: Path) -> None:
    await assert_misconfigured(opened(directory, None), r"set passphrase in \[key_stores\.embedded\]")


async def test_a_key_in_clear_where_all_should_be_sealed_says_what_to_run(
    plain: EmbeddedKeyStore, directory: Path, passphrase: Path
) -> None:
    sealed = opened(directory, passphrase)
    await assert_misconfigured(sealed, "ownkey keystore seal --store embedded")
    await use(plain)


async def test_a_key_that_is_planted_in_clear_is_not_used(store: EmbeddedKeyStore, directory: Path) -> None:
    await use(store)
    (directory / f"{KEY}.key").write_bytes(bytes(32))
    await assert_misconfigured(store, "is in clear")


async def test_exchanged_files_do_not_open(store: EmbeddedKeyStore, directory: Path, passphrase: Path) -> None:
    one, two = directory / f"{KEY}.key", directory / f"{OTHER}.key"
    contents = one.read_bytes(), two.read_bytes()
    await use(store)
    one.write_bytes(contents[1])
    two.write_bytes(contents[0])
    for each in (store, opened(directory, passphrase)):
        for reference in (KEY, OTHER):
            await assert_misconfigured(each, "another key's", reference)
    one.write_bytes(contents[0])
    two.write_bytes(contents[1])
    for each in (store, opened(directory, passphrase)):
        await use(each)


async def test_a_key_of_another_store_does_not_open(
    store: EmbeddedKeyStore, tmp_path: Path, directory: Path, passphrase: Path
) -> None:
    other = opened(tmp_path / "others", passphrase)
    await other.create(KEY)
    shutil.copy(tmp_path / "others" / f"{KEY}.key", directory / f"{KEY}.key")
    for each in (store, opened(directory, passphrase)):
        await assert_misconfigured(each, "not the one that this key was sealed under")
        await use(each, OTHER)


@pytest.mark.parametrize("length", [0, 8, 31, 32, 33, 37, 65, 96, 98, 5000])
async def test_a_sealed_key_of_another_length_is_refused_and_never_taken_for_one_in_clear(
    store: EmbeddedKeyStore, directory: Path, passphrase: Path, length: int
) -> None:
    path = directory / f"{KEY}.key"
    path.write_bytes((path.read_bytes() + bytes(5000))[:length])
    for each in (store, opened(directory, passphrase), opened(directory, None)):
        await assert_misconfigured(each, "must be a file of exactly 32 bytes, or 97 if sealed")


async def test_a_flipped_bit_in_a_key_is_misconfigured(
    store: EmbeddedKeyStore, directory: Path, passphrase: Path
) -> None:
    path = directory / f"{KEY}.key"
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(KeyMisconfigured):
            await use(store)
    path.write_bytes(whole)
    await use(store)


async def test_a_seal_that_is_gone_or_changed_is_misconfigured_and_stops_no_key_that_is_open(
    store: EmbeddedKeyStore, directory: Path, passphrase: Path
) -> None:
    await use(store)
    seal = directory / ".seal"
    whole = seal.read_bytes()
    seal.unlink()
    restarted = opened(directory, passphrase)
    await assert_misconfigured(restarted, r"\.seal is not there.*from a backup")
    with pytest.raises(KeyMisconfigured, match="put it back from a backup"):
        await restarted.create("another")
    assert not seal.exists()
    for changed in (whole[:-1], whole + b"x", bytes(65), whole[:64] + bytes([whole[64] ^ 1])):
        seal.write_bytes(changed)
        await assert_misconfigured(restarted, r"\.seal cannot be opened")
    await use(store)
    seal.write_bytes(whole)
    await use(restarted)


async def test_an_outage_is_unreachable_also_before_the_first_use_of_a_second_key(
    store: EmbeddedKeyStore, directory: Path, tmp_path: Path
) -> None:
    await use(store)
    directory.rename(tmp_path / "away")
    with pytest.raises(KeyUnreachable):
        await use(store)
    (tmp_path / "away").rename(directory)
    await use(store)


async def test_a_disabled_key_is_revoked_whatever_its_seal_is(
    store: EmbeddedKeyStore, directory: Path, passphrase: Path
) -> None:
    await store.disable(KEY)
    (directory / ".seal").unlink()
    with pytest.raises(KeyRevoked):
        await use(opened(directory, passphrase))


async def test_two_servers_that_start_at_once_agree_on_one_seal(directory: Path, passphrase: Path) -> None:
    directory.mkdir(mode=0o700)
    reference = SecretReference.file(passphrase)
    first, second = (SealedDirectory(directory, reference, CHEAP) for _ in range(2))
    sealed = first.open_or_make().close_key(KEY, bytes(32))
    assert second.open_or_make().open_key(KEY, sealed) == bytes(32)


# Sealing keys that are there


async def test_keys_are_sealed_in_place_and_unsealed_again(
    plain: EmbeddedKeyStore, directory: Path, passphrase: Path
) -> None:
    made = await use(plain)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    await plain.disable(OTHER)
    store = opened(directory, passphrase)
    assert await store.seal() == ([KEY, OTHER], 0)
    assert await store.seal() == ([], 2)
    assert (await store.unwrap(KEY, made.wrapped, CONTEXT, 5.0)).plaintext.reveal() == made.plaintext.reveal()
    with pytest.raises(KeyRevoked):
        await use(store, OTHER)
    assert not [name for name, key in before.items() if key in (directory / name).read_bytes()]
    assert await store.unseal() == ([KEY, OTHER], 0)
    assert await store.unseal() == ([], 2)
    (directory / f"{OTHER}.disabled").unlink()
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.name != ".seal"} == before
    await use(plain)


async def test_sealing_again_after_unsealing_is_under_another_seal(
    plain: EmbeddedKeyStore, directory: Path, passphrase: Path
) -> None:
    store = opened(directory, passphrase)
    await store.seal()
    first = (directory / ".seal").read_bytes()
    await store.unseal()
    await store.seal()
    assert (directory / ".seal").read_bytes()[:37] != first[:37]
    await use(store)


async def test_what_a_killed_process_left_of_a_key_in_clear_is_removed(
    plain: EmbeddedKeyStore, directory: Path, passphrase: Path
) -> None:
    # Killed between the two names of a new key: the file has both.
    (directory / f".{KEY}.key.0123abcd").hardlink_to(directory / f"{KEY}.key")
    await opened(directory, passphrase).seal()
    assert sorted(path.name for path in directory.iterdir()) == [".seal", f"{KEY}.key", f"{OTHER}.key"]


@pytest.mark.parametrize("mischief", ["wrong passphrase", "exchanged", "readable", "no key", "no passphrase"])
async def test_sealing_stops_at_what_it_does_not_understand_and_loses_nothing(
    plain: EmbeddedKeyStore, directory: Path, passphrase: Path, mischief: str
) -> None:
    store = opened(directory, passphrase)
    match mischief:
        case "wrong passphrase":
            await store.seal()
            write_anew(passphrase, "eight stones")
            store = opened(directory, passphrase)
        case "exchanged":
            await store.seal()
            shutil.copy(directory / f"{KEY}.key", directory / f"{OTHER}.key")
        case "readable":
            (directory / f"{OTHER}.key").chmod(0o640)
        case "no key":
            (directory / f"{OTHER}.key").write_bytes(bytes(33))
        case "no passphrase":
            store = opened(directory, None)
    before = (directory / f"{OTHER}.key").read_bytes()
    with pytest.raises(KeyMisconfigured) as caught:
        await store.seal()
    assert PASSPHRASE not in str(caught.value)
    assert (directory / f"{OTHER}.key").read_bytes() == before


KEYS = 120
SEAL = """
import asyncio, sys
from pathlib import Path
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.secret_sources import SecretReference
store = EmbeddedKeyStore("embedded", Path(sys.argv[1]), SecretReference.file(Path(sys.argv[2])))
asyncio.run(getattr(store, sys.argv[3])())
"""


@pytest.mark.parametrize("verb", ["seal", "unseal"])
async def test_a_sealing_that_is_killed_half_way_is_gone_on_with(directory: Path, passphrase: Path, verb: str) -> None:
    directory.mkdir(mode=0o700)
    keys = {f"key-{number:03}": os.urandom(32) for number in range(KEYS)}
    for reference, key in keys.items():
        path = directory / f"{reference}.key"
        path.touch(mode=0o600)
        path.write_bytes(key)
    store = opened(directory, passphrase)
    seal = SealedDirectory(directory, SecretReference.file(passphrase), CHEAP).open_or_make()
    if verb == "unseal":
        await store.seal()

    def done() -> int:
        length = 97 if verb == "seal" else 32
        return sum(path.stat().st_size == length for path in directory.glob("*.key"))

    kills = 0
    for goal in (1, KEYS // 3, KEYS // 2):
        with subprocess.Popen([sys.executable, "-c", SEAL, directory, passphrase, verb]) as process:
            wait_until(lambda goal=goal: done() >= goal)
            process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
        for reference, key in keys.items():
            content = (directory / f"{reference}.key").read_bytes()
            assert (content if len(content) == 32 else seal.open_key(reference, content)) == key
    assert kills >= 1
    assert done() < KEYS, "it was never cut off"
    await getattr(store, verb)()
    assert done() == KEYS
    assert {path.name for path in directory.iterdir()} - {".seal"} == {f"{reference}.key" for reference in keys}
    for reference, key in keys.items():
        content = (directory / f"{reference}.key").read_bytes()
        assert (content if verb == "unseal" else seal.open_key(reference, content)) == key


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        with contextlib.suppress(InterruptedError):
            time.sleep(0.001)
