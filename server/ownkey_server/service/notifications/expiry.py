"""Key material that ends on a day: its tenant is told 30, 7 and 1 days before, once each."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import DatabaseUnavailable, KeyStoreError
from ownkey_server.domain.notifications import Notice, NoticeKind, expiry_mark
from ownkey_server.domain.tenants import Replica, tenant_of
from ownkey_server.keystores.base import KeyDescription
from ownkey_server.storage import outbox

Place: TypeAlias = tuple[str, Replica]
"""The name of a key, and where it is."""

FIRST_SECONDS = 30.0
INTERVAL_SECONDS = 6 * 3600.0
RETRY_SECONDS = 60.0
_PAGE = 100

_log = logging.getLogger(__name__)


class ExpiryWatch:
    """Looks at every key whose material may end, a few times a day, one instance for all.

    Args:
        places: The next so many places after a key's name, of the key stores that are asked.
        claim: Which of these keys are for this instance to look at.
        describe: What a key store says of a key, asked in a tenant's name, behind all that somebody waits for.
        tell: Puts a notice.
    """

    def __init__(
        self,
        places: Callable[[str, int], Awaitable[Sequence[Place]]],
        claim: Callable[[Sequence[str]], Awaitable[Collection[str]]],
        describe: Callable[[str, Replica], Awaitable[KeyDescription]],
        tell: Callable[[Notice], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._places = places
        self._claim = claim
        self._describe = describe
        self._tell = tell
        self._clock = clock

    async def run(self) -> None:
        """Look, again and again, until cancelled."""
        pause = FIRST_SECONDS
        while True:
            await asyncio.sleep(pause)
            try:
                await self.look()
                pause = INTERVAL_SECONDS
            except DatabaseUnavailable as error:
                _log.warning("it is not looked after which key material ends soon: %s", error.cause)
                pause = RETRY_SECONDS

    async def look(self) -> None:
        """Look at every key once.

        Raises:
            DatabaseUnavailable: It does not answer.
        """
        after = ""
        while places := await self._places(after, _PAGE):
            mine = await self._claim([key for key, _ in places])
            for key, place in places:
                if key in mine:
                    await self._look_at(key, place)
            after = places[-1][0]

    async def _look_at(self, key: str, place: Replica) -> None:
        try:
            found = await self._describe(tenant_of(key), place)
        except KeyStoreError as error:
            # Whether it works is the business of probes.
            _log.debug("it is not known when the material of %s in %s ends: %s", key, place.name, error.cause)
            return
        notice = expiring(key, place, found.expires_at, self._clock())
        if notice is not None:
            await self._tell(notice)


def expiring(key: str, place: Replica, expires: datetime | None, now: datetime) -> Notice | None:
    """What is to be told of key material that ends at a time; None when nothing is, yet."""
    days = None if expires is None else expiry_mark(expires, now)
    if expires is None or days is None:
        return None
    stamp = expires.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return outbox.new_notice(
        tenant_of(key),
        NoticeKind.KEY_MATERIAL_EXPIRING,
        now,
        key=key,
        replica=place.name,
        cause=f"its imported key material ends on {stamp}: its holder must import it anew before",
        data={"expire_time": stamp, "days_left": math.ceil((expires - now) / timedelta(days=1))},
        # Material that is imported anew has another end, of which is told again.
        once=f"expiring/{key}/{place.name}/{stamp}/{days}",
    )
