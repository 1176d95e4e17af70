from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from ownkey_server.service.strangers import Budget, Strangers, address_of

BUDGET = Budget(per_second=200, burst=3, waiting=50)
ONE = "ipv4:192.0.2.1:1000"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Door:
    """Strangers that come, and in which order they go."""

    def __init__(self, budget: Budget = BUDGET) -> None:
        self.clock = Clock()
        self.strangers = Strangers(budget, self.clock)
        self.went: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def comes(self, name: str, peer: str = ONE) -> None:
        self.tasks[name] = asyncio.create_task(self._run(name, peer))
        await asyncio.sleep(0)

    async def _run(self, name: str, peer: str) -> None:
        await self.strangers.turn(peer)
        self.went.append(name)

    async def pass_seconds(self, seconds: float, condition: Callable[[], bool]) -> None:
        """Time goes by, in ticks, until the condition holds."""
        self.clock.now += seconds
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def door() -> Door:
    return Door()


async def used_up(door: Door) -> None:
    for number in range(3):
        await door.comes(f"first-{number}")
    assert len(door.went) == 3
    door.went.clear()


async def test_within_the_budget_nobody_waits(door: Door) -> None:
    await used_up(door)
    assert door.strangers.waiting == 0
    door.clock.now += 0.0051
    await door.comes("next")
    assert door.went == ["next"]


async def test_beyond_it_everybody_goes_later_and_nobody_is_refused(door: Door) -> None:
    await used_up(door)
    for number in range(20):
        await door.comes(str(number))
    assert (door.went, door.strangers.waiting) == ([], 20)
    while door.strangers.waiting:
        before = len(door.went)
        left = door.strangers.waiting
        await door.pass_seconds(0.0101, lambda left=left: door.strangers.waiting < left)
        await asyncio.sleep(0)
        assert 1 <= len(door.went) - before <= 2
    await asyncio.gather(*door.tasks.values())
    assert door.went == [str(number) for number in range(20)]


async def test_a_timer_that_comes_late_lets_no_crowd_go_at_once(door: Door) -> None:
    await used_up(door)
    for number in range(20):
        await door.comes(str(number))
    await door.pass_seconds(60, lambda: door.strangers.waiting < 20)
    assert door.strangers.waiting == 18


async def test_addresses_take_turns_and_then_connections_of_one_address(door: Door) -> None:
    await used_up(door)
    for number in range(5):
        await door.comes(f"flood-{number}", f"ipv4:192.0.2.1:{1000 + number % 2}")
    await door.comes("behind the same proxy", "ipv4:192.0.2.1:2000")
    await door.comes("elsewhere", "ipv4:192.0.2.2:1000")
    while door.strangers.waiting:
        left = door.strangers.waiting
        await door.pass_seconds(0.0101, lambda left=left: door.strangers.waiting < left)
    await asyncio.gather(*door.tasks.values())
    assert door.went[:5] == ["flood-0", "elsewhere", "flood-1", "behind the same proxy", "flood-2"]


async def test_who_leaves_costs_nobody_a_turn(door: Door) -> None:
    await used_up(door)
    for name in "abcd":
        await door.comes(name)
    door.tasks["a"].cancel()
    door.tasks["b"].cancel()
    await asyncio.sleep(0)
    await door.pass_seconds(0.0101, lambda: door.went == ["c", "d"])
    assert door.strangers.waiting == 0


async def test_memory_has_an_end_and_still_nobody_is_refused() -> None:
    door = Door(replace(BUDGET, waiting=5))
    await used_up(door)
    for number in range(8):
        await door.comes(str(number))
    assert door.strangers.waiting == 5
    assert door.went == ["5", "6", "7"]


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:5678", "192.0.2.1"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:5678", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:9::1%5D:5678", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5678", "fe80::/64"),
        ("unix:", "unix"),
        ("unix:/run/client.sock", "unix"),
        ("", ""),
        ("ipv6:[nonsense]:1", "nonsense"),
    ],
)
def test_an_address_is_told_without_its_port(peer: str, address: str) -> None:
    assert address_of(peer) == address
