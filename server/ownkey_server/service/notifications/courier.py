"""The courier: takes what waits in the outbox to its receivers, again and again until it is taken or too old.

One instance at a time delivers by a channel, by a lease in the database that another takes over when it ends. Of each
key one notice at a time is under way by a channel, so that none overtakes the one before. Channels that failed or were
slow wait in a lane of their own, behind nobody but their like. Nothing is asked of the database while nothing waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import TypeVar

from sqlalchemy.engine import Connection

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import DatabaseUnavailable, OwnkeyError
from ownkey_server.domain.notifications import (
    Channel,
    ChannelKind,
    Delivery,
    DeliveryState,
    Notice,
    RetrySchedule,
)
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.service.notifications.sealing import Sealer
from ownkey_server.service.notifications.sending import DeliveryFailed, Sender
from ownkey_server.storage import channels, outbox
from ownkey_server.storage.database import Database
from ownkey_server.storage.outbox import Errand

T = TypeVar("T")

_log = logging.getLogger(__name__)

PER_CHANNEL = 4
"""How many keys' notices are under way at once by one channel."""
SLOW_SECONDS = 2.0
RETRY_SECONDS = 1.0
HOLD_SECONDS = 30.0
_PRUNE = timedelta(hours=1)
_STEP = timedelta(milliseconds=50)


@dataclass(frozen=True, slots=True)
class CourierOptions:
    """How notices are delivered.

    Attributes:
        schedule: When again, after a failure.
        lease: For how long one instance alone delivers by a channel, from its last round.
        retention: How long notices are kept that nothing is to be done about.
        at_once: By how many channels at once, in each of the two lanes.
    """

    schedule: RetrySchedule = field(default_factory=RetrySchedule)
    lease: timedelta = timedelta(seconds=30)
    retention: timedelta = timedelta(days=30)
    at_once: int = 64


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt went: whether it was taken, what was said, and what the receiver asked for if not."""

    taken: bool
    told: str
    retry_after: timedelta = timedelta()


class Courier:
    """Delivers. Belongs to one event loop.

    Args:
        executor: Where it waits for the database.
        senders: What brings notices, by the kind of channel.
        owner: Name of this process, by which it holds leases; unlike any other's.
        luck: A number from 0 to 1.
    """

    def __init__(
        self,
        database: Database,
        executor: Executor,
        senders: Mapping[ChannelKind, Sender],
        sealer: Sealer,
        clock: Clock,
        options: CourierOptions,
        owner: str,
        *,
        luck: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._executor = executor
        self._senders = senders
        self._sealer = sealer
        self._clock = clock
        self._options = options
        self._owner = owner
        self._luck = luck
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._slow: set[str] = set()
        self._held: dict[str, datetime] = {}
        self._lanes = [asyncio.Semaphore(options.at_once), asyncio.Semaphore(options.at_once)]
        self._seen = -1
        self._pruned: datetime | None = None

    @property
    def busy(self) -> Mapping[str, asyncio.Task[None]]:
        """What is under way, by the channel."""
        return dict(self._busy)

    def changed(self, notices: int) -> None:
        """Hear from the feed how often notices were put; when that has moved, there may be something to do."""
        if notices != self._seen:
            self._seen = notices
            self._wake.set()

    async def run(self) -> None:
        """Deliver until it is cancelled."""
        while True:
            self._wake.clear()
            try:
                due = await self.round()
                seconds = None if due is None else max((due - self._clock()).total_seconds(), _STEP.total_seconds())
            except DatabaseUnavailable as error:
                _log.warning("notices wait: %s", error.cause)
                seconds = RETRY_SECONDS
            except Exception:  # noqa: BLE001 - logged whole
                _log.exception("notices wait")
                seconds = HOLD_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    async def close(self) -> None:
        """Let go of every channel; what was under way is tried again by whoever is next."""
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        held = list(self._busy)
        await asyncio.gather(*tasks, return_exceptions=True)

        def let_go(connection: Connection) -> None:
            for channel in held:
                outbox.release(connection, channel, self._owner)
            outbox.look_again(connection)

        if held:
            with contextlib.suppress(DatabaseUnavailable):  # then their leases run out
                await self._writing(let_go)

    async def round(self) -> datetime | None:
        """Begin whatever can be begun; gives when to look again, None for when there is news.

        Raises:
            DatabaseUnavailable: It does not answer.
        """
        now = self._clock()
        if self._pruned is None or now - self._pruned >= _PRUNE:
            pruned = await self._writing(lambda connection: outbox.prune(connection, now - self._options.retention))
            # As many as one transaction removes: there are more, and each round removes as many until there are none.
            self._pruned = None if pruned == outbox.PRUNED else now
            if self._pruned is None:
                self._wake.set()
        again: list[datetime] = []
        for one in await self._reading(outbox.waiting):
            held = self._held.get(one.channel, now)
            if one.channel in self._busy:
                continue  # its end looks again
            if max(one.due, held) > now:
                again.append(max(one.due, held))
            elif one.lease_owner not in ("", self._owner) and one.lease_until > now:
                # Whoever has it may have died: then it is for us, or for one of the others, at about that time.
                again.append(one.lease_until + timedelta(seconds=self._luck()))
            else:
                slow = one.failing or one.channel in self._slow
                task = asyncio.create_task(self._serve(one.channel, slow=slow), name=f"notify-{one.channel}")
                self._busy[one.channel] = task
        return min(again, default=None)

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        while self._busy:
            await asyncio.wait(list(self._busy.values()))

    async def attempt(self, channel: Channel, notice: Notice, *, slow: bool = False) -> Attempt:
        """Bring a notice to a receiver once, whatever the outbox says of it."""
        try:
            secrets = await self._secrets(channel)
        except OwnkeyError as error:
            _log.warning("channel %s cannot be delivered by: %s", channel.id, error)
            return Attempt(taken=False, told="the channel's secret cannot be opened: the provider's key does not serve")
        try:
            told = await self._senders[channel.kind].send(channel, secrets, notice, slow=slow)
        except DeliveryFailed as error:
            return Attempt(taken=False, told=str(error), retry_after=error.retry_after)
        except Exception:  # noqa: BLE001 - logged whole; one receiver must not end the courier
            _log.exception("notice %s could not be sent", notice.id)
            return Attempt(taken=False, told="it could not be sent, by a defect of ours: the server's log has it")
        return Attempt(taken=True, told=told)

    async def note(self, notice: Notice, delivery: Delivery) -> None:
        """Keep how an attempt went that was made beside the outbox.

        Raises:
            DatabaseUnavailable: It does not answer.
        """
        await self._writing(lambda connection: outbox.add_settled(connection, notice, delivery))

    async def _serve(self, channel: str, *, slow: bool) -> None:
        """Deliver what is due by one channel, until nothing is."""
        try:
            more = True
            while more:
                async with self._lanes[slow]:
                    more, slow = await self._serve_once(channel, slow=slow)
            await self._writing(lambda connection: outbox.release(connection, channel, self._owner))
        except DatabaseUnavailable as error:
            _log.warning("notices of channel %s wait: %s", channel, error.cause)
            self._held[channel] = self._clock() + timedelta(seconds=RETRY_SECONDS)
        except Exception:  # noqa: BLE001 - logged whole
            _log.exception("notices of channel %s wait", channel)
            self._held[channel] = self._clock() + timedelta(seconds=HOLD_SECONDS)
        else:
            self._held.pop(channel, None)
        finally:
            self._busy.pop(channel, None)
            self._wake.set()

    async def _serve_once(self, channel: str, *, slow: bool) -> tuple[bool, bool]:
        """One attempt for each of a few keys; gives whether to go on, and whether the channel is slow."""
        # A receiver that fails is asked by one at a time.
        limit = 1 if slow else PER_CHANNEL
        took = await self._writing(lambda connection: self._take(connection, channel, limit))
        if took is None:
            return False, slow
        receiver, errands = took
        began = monotonic()
        done = await asyncio.gather(*(self._deliver(receiver, errand, slow=slow) for errand in errands))
        slow = not all(done) or monotonic() - began > SLOW_SECONDS
        (self._slow.add if slow else self._slow.discard)(channel)
        return True, slow

    def _take(self, connection: Connection, channel: str, limit: int) -> tuple[Channel, list[Errand]] | None:
        now = self._clock()
        if not outbox.claim(connection, channel, self._owner, now, now + self._options.lease):
            return None
        receiver = channels.by_id(connection, channel)
        found = outbox.errands(connection, channel, now, limit)
        return (receiver, found) if receiver is not None and found else None

    async def _deliver(self, channel: Channel, errand: Errand, *, slow: bool) -> bool:
        attempt = await self.attempt(channel, errand.notice, slow=slow)
        settled = self._settled(errand.delivery, attempt)
        await self._writing(lambda connection: outbox.settle(connection, settled))
        if settled.state is DeliveryState.DEAD:
            _log.error(
                "notice %s (%s of tenant %r) is given up after %d attempts by channel %s: %s",
                errand.notice.id,
                errand.notice.kind.value,
                channel.tenant,
                settled.attempts,
                channel.id,
                settled.last_error,
            )
        return attempt.taken

    def _settled(self, delivery: Delivery, attempt: Attempt) -> Delivery:
        now, schedule = self._clock(), self._options.schedule
        attempts = delivery.attempts + 1
        if attempt.taken:
            return replace(
                delivery, state=DeliveryState.DELIVERED, attempts=attempts, next_time=now, end_time=now, last_error=""
            )
        if now - delivery.first_time >= schedule.max_age:
            return replace(
                delivery,
                state=DeliveryState.DEAD,
                attempts=attempts,
                next_time=now,
                end_time=now,
                last_error=attempt.told,
            )
        wait = schedule.wait(attempts, self._luck(), at_least=attempt.retry_after)
        return replace(delivery, attempts=attempts, next_time=now + wait, last_error=attempt.told)

    async def _secrets(self, channel: Channel) -> list[SecretBytes]:
        sealed = [channel.sealed.secret]
        if channel.former_until is not None and channel.former_until > self._clock():
            sealed.append(channel.sealed.former)
        return [await self._sealer.open(channel.id, channel.tenant, one) for one in sealed if one]

    async def _reading(self, question: Callable[[Connection], T]) -> T:
        def ask() -> T:
            with self._database.reading() as connection:
                return question(connection)

        return await asyncio.get_running_loop().run_in_executor(self._executor, ask)

    async def _writing(self, work: Callable[[Connection], T]) -> T:
        def do() -> T:
            with self._database.writing() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._executor, do)
