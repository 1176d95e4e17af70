"""Who has key material that ends is told in time, once for each of three days, by one of all instances."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from ownkey_server.domain.errors import KeyUnreachable
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.notifications import Notice, expiry_mark
from ownkey_server.domain.tenants import Replica
from ownkey_server.keystores.base import KeyDescription
from ownkey_server.service.notifications.expiry import ExpiryWatch, expiring

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
KEY, PLACE = "tenants/acme/keys/main", Replica("aws", "arn:1")


@pytest.mark.parametrize(
    ("left", "mark"),
    [
        (timedelta(days=30, seconds=1), None),
        (timedelta(days=30), 30),
        (timedelta(days=7, seconds=1), 30),
        (timedelta(days=7), 7),
        (timedelta(days=1, seconds=1), 7),
        (timedelta(days=1), 1),
        (timedelta(seconds=1), 1),
        (timedelta(0), None),
        (timedelta(days=-1), None),
    ],
)
def test_the_last_of_the_three_days_that_has_come_counts(left: timedelta, mark: int | None) -> None:
    assert expiry_mark(NOW + left, NOW) == mark


def test_what_is_told_says_when_and_what_to_do() -> None:
    notice = expiring(KEY, PLACE, NOW + timedelta(days=6, hours=1), NOW)
    assert notice is not None
    assert (notice.tenant, notice.key, notice.replica) == ("acme", KEY, PLACE.name)
    assert notice.data == {"expire_time": "2026-12-04T13:00:00Z", "days_left": 7}
    assert "import it anew" in notice.cause
    later = expiring(KEY, PLACE, NOW + timedelta(days=6, hours=1), NOW + timedelta(days=5, hours=2))
    assert later is not None
    anew = expiring(KEY, PLACE, NOW + timedelta(days=6, hours=2), NOW)
    assert anew is not None
    again = expiring(KEY, PLACE, NOW + timedelta(days=6, hours=1), NOW + timedelta(hours=3))
    assert again is not None
    assert again.once == notice.once
    assert len({notice.once, later.once, anew.once}) == 3


async def test_every_key_that_is_this_instance_s_is_looked_at_whatever_becomes_of_another() -> None:
    keys = [f"tenants/acme/keys/{number:03}" for number in range(250)]
    told: list[Notice] = []

    async def places(after: str, limit: int) -> Sequence[tuple[str, Replica]]:
        return [(one, Replica("aws", one)) for one in keys if one > after][:limit]

    async def claim(names: Sequence[str]) -> Collection[str]:
        return [one for one in names if not one.endswith("9")]

    async def describe(tenant: str, place: Replica) -> KeyDescription:
        if place.reference.endswith("8"):
            raise KeyUnreachable(place.name, place.reference, "a timeout")
        return KeyDescription(KeyState.AVAILABLE, expires_at=NOW + timedelta(days=3))

    async def tell(notice: Notice) -> None:
        told.append(notice)

    await ExpiryWatch(places, claim, describe, tell, lambda: NOW).look()
    assert [one.key for one in told] == [one for one in keys if one[-1] not in "89"]
