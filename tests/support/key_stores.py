"""Key stores as their holders see them: what the contract tests need to know of each kind, and nothing of its inside.

A new key store joins by one class here and one row in ``tests/contract/conftest.py``;
``test_every_kind_of_key_store_is_held_to_it`` fails until it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.keystores import catalog
from ownkey_server.keystores.base import DATA_KEY_LENGTH, KeyMaker, KeyStore
from ownkey_server.keystores.catalog import EmbeddedOptions, KeyStoreOptions, Pkcs11Options
from ownkey_server.keystores.embedded.sealed_directory import SealedDirectory
from ownkey_server.keystores.embedded.sealing import Cost
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.secret_sources import SecretReference
from support import nss
from support.nss import Nss
from support.pkcs11_workers import stopped_workers
from support.softhsm import PIN, SoftHsm

TIMEOUT = 10.0
PASSPHRASE = "seven stones in a brook"
# The least that a seal may cost: tests derive a hundred times what a server does once.
CHEAP = Cost(memory_kib=8 * 1024, passes=1, lanes=1)
KEY = "acme-main"
OTHER_KEY = "acme-other"

CONTEXT = {
    "ownkey:tenant": "acme",
    "ownkey:asset-class": "phone_recording",
    "ownkey:asset-id": "call-7",
    "site": "Köln",
}

# A token's label, and a mechanism if not the best.
OpenStore = Callable[..., KeyMaker]

_serial = itertools.count()


class Subject(Protocol):
    """One kind of key store with two keys in it, and its holder at hand."""

    options: KeyStoreOptions
    # What its keys are called: two that there are, and one that there never was.
    key: str
    other_key: str
    missing: str
    # What this kind cannot do, by the name of the method, and why.
    cannot: Mapping[str, str]

    def open(self, name: str = "subject") -> KeyStore:
        """Another key store object on the same keys; a :class:`KeyMaker` where keys can be made."""
        ...

    async def make_keys(self) -> None: ...

    def revoke(self) -> None:
        """A deliberate act of the holder on ``key``."""
        ...

    def restore(self) -> None:
        """Undo :meth:`revoke`."""
        ...

    def break_off(self) -> None:
        """An outage that nobody decided."""
        ...

    def mend(self) -> None:
        """End the outage."""
        ...

    def forbid_opening(self) -> None:
        """Let ``key`` still wrap, and no longer unwrap."""
        ...

    def hang(self) -> contextlib.AbstractAsyncContextManager[None]:
        """The store answers nothing until the block ends."""
        ...

    def secrets(self) -> list[str]:
        """What must never be seen, as text."""
        ...

    def clean_up(self) -> None: ...


class _Named:
    key, other_key, missing = KEY, OTHER_KEY, "never-made"


class EmbeddedSubject(_Named):
    """Keys in files."""

    cannot: Mapping[str, str] = {
        "hang": "files are read in the call itself: there is nothing to wait for",
        "forbid_opening": "a key in a file has no rights of its own",
    }

    def __init__(self, folder: Path) -> None:
        self.directory = folder / "keys"
        self.options = EmbeddedOptions(self.directory)
        self._away = folder / "keys-away"
        self._holder = self.open("holder")

    def open(self, name: str = "subject") -> EmbeddedKeyStore:
        return EmbeddedKeyStore(name, self.directory)

    async def make_keys(self) -> None:
        for reference in (KEY, OTHER_KEY):
            await self._holder.create(reference)

    def revoke(self) -> None:
        (self.directory / f"{KEY}.disabled").touch()

    def restore(self) -> None:
        (self.directory / f"{KEY}.disabled").unlink()

    def break_off(self) -> None:
        self.directory.rename(self._away)

    def mend(self) -> None:
        self._away.rename(self.directory)

    def forbid_opening(self) -> None:
        raise NotImplementedError

    def hang(self) -> contextlib.AbstractAsyncContextManager[None]:
        raise NotImplementedError

    def secrets(self) -> list[str]:
        return [(self.directory / f"{KEY}.key").read_bytes().hex()]

    def clean_up(self) -> None:
        pass


class SealedSubject(EmbeddedSubject):
    """Keys in files that are sealed under a passphrase."""

    def __init__(self, folder: Path) -> None:
        self.passphrase = folder / "passphrase"
        self.passphrase.touch(mode=0o600)
        self.passphrase.write_text(f"{PASSPHRASE}\n", encoding="utf-8")
        super().__init__(folder)
        self.options = EmbeddedOptions(self.directory, SecretReference.file(self.passphrase))

    def open(self, name: str = "subject") -> EmbeddedKeyStore:
        return EmbeddedKeyStore(name, self.directory, SecretReference.file(self.passphrase), seal_cost=CHEAP)

    def secrets(self) -> list[str]:
        seal = SealedDirectory(self.directory, SecretReference.file(self.passphrase)).open()
        key = seal.open_key(KEY, (self.directory / f"{KEY}.key").read_bytes())
        return [key.hex(), PASSPHRASE]


class Pkcs11Subject(_Named):
    """Keys in a token of SoftHSM; every act of the holder is another process's."""

    cannot: Mapping[str, str] = {}

    def __init__(self, softhsm: SoftHsm, mechanism: str, isolation: str = "process") -> None:
        self._softhsm = softhsm
        # Of one length: pkcs11-tool takes a label that begins so for the one that it was told.
        self.label = f"contract-{next(_serial):04}"
        pin_file = softhsm.make_token(self.label)
        self.options = Pkcs11Options(softhsm.module, self.label, SecretReference.file(pin_file), mechanism, isolation)

    def open(self, name: str = "subject") -> KeyMaker:
        return catalog.open_key_store(name, self.options, self._softhsm.modules)

    async def make_keys(self) -> None:
        holder = self.open("holder")
        for reference in (KEY, OTHER_KEY):
            await holder.create(reference)
        await holder.close()

    def revoke(self) -> None:
        self._softhsm.withdraw_rights(self.label, KEY)

    def restore(self) -> None:
        rights = ("ENCRYPT", "DECRYPT") if self.options.mechanism == "aes-gcm" else ("WRAP", "UNWRAP")
        self._softhsm.set_rights(self.label, KEY, *rights)

    def break_off(self) -> None:
        self._softhsm.unplug(self.label)

    def mend(self) -> None:
        self._softhsm.plug_in(self.label)

    def forbid_opening(self) -> None:
        self._softhsm.set_rights(self.label, KEY, "ENCRYPT" if self.options.mechanism == "aes-gcm" else "WRAP")

    def hang(self) -> contextlib.AbstractAsyncContextManager[None]:
        return stopped_workers() if self.options.isolation == "process" else self._held_thread()

    @contextlib.asynccontextmanager
    async def _held_thread(self) -> AsyncIterator[None]:
        thread = self._softhsm.modules.thread(self._softhsm.module)
        entered, released = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            released.wait()

        held = asyncio.ensure_future(thread.call(hold, timeout=60.0))
        await until(lambda: _now(entered.is_set()))
        try:
            yield
        finally:
            released.set()
            await held

    def secrets(self) -> list[str]:
        return [PIN]

    def clean_up(self) -> None:
        self._softhsm.plug_in(self.label)
        self._softhsm.delete_token(self.label)


class NssSubject(_Named):
    """Keys in a token of NSS, in a process of the module's own."""

    cannot: Mapping[str, str] = {}

    def __init__(self, nss: Nss) -> None:
        self._nss = nss
        self._token = f"contract-{next(_serial)}"
        self.options = nss.make_token(self._token)

    def open(self, name: str = "subject") -> KeyMaker:
        return catalog.open_key_store(name, self.options, self._nss.modules)

    async def make_keys(self) -> None:
        holder = self.open("holder")
        for reference in (KEY, OTHER_KEY):
            await holder.create(reference)
        await holder.close()

    def revoke(self) -> None:
        self._nss.set_rights(self._token, KEY)

    def restore(self) -> None:
        self._nss.set_rights(self._token, KEY, "WRAP", "UNWRAP")

    def break_off(self) -> None:
        self._nss.damage(self._token)

    def mend(self) -> None:
        self._nss.mend(self._token)

    def forbid_opening(self) -> None:
        self._nss.set_rights(self._token, KEY, "WRAP")

    def hang(self) -> contextlib.AbstractAsyncContextManager[None]:
        return stopped_workers()

    def secrets(self) -> list[str]:
        return [nss.PIN]

    def clean_up(self) -> None:
        pass


async def until(condition: Callable[[], Awaitable[bool]], within: float = 20.0) -> None:
    """Wait for a condition, and fail when it does not come about in time."""
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.02)


async def _now(value: bool) -> bool:
    return value


async def answers(store: KeyStore, reference: str = KEY) -> bool:
    """Whether the key is usable both ways."""
    return (await store.describe(reference, TIMEOUT)).state.usable


async def both_ways(store: KeyStore, reference: str = KEY) -> list[Callable[[], Awaitable[object]]]:
    """The three uses of a key, ready to be tried; made while the key still works."""
    made = await store.generate_data_key(reference, CONTEXT, TIMEOUT)
    return [
        lambda: store.generate_data_key(reference, CONTEXT, TIMEOUT),
        lambda: store.wrap(reference, SecretBytes(os.urandom(DATA_KEY_LENGTH)), CONTEXT, TIMEOUT),
        lambda: store.unwrap(reference, made.wrapped, CONTEXT, TIMEOUT),
    ]
