"""Files that change while they are used: at most a second late, and nobody waits for what is long to load."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ownkey_server.rpc.reloading import Reloaded, UnusableFile, read
from support.server import wait_until


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def put(path: Path, content: bytes) -> None:
    """Replace a file whole."""
    partial = path.with_suffix(".new")
    partial.write_bytes(content)
    partial.rename(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "file"
    put(found, b"one")
    return found


@pytest.mark.parametrize("aside", [False, True])
def test_a_change_is_seen_after_a_second_and_what_cannot_be_used_is_not(path: Path, aside: bool) -> None:
    def load() -> bytes:
        if (found := read(path)) == b"broken":
            raise UnusableFile("broken")
        return found

    clock = Clock()
    reloaded = Reloaded([path], load, clock, aside=aside)
    put(path, b"second")
    assert reloaded.get() == b"one"
    clock.now = 1.0
    wait_until(lambda: (reloaded.get(), reloaded.version) == (b"second", 2), "the change is seen")
    put(path, b"broken")
    clock.now = 2.0
    reloaded.get()
    put(path, b"the third")
    clock.now = 3.0

    def later() -> bool:
        clock.now += 1.0
        return (reloaded.get(), reloaded.version) == (b"the third", 3)

    wait_until(later, "the third is seen, and the broken one never was")


def test_nobody_waits_for_what_is_loaded_aside(path: Path) -> None:
    slow, started, may_go_on = threading.Event(), threading.Event(), threading.Event()

    def load() -> bytes:
        if slow.is_set():
            started.set()
            assert may_go_on.wait(20)
        return read(path)

    clock = Clock()
    reloaded = Reloaded([path], load, clock, aside=True)
    slow.set()
    put(path, b"second")
    clock.now = 1.0
    assert reloaded.get() == b"one"
    assert started.wait(20)
    clock.now = 5.0
    assert reloaded.get() == b"one"
    may_go_on.set()
    wait_until(lambda: (reloaded.get(), reloaded.version) == (b"second", 2), "it is loaded")
