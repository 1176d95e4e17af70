"""A module's thread, with work that does what the test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ownkey_server.keystores.pkcs11.host import ModuleBusy, ModuleStuck
from ownkey_server.keystores.pkcs11.module import ModuleMissing
from ownkey_server.keystores.pkcs11.thread import ModuleThread
from support.key_stores import until

LONG = 30.0


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Hang:
    """Work that does not come back until it is released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        self.released.wait()
        return "done at last"

    async def is_entered(self) -> bool:
        return self.entered.is_set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hang() -> Iterator[Hang]:
    made = Hang()
    yield made
    made.released.set()


@pytest.fixture
def thread(clock: Clock) -> Iterator[ModuleThread]:
    made = ModuleThread(Path("/nowhere/module.so"), max_queued=4, patience=2.0, monotonic=clock)
    yield made
    made.end()


def seen_from_all(count: int) -> list[str]:
    return [threading.current_thread().name for _ in range(count)]


async def test_all_work_of_a_module_is_done_by_one_thread(thread: ModuleThread) -> None:
    names = await asyncio.gather(*(thread.call(lambda: seen_from_all(1), LONG) for _ in range(4)))
    assert {name for (name,) in names} == {"pkcs11 module.so"}


async def test_an_error_of_the_work_is_its_callers(thread: ModuleThread) -> None:
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 // 0, LONG)
    assert await thread.call(lambda: 7, LONG) == 7


async def test_the_queue_is_bounded(thread: ModuleThread, hang: Hang) -> None:
    calls = [asyncio.ensure_future(thread.call(hang, LONG)) for _ in range(4)]
    await until(hang.is_entered)
    with pytest.raises(ModuleBusy):
        await thread.call(lambda: None, LONG)
    hang.released.set()
    assert await asyncio.gather(*calls) == ["done at last"] * 4
    assert await thread.call(lambda: 7, LONG) == 7


async def test_work_whose_time_ran_out_in_the_queue_is_never_done(thread: ModuleThread, hang: Hang) -> None:
    done: list[int] = []
    first = asyncio.ensure_future(thread.call(hang, LONG))
    await until(hang.is_entered)
    with pytest.raises(ModuleBusy):
        await thread.call(lambda: done.append(1), 0.01)
    hang.released.set()
    await first
    await thread.call(lambda: done.append(2), LONG)
    assert done == [2]


async def test_work_whose_caller_went_away_is_never_done(thread: ModuleThread, hang: Hang) -> None:
    done: list[int] = []
    first = asyncio.ensure_future(thread.call(hang, LONG))
    await until(hang.is_entered)
    waiting = asyncio.ensure_future(thread.call(lambda: done.append(1), LONG))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    hang.released.set()
    await first
    await thread.call(lambda: done.append(2), LONG)
    assert done == [2]


async def test_a_hung_module_is_told_at_once_and_nothing_piles_up(
    thread: ModuleThread, hang: Hang, clock: Clock
) -> None:
    first = asyncio.ensure_future(thread.call(hang, LONG))
    await until(hang.is_entered)
    clock.now += 2.1
    for _ in range(20):
        with pytest.raises(ModuleStuck):
            await thread.call(lambda: None, LONG)
    hang.released.set()
    assert await first == "done at last"


async def test_a_hung_module_is_used_again_when_it_comes_back(thread: ModuleThread, hang: Hang, clock: Clock) -> None:
    with pytest.raises(ModuleBusy):
        await thread.call(hang, 0.01)
    await until(hang.is_entered)
    clock.now += 2.1
    with pytest.raises(ModuleStuck):
        await thread.call(lambda: None, LONG)
    hang.released.set()

    async def answers() -> bool:
        try:
            return await thread.call(lambda: True, LONG)
        except ModuleStuck:
            return False

    await until(answers)


async def test_one_in_a_hurry_does_not_make_the_module_look_dead_to_others(
    thread: ModuleThread, hang: Hang, clock: Clock
) -> None:
    with pytest.raises(ModuleBusy):
        await thread.call(hang, 0.01)
    await until(hang.is_entered)
    clock.now += 1.0  # long past that caller's deadline, and well within what a module may take
    other = asyncio.ensure_future(thread.call(lambda: "served", LONG))
    await asyncio.sleep(0)
    hang.released.set()
    assert await other == "served"


async def test_a_call_after_closing_is_given_up_in_time(thread: ModuleThread) -> None:
    thread.end()
    with pytest.raises(ModuleBusy):
        await thread.call(lambda: None, 0.05)


def test_an_event_loop_that_ended_does_not_hurt_the_thread(thread: ModuleThread, hang: Hang) -> None:
    async def give_up() -> None:
        with pytest.raises(ModuleBusy):
            await thread.call(hang, 0.01)
        await until(hang.is_entered)

    asyncio.run(give_up())
    hang.released.set()
    assert asyncio.run(thread.call(lambda: "alive", LONG)) == "alive"


async def test_a_module_that_cannot_be_loaded_is_named(thread: ModuleThread) -> None:
    with pytest.raises(ModuleMissing, match=r"/nowhere/module\.so cannot be loaded"):
        await thread.call(thread.module.library, LONG)


class FakeLibrary:
    def __init__(self) -> None:
        self.reinitialized = 0

    def reinitialize(self) -> None:
        self.reinitialized += 1


async def test_a_storm_of_failures_reinitializes_once_in_a_while(
    thread: ModuleThread, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = FakeLibrary()
    monkeypatch.setattr(thread.module, "library", lambda: library)
    assert await thread.call(thread.module.reinitialize, LONG)
    for _ in range(20):
        clock.now += 0.04
        assert not await thread.call(thread.module.reinitialize, LONG)
    assert (library.reinitialized, thread.module.generation) == (1, 1)
    clock.now += 0.3
    assert await thread.call(thread.module.reinitialize, LONG)
    assert (library.reinitialized, thread.module.generation) == (2, 2)
