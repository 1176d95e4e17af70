from __future__ import annotations

import asyncio

import pytest

from ownkey_server.domain.tenants import CustomerKey, Replica
from ownkey_server.service.inquiries import Inquiries

PLACE, OTHER = Replica("one", "acme-main"), Replica("two", "acme-main")
KEY = CustomerKey("tenants/acme/keys/main", (PLACE, OTHER))


class Probe:
    """A probe that ends when a test lets it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.may_end = asyncio.Event()

    async def __call__(self, key: CustomerKey, place: Replica) -> None:
        self.asked.append(place.name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.may_end.wait()
        self.at_once -= 1


async def test_denials_at_once_cost_one_question_for_each_place() -> None:
    probe = Probe()
    inquiries = Inquiries(probe, pause=0.01)
    for _ in range(100):
        inquiries.begin(KEY, PLACE)
        inquiries.begin(KEY, OTHER)
    await asyncio.sleep(0)
    assert sorted(probe.asked) == ["one", "two"]
    await inquiries.close()


async def test_a_denial_during_a_question_is_followed_by_one_more_after_the_pause() -> None:
    probe = Probe()
    inquiries = Inquiries(probe, pause=0.05)
    began = asyncio.get_running_loop().time()
    inquiries.begin(KEY, PLACE)
    await asyncio.sleep(0)
    for _ in range(100):
        inquiries.begin(KEY, PLACE)
    probe.may_end.set()
    while len(probe.asked) < 2:
        await asyncio.sleep(0.001)
    assert asyncio.get_running_loop().time() - began >= 0.05
    await asyncio.sleep(0)
    assert (probe.asked, probe.most_at_once) == (["one", "one"], 1)
    await inquiries.close()


async def test_who_was_denied_waits_for_the_question_and_no_longer_than_it_has_time() -> None:
    probe = Probe()
    inquiries = Inquiries(probe)
    inquiries.begin(KEY, PLACE)
    await inquiries.settled(KEY, 0.01)
    assert probe.at_once == 1
    probe.may_end.set()
    await inquiries.settled(KEY, 20)
    assert probe.at_once == 0
    # The next one waits for its second, and nobody for that.
    inquiries.begin(KEY, PLACE)
    await inquiries.settled(KEY, 20)
    assert probe.asked == ["one"]
    await inquiries.close()


async def test_a_defect_of_a_question_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def probe(_key: CustomerKey, _place: Replica) -> None:
        raise ZeroDivisionError

    inquiries = Inquiries(probe, pause=0)
    for _ in range(2):
        inquiries.begin(KEY, PLACE)
        await inquiries.settled(KEY, 20)
    assert len(caplog.records) == 2
