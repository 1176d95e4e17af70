"""Who holds the keys of the matrix, and what may happen to them: each happening is a block, and ends with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import grpc

from ownkey.v1 import admin_service_pb2_grpc, revocation_pb2
from support.key_stores import KEY, EmbeddedSubject, SealedSubject
from support.requests import request_class

Block = AbstractContextManager[None]
"""Something that goes on until the block ends."""


class Holder:
    """Who holds the key of one cell.

    Attributes:
        store: Name of the key store in the settings.
        places: The names of the key's places in that store, in order of preference.
        section: The key store's section of the settings; empty where another holder's has it.
        cell: Its id, which is its tenant's.
        address: Of the server.
        hand_in: What a caller makes of a wrapped key before it is handed in.
    """

    store: str
    places: list[str]
    section: str = ""

    def __init__(self, cell: str) -> None:
        self.cell = cell
        self.address = ""
        self.hand_in: Callable[[bytes], bytes] = bytes

    def block(self, act: str) -> Block:
        """What an act is."""
        found: Block = getattr(self, act)()
        return found

    @contextlib.contextmanager
    def taken_back(self) -> Iterator[None]:
        """The whole key, by a revocation at ownkey itself."""
        with grpc.insecure_channel(self.address) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            scope = revocation_pb2.RevocationScope(keys=["main"])
            request = request_class("Revoke")(tenant=self.cell, scope=scope)
            made = stub.Revoke(request, timeout=20).revocation.id
        yield
        with grpc.insecure_channel(self.address) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            stub.Restore(request_class("Restore")(tenant=self.cell, revocation=made), timeout=20)

    @contextlib.contextmanager
    def forged(self) -> Iterator[None]:
        """Every wrapped key is handed in with a bit of its last byte changed."""
        self.hand_in = lambda wrapped: wrapped[:-1] + bytes([wrapped[-1] ^ 1])
        yield
        self.hand_in = bytes


class FilesHolder(Holder):
    """Keys in files, in clear or sealed, in a directory of this cell's own."""

    def __init__(self, cell: str, folder: Path, *, sealed: bool) -> None:
        super().__init__(cell)
        folder.mkdir()
        self._subject = SealedSubject(folder) if sealed else EmbeddedSubject(folder)
        self.store, self.places = cell, [KEY]
        self.section = f'[key_stores.{cell}]\nkind = "embedded"\ndirectory = "{self._subject.directory}"\n'
        if isinstance(self._subject, SealedSubject):
            self.section += f'passphrase = "file:{self._subject.passphrase}"\n'
        self._file = self._subject.directory / f"{KEY}.key"

    async def make_keys(self) -> None:
        """Make the key, as its holder."""
        await self._subject.make_keys()

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        self._subject.revoke()
        yield
        self._subject.restore()

    disabled_while_down = disabled

    @contextlib.contextmanager
    def volume_gone(self) -> Iterator[None]:
        self._subject.break_off()
        yield
        self._subject.mend()

    volume_gone_at_start = volume_gone

    @contextlib.contextmanager
    def file_deleted(self) -> Iterator[None]:
        kept = self._file.with_suffix(".kept")
        self._file.rename(kept)
        yield
        kept.rename(self._file)

    def unreadable(self) -> Block:
        return _mode(self._file, 0o000)

    def folder_closed(self) -> Block:
        return _mode(self._file.parent, 0o000)

    def readable_by_others(self) -> Block:
        return _mode(self._file, 0o644)

    @contextlib.contextmanager
    def exchanged(self) -> Iterator[None]:
        whole = self._file.read_bytes()
        self._file.write_bytes(os.urandom(len(whole)))
        yield
        self._file.write_bytes(whole)

    exchanged_while_down = exchanged

    @contextlib.contextmanager
    def other_passphrase_while_down(self) -> Iterator[None]:
        assert isinstance(self._subject, SealedSubject)
        right = self._subject.passphrase.read_text(encoding="utf-8")
        self._subject.passphrase.write_text("eight stones in a brook\n", encoding="utf-8")
        yield
        self._subject.passphrase.write_text(right, encoding="utf-8")

    @contextlib.contextmanager
    def passphrase_gone(self) -> Iterator[None]:
        assert isinstance(self._subject, SealedSubject)
        kept = self._subject.passphrase.rename(self._subject.passphrase.with_suffix(".kept"))
        yield
        kept.rename(self._subject.passphrase)

    @contextlib.contextmanager
    def seal_gone_while_down(self) -> Iterator[None]:
        seal = self._file.parent / ".seal"
        kept = seal.rename(seal.with_suffix(".kept"))
        yield
        kept.rename(seal)

    @contextlib.contextmanager
    def cut_short(self) -> Iterator[None]:
        whole = self._file.read_bytes()
        self._file.write_bytes(whole[:-1])
        yield
        self._file.write_bytes(whole)


@contextlib.contextmanager
def _mode(path: Path, mode: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(mode)
    yield
    path.chmod(before)
