"""Customer keys in files of a directory. To try ownkey with: whoever reads the directory has every key, unless sealed.

A key is 32 bytes in ``<reference>.key``, mode 0600, or sealed under a passphrase (``sealing.py``): then the directory
alone, or a copy of it, gives no key. Its holder disables it by a file ``<reference>.disabled`` beside it. Both are
looked at on every use, so that what the holder does counts at once. Another key in a file that has been used is not.

What it means when a key does not work:

- the ``.disabled`` file is there: the key was taken away, ``REVOKED``
- the key's file is gone, or cannot be read: an outage, ``UNREACHABLE``, since a volume that is not mounted looks so
- the file was never there since the server started, others may read it, or it holds another key: ``MISCONFIGURED``
- the passphrase is wrong or missing, a sealed file was changed or exchanged, or a key is in clear where all should be
  sealed: ``MISCONFIGURED``, since none of this is how a holder takes a key away. Keys that were opened before go on
  working without the passphrase, which is needed once
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ownkey.container import (
    EncryptedDataKey,
)
from ownkey_server.domain.errors import (
    ANOTHER_KEY_REMEDY,
    CiphertextInvalid,
    KeyAbsent,
    KeyExists,
    KeyMisconfigured,
    KeyRevoked,
    KeyUnreachable,
)
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.keystores.base import (
    DATA_KEY_LENGTH,
    GeneratedDataKey,
    KeyDescription,
    UnwrappedDataKey,
    WrappedDataKey,
)
from ownkey_server.keystores.embedded.loaded_key import LoadedKey, NotOpened, names
from ownkey_server.keystores.embedded.sealed_directory import (
    REFERENCE,
    SEAL_NAME,
    KeyFileUnfit,
    SealedDirectory,
    SealMissing,
    read_key_file,
    seal_keys,
    sync_directory,
    unseal_keys,
    write_new,
)
from ownkey_server.keystores.embedded.sealing import KEY_LENGTH, Cost, Seal, SealInvalid, is_sealed
from ownkey_server.keystores.probe import require_data_key, use_both_ways
from ownkey_server.secret_sources import SecretReference, SecretUnusable

_log = logging.getLogger(__name__)

FIRST_START_SUFFIX = ".first-start"
NOTE_SUFFIX = ".has-keys"


class _SealClosed(Exception):
    """A key is sealed, and the seal was not opened yet, or is another."""


@dataclass(frozen=True, slots=True)
class _Files:
    """The paths of a key, as strings since they are looked at on every use."""

    key: str
    disabled: str


class EmbeddedKeyStore:
    """A key store in a directory.

    Args:
        name: The store's name in the settings.
        directory: Where the keys are; made with mode 0700 by :meth:`create`.
        passphrase: Where the passphrase is that the keys are sealed under; None when they are in clear.
        seal_cost: What a seal costs that is made here.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        passphrase: SecretReference | None = None,
        *,
        seal_cost: Cost | None = None,
    ) -> None:
        self._name = name
        self._directory = directory
        self._loaded: dict[str, LoadedKey] = {}
        self._files: dict[str, _Files] = {}
        self._closed = False
        self._sealed = SealedDirectory(directory, passphrase, seal_cost) if passphrase else None
        how = "sealed, in files" if passphrase else "in files"
        _log.warning("key store %r keeps its keys %s of %s: not for production", name, how, directory)

    @property
    def name(self) -> str:
        """The store's name in the settings."""
        return self._name

    @property
    def counts_wraps(self) -> bool:
        """Whether a key may wrap only so often: AES-GCM with random nonces under the key itself."""
        return True

    @property
    def is_new(self) -> bool:
        """Whether no key was ever made here.

        A directory that is missing or empty may be one whose volume is not mounted, so a note of the first key stands
        beside it.
        """
        return not self._note.exists() and (not self._directory.exists() or not any(self._directory.iterdir()))

    @contextlib.contextmanager
    def first_start(self) -> Iterator[bool]:
        """Whether keys that are missing may be made: at the first start, however often that is cut off.

        A marker stands beside the directory until the block has ended well. Processes that start at once go one by one.
        """
        marker = self._directory.with_name(self._directory.name + FIRST_START_SUFFIX)
        if not (self.is_new or marker.exists()):
            yield False
            return
        marker.parent.mkdir(parents=True, exist_ok=True)
        with marker.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield self.is_new or marker.exists()
            marker.unlink(missing_ok=True)

    def _why_away(self) -> str:
        """What looks as where a volume is not mounted: keys were made, and none is there; empty when one is."""
        if not self._note.exists():
            return ""
        if not self._directory.is_dir():
            return f"{self._directory} is not there: is its volume mounted?"
        with contextlib.suppress(OSError):  # who may not look into it may still use a key
            if not any(self._directory.iterdir()):
                return f"{self._directory} is empty: is its volume mounted?"
        return ""

    def has(self, reference: str) -> bool:
        """Whether there is a key of that name, disabled or not."""
        return self._path(reference, "key").exists()

    @property
    def _note(self) -> Path:
        return self._directory.with_name(self._directory.name + NOTE_SUFFIX)

    async def generate_data_key(
        self,
        reference: str,
        context: Mapping[str, str],
        timeout: float,  # noqa: ARG002 - files answer at once
    ) -> GeneratedDataKey:
        """Make 32 random bytes and wrap them."""
        key = await self._usable(reference)
        data_key = SecretBytes(os.urandom(DATA_KEY_LENGTH))
        return GeneratedDataKey(data_key, key.wrap(data_key.reveal(), context))

    async def wrap(
        self,
        reference: str,
        data_key: SecretBytes,
        context: Mapping[str, str],
        timeout: float,  # noqa: ARG002
    ) -> WrappedDataKey:
        """Wrap a data key.

        Raises:
            ValueError: It has not 32 bytes.
        """
        require_data_key(data_key)
        return WrappedDataKey((await self._usable(reference)).wrap(data_key.reveal(), context))

    async def unwrap(
        self,
        reference: str,
        wrapped: EncryptedDataKey,
        context: Mapping[str, str],
        timeout: float,  # noqa: ARG002
    ) -> UnwrappedDataKey:
        """The data key again."""
        key = await self._usable(reference)
        try:
            return UnwrappedDataKey(SecretBytes(key.unwrap(wrapped, context)))
        except NotOpened as error:
            raise CiphertextInvalid(self._name, reference, str(error)) from None

    def recognizes(self, reference: str, wrapped: EncryptedDataKey) -> bool:
        """Whether the entry names exactly this key."""
        return names(reference, wrapped)

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        """Use the key both ways on throw-away bytes."""
        return await use_both_ways(self, reference, timeout)

    def forget(self, reference: str) -> None:
        """From now on the key of this name may be another: what its file holds at the next use."""
        self._loaded.pop(reference, None)

    async def check(self, timeout: float) -> None:  # noqa: ARG002
        """Look whether the directory is there, and the passphrase opens its seal.

        Raises:
            KeyUnreachable: The directory is not there, though it was.
            KeyMisconfigured: The passphrase cannot be had, or is another.
        """
        away = self._why_away()
        if away:
            raise KeyUnreachable(self._name, "", away)
        if self._sealed:
            with contextlib.suppress(SealMissing):
                await asyncio.to_thread(self._seal, "", self._sealed.open)

    async def close(self) -> None:
        """Forget the keys."""
        self._closed = True
        self._loaded.clear()

    async def create(self, reference: str) -> None:
        """Make a key. It is on disk before this returns, and none is ever overwritten.

        Raises:
            KeyExists: There is such a key already.
            KeyMisconfigured: The directory cannot be written.
        """
        path = self._path(reference, "key")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._note.touch()
            key = os.urandom(KEY_LENGTH)
            if self._sealed:
                seal = await asyncio.to_thread(self._seal, reference, self._sealed.open_or_make)
                key = seal.close_key(reference, key)
            write_new(path, key)
            sync_directory(self._directory)
        except FileExistsError:
            raise KeyExists(self._name, reference, "there is a key of this name already") from None
        except OSError as error:
            raise KeyMisconfigured(self._name, reference, f"cannot be made: {error.strerror}") from error

    async def seal(self) -> tuple[list[str], int]:
        """Seal the keys that are in clear, as their holder. It can be cut off, and gone on with.

        Returns:
            What was sealed now, and how many keys were sealed already.

        Raises:
            KeyMisconfigured: The store has no passphrase, or a file is in the way. The message says which.
        """
        return await asyncio.to_thread(self._rewrite, seal_keys)

    async def unseal(self) -> tuple[list[str], int]:
        """Write the sealed keys in clear again, and remove the seal.

        Returns:
            What was unsealed now, and how many keys were in clear already.

        Raises:
            KeyMisconfigured: As :meth:`seal`.
        """
        done = await asyncio.to_thread(self._rewrite, unseal_keys)
        if self._sealed:
            self._sealed.remove()
        return done

    async def disable(self, reference: str) -> None:
        """Take the key away, as its holder.

        Raises:
            KeyAbsent: There is no such key.
            KeyMisconfigured: The directory cannot be written.
        """
        self._require_key(reference)
        try:
            self._path(reference, "disabled").touch(mode=0o600)
            sync_directory(self._directory)
        except OSError as error:
            raise KeyMisconfigured(self._name, reference, f"cannot be disabled: {error.strerror}") from error

    async def enable(self, reference: str) -> None:
        """Give the key back, as its holder.

        Raises:
            KeyAbsent: There is no such key.
            KeyMisconfigured: The directory cannot be written.
        """
        self._require_key(reference)
        try:
            self._path(reference, "disabled").unlink(missing_ok=True)
            sync_directory(self._directory)
        except OSError as error:
            raise KeyMisconfigured(self._name, reference, f"cannot be enabled: {error.strerror}") from error

    async def _usable(self, reference: str) -> LoadedKey:
        try:
            return self._key(reference)
        except _SealClosed:
            return await self._unsealed(reference)

    async def _unsealed(self, reference: str) -> LoadedKey:
        """The key, after the seal was opened: aside, since that takes a tenth of a second."""
        if self._sealed is None:
            cause = f"it is sealed: set passphrase in [key_stores.{self._name}]"
            raise KeyMisconfigured(self._name, reference, cause)
        with contextlib.suppress(SealMissing):
            await asyncio.to_thread(self._seal, reference, self._sealed.open)
        try:
            return self._key(reference)  # which also tells whether all of the directory has gone meanwhile
        except _SealClosed:
            cause = f"{self._directory / SEAL_NAME} is not there, or not the one that this key was sealed under"
            raise KeyMisconfigured(self._name, reference, f"{cause}: put it back from a backup") from None

    def _seal(self, reference: str, opened: Callable[[], Seal]) -> Seal:
        try:
            return opened()
        except SecretUnusable as error:
            raise KeyMisconfigured(self._name, reference, f"its passphrase cannot be had: {error}") from None
        except SealInvalid as error:
            seal = self._directory / SEAL_NAME
            raise KeyMisconfigured(self._name, reference, f"{seal} cannot be opened: {error}") from None
        except OSError as error:
            cause = f"{self._directory / SEAL_NAME} cannot be read or written: {error.strerror}"
            raise KeyUnreachable(self._name, reference, cause) from error

    def _rewrite(self, work: Callable[[Path, Seal], tuple[list[str], int]]) -> tuple[list[str], int]:
        if self._sealed is None:
            raise KeyMisconfigured(self._name, "", f"set passphrase in [key_stores.{self._name}] first")
        try:
            return work(self._directory, self._seal("", self._sealed.open_or_make))
        except KeyFileUnfit as error:
            raise KeyMisconfigured(self._name, "", str(error)) from None
        except OSError as error:
            raise KeyMisconfigured(self._name, "", f"{error.filename or self._directory}: {error.strerror}") from error

    def _key(self, reference: str) -> LoadedKey:
        """The key, as its file is now."""
        if self._closed:
            raise KeyUnreachable(self._name, reference, "the key store is closed")
        files = self._files.get(reference) or self._files_of(reference)
        loaded = self._loaded.get(reference)
        try:
            if os.access(files.disabled, os.F_OK, follow_symlinks=False):
                raise KeyRevoked(self._name, reference, "its holder disabled it")
            found = os.stat(files.key)  # noqa: PTH116 - on every use, and twice as fast
            # Not the time of modification: that can be set, and a change of the file's mode leaves it as it was.
            if loaded is None or loaded.inode != found.st_ino or loaded.changed != found.st_ctime_ns:
                loaded = self._loaded[reference] = self._load(reference, files.key, loaded)
        except FileNotFoundError:
            if loaded is None:
                away = self._why_away()
                if away:
                    raise KeyUnreachable(self._name, reference, away) from None
                raise KeyMisconfigured(self._name, reference, f"{files.key} is not there") from None
            raise KeyUnreachable(self._name, reference, f"{files.key} is not there any more") from None
        except OSError as error:
            raise KeyUnreachable(self._name, reference, f"{files.key} cannot be read: {error.strerror}") from error
        return loaded

    def _load(self, reference: str, path: str, before: LoadedKey | None) -> LoadedKey:
        try:
            content, found = read_key_file(path)
            key = self._in_clear(reference, path, content)
        except (KeyFileUnfit, SealInvalid) as error:
            raise KeyMisconfigured(self._name, reference, str(error)) from None
        loaded = LoadedKey(reference, AESGCM(key), found.st_ino, found.st_ctime_ns)
        key[:] = bytes(len(key))
        if before is not None and not before.is_same_key(loaded):
            cause = f"{path} holds another key than the one that has worked until now, whose content it does not open"
            raise KeyMisconfigured(self._name, reference, f"{cause}: {ANOTHER_KEY_REMEDY}")
        return loaded

    def _in_clear(self, reference: str, path: str, content: bytearray) -> bytearray:
        if is_sealed(content):
            seal = self._sealed.seal if self._sealed else None
            if seal is None or not seal.made(content):
                raise _SealClosed
            try:
                return seal.open_key(reference, content)
            except SealInvalid as error:
                raise SealInvalid(f"{path} does not open: {error}") from None
        if self._sealed:
            content[:] = bytes(len(content))
            raise KeyFileUnfit(f"{path} is in clear; run: ownkey keystore seal --store {self._name}")
        return content

    def _require_key(self, reference: str) -> None:
        if not self._path(reference, "key").exists():
            raise KeyAbsent(self._name, reference, f"there is no such key in {self._directory}")

    def _files_of(self, reference: str) -> _Files:
        files = _Files(str(self._path(reference, "key")), str(self._path(reference, "disabled")))
        self._files[reference] = files
        return files

    def _path(self, reference: str, kind: str) -> Path:
        if not REFERENCE.fullmatch(reference):
            cause = "a key's name here is 1 to 128 letters, digits, dots, hyphens and underscores"
            raise KeyMisconfigured(self._name, reference, cause)
        return self._directory / f"{reference}.{kind}"
