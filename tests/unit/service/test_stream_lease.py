"""A stream's permission to go on ends by both clocks: a system's time that is set lengthens none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.service.media import StreamLease

START = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Clocks:
    """Both clocks of a machine, and how often the permission was asked for."""

    def __init__(self) -> None:
        self.wall, self.seconds, self.asked = START, 0.0, 0

    def lease(self) -> StreamLease:
        return StreamLease(self.wall + MINUTE, self.ask, lambda: self.wall, lambda: self.seconds)

    async def ask(self) -> Any:
        self.asked += 1
        return SimpleNamespace(plaintext=SecretBytes(bytes(32)), lease_expires_at=self.wall + MINUTE)


async def test_a_clock_that_is_set_back_lengthens_no_lease() -> None:
    clocks = Clocks()
    lease = clocks.lease()
    clocks.wall -= timedelta(hours=1)
    clocks.seconds = 59.0
    await lease.require()
    assert clocks.asked == 0
    for minute in range(1, 10):
        clocks.seconds = 60.0 * minute
        await lease.require()
        assert clocks.asked == minute


async def test_a_clock_that_is_set_forward_ends_it_at_once() -> None:
    clocks = Clocks()
    lease = clocks.lease()
    clocks.wall += timedelta(hours=1)
    await lease.require()
    await lease.require()
    assert clocks.asked == 1
