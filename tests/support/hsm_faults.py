"""What may happen to a token, or to the process of its module, and how it is mended."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from support.hsm_pair import KEY
from support.pkcs11_workers import worker_pids
from support.softhsm import PIN, SoftHsm

OTHER_PIN = "552211"


@dataclass(frozen=True, slots=True)
class Place:
    """A token and the server that uses it."""

    softhsm: SoftHsm
    token: str
    server: int

    def workers(self) -> list[int]:
        """The processes of the token's module."""
        return worker_pids(self.server, self.token)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to a token while the block runs.

    Attributes:
        name: What.
        at: Does it.
        shows: In which of these states the token is told to be meanwhile; empty where it may pass unseen.
    """

    name: str
    at: Callable[[Place], AbstractContextManager[None]]
    shows: frozenset[str] = frozenset()


@contextlib.contextmanager
def _taken_out(place: Place) -> Iterator[None]:
    away = place.softhsm.take_out(place.token)
    try:
        yield
    finally:
        place.softhsm.put_in(place.token, away)


@contextlib.contextmanager
def _initialized_anew(place: Place) -> Iterator[None]:
    """With another key of the same label in it, which must never be used."""
    away = place.softhsm.take_out(place.token)
    place.softhsm.make_token(place.token)
    place.softhsm.make_key(place.token, KEY, "SENSITIVE", "ENCRYPT", "DECRYPT", "WRAP", "UNWRAP")
    try:
        yield
    finally:
        place.softhsm.delete_token(place.token)
        place.softhsm.put_in(place.token, away)


@contextlib.contextmanager
def _killed(place: Place) -> Iterator[None]:
    os.kill(place.workers()[0], signal.SIGKILL)
    yield


@contextlib.contextmanager
def _hung(place: Place) -> Iterator[None]:
    """In C, in whatever process: as with an HSM that nothing comes back from."""
    (place.softhsm.folder / "hangs").touch()
    try:
        yield
    finally:
        (place.softhsm.folder / "hangs").unlink()


@contextlib.contextmanager
def _full(place: Place) -> Iterator[None]:
    """Others have all sessions of the token, and ours has ended."""
    (place.softhsm.folder / "full").touch()
    for pid in place.workers():
        os.kill(pid, signal.SIGKILL)
    try:
        yield
    finally:
        (place.softhsm.folder / "full").unlink()


@contextlib.contextmanager
def _pin_changed(place: Place) -> Iterator[None]:
    """And sessions ended, so that it is asked for again."""
    place.softhsm.change_pin(place.token, PIN, OTHER_PIN)
    for pid in place.workers():
        os.kill(pid, signal.SIGKILL)
    try:
        yield
    finally:
        place.softhsm.write_pin(place.token, OTHER_PIN)
        _after(place)


def _after(place: Place) -> None:
    """Back to what it was, for what comes next."""
    place.softhsm.change_pin(place.token, OTHER_PIN, PIN)
    place.softhsm.write_pin(place.token, PIN)


FAULTS = (
    Fault("token deleted", _taken_out, frozenset({"UNREACHABLE"})),
    Fault("token initialized anew", _initialized_anew, frozenset({"MISCONFIGURED"})),
    Fault("module killed", _killed),
    Fault("token full of sessions", _full, frozenset({"UNREACHABLE"})),
    Fault("library hangs", _hung, frozenset({"UNREACHABLE"})),
    Fault("PIN changed", _pin_changed, frozenset({"MISCONFIGURED"})),
)
