"""Streams re-authorize: while one is under way, the evidence that its key works does not grow old, whatever flows.

Evidence comes from whatever uses the key. Where nothing does, its key store is asked: once for a key and interval,
however many streams there are. A key that is found to be taken away ends its streams (``revocation_effects.py``); an
outage ends them when the last evidence is too old. Besides, each stream's own lease is asked for again when it has run
out, though nothing comes by that would ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from ownkey_server.domain.clock import Clock, elapsed
from ownkey_server.domain.errors import KeyRevoked, OwnkeyError
from ownkey_server.domain.key_state import KeyEvidence, KeyState
from ownkey_server.domain.tenants import CustomerKey
from ownkey_server.service.directory import Directory
from ownkey_server.service.open_streams import OpenStream, OpenStreams
from ownkey_server.service.status_board import StatusBoard

_log = logging.getLogger(__name__)

MIB = 1024 * 1024
# A key that was asked after so lately is not asked again for what passed since.
JUST_NOW_SECONDS = 1.0
# Streams are looked at in this part of the interval, and at least once a second: the key is asked ahead by as much.
PARTS = 10


@dataclass(frozen=True, slots=True)
class StreamCheckOptions:
    """How streams are looked after.

    Attributes:
        seconds: How old the evidence about a stream's key may become.
        mib: After how much content of a stream its key is asked after besides.
        lease: For how many seconds a stream goes on by the last evidence, in an outage; a tenant's grace comes to that.
    """

    seconds: float = 10.0
    mib: int = 256
    lease: float = 60.0


class StreamChecks:
    """Looks after the streams of one process. Belongs to one event loop.

    Args:
        streams: Those that are under way.
        probe: Asks a key's store, and leaves what it shows on the board.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(
        self,
        streams: OpenStreams,
        directory: Directory,
        board: StatusBoard,
        probe: Callable[[CustomerKey], Awaitable[None]],
        clock: Clock,
        options: StreamCheckOptions,
        monotonic: Callable[[], float] = elapsed,
    ) -> None:
        self._streams = streams
        self._directory = directory
        self._board = board
        self._probe = probe
        self._clock = clock
        self._options = options
        self._monotonic = monotonic
        self._tick = min(1.0, options.seconds / PARTS)
        # When each key was last known to work, and last asked after.
        self._good: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._renewing: dict[OpenStream, asyncio.Task[None]] = {}

    @property
    def check_bytes(self) -> int:
        """After how many bytes of a stream its key is asked after."""
        return self._options.mib * MIB

    async def run(self) -> None:
        """Look after the streams until cancelled."""
        try:
            while True:
                try:
                    self.look()
                except Exception:  # noqa: BLE001 - logged whole; leases end by themselves
                    _log.exception("streams were not looked after")
                await asyncio.sleep(self._tick)
        finally:
            for task in (*self._asking.values(), *self._renewing.values()):
                task.cancel()

    def look(self) -> None:
        """Have keys asked after whose evidence grows old, and streams ask whose lease has run out."""
        keys: dict[str, CustomerKey] = {}
        for stream in self._streams:
            keys[stream.key.name] = stream.key
            if stream.lease.is_over and stream not in self._renewing:
                self._begin_renewal(stream)
        for known in (self._good, self._asked):
            for name in [one for one in known if one not in keys]:
                del known[name]
        for key in keys.values():
            if self._is_revoked(key) is None and self._is_due(key):
                self._ask(key)

    def goes_on(self, key: CustomerKey) -> bool:
        """In an outage: whether the last evidence that a key works is young enough for its streams to go on."""
        self._note(key)
        evidence = self._board.of(key, self._clock())
        if evidence is not None and evidence.revoked_at is not None:
            return False  # its holder may have taken it away: an outage does not give it back
        tenant = self._directory.last_known(key.tenant)
        grace = tenant.policy.outage_grace if tenant is not None else 0.0
        return self._monotonic() < self._good.get(key.name, float("-inf")) + self._options.lease + grace

    async def check(self, key: CustomerKey) -> None:
        """Have a key asked after, unless somebody just did.

        Raises:
            KeyRevoked: Its holder has taken it away.
        """
        if self._monotonic() - self._asked.get(key.name, float("-inf")) >= JUST_NOW_SECONDS:
            await asyncio.wait({self._ask(key)})
        revoked = self._is_revoked(key)
        if revoked is not None:
            raise KeyRevoked(key.primary.name, key.primary.reference, revoked.cause)

    def _is_due(self, key: CustomerKey) -> bool:
        self._note(key)
        asked = self._asked.get(key.name, float("-inf"))
        latest = max(self._good.get(key.name, float("-inf")), asked)
        return self._monotonic() - latest >= self._options.seconds - self._tick

    def _note(self, key: CustomerKey) -> None:
        """Take note of what uses of the key have shown."""
        now = self._clock()
        evidence = self._board.of(key, now)
        if evidence is not None and evidence.state.usable:
            at = self._monotonic() - _age(evidence, now)
            self._good[key.name] = max(at, self._good.get(key.name, float("-inf")))

    def _is_revoked(self, key: CustomerKey) -> KeyEvidence | None:
        evidence = self._board.of(key, self._clock())
        if evidence is None or evidence.state is not KeyState.REVOKED:
            return None
        self._streams.key_taken(key.name, key.primary.name, evidence.cause)
        return evidence

    def _ask(self, key: CustomerKey) -> asyncio.Task[None]:
        task = self._asking.get(key.name)
        if task is None:
            self._asked[key.name] = self._monotonic()
            task = asyncio.get_running_loop().create_task(self._ask_once(key), name=f"stream-check {key.name}")
            self._asking[key.name] = task
            task.add_done_callback(lambda _: self._asking.pop(key.name, None))
        return task

    async def _ask_once(self, key: CustomerKey) -> None:
        try:
            await self._probe(key)
        except OwnkeyError as error:
            _log.warning("key %s was not asked after for its streams: %s", key.name, error)
        except Exception:  # noqa: BLE001 - logged whole; without evidence the streams end
            _log.exception("key %s was not asked after for its streams", key.name)
        self._is_revoked(key)

    def _begin_renewal(self, stream: OpenStream) -> None:
        task = asyncio.get_running_loop().create_task(_renew(stream), name="stream-lease")
        self._renewing[stream] = task
        task.add_done_callback(lambda _: self._renewing.pop(stream, None))


async def _renew(stream: OpenStream) -> None:
    try:
        await stream.lease.require()
    except OwnkeyError as error:
        stream.end(error)


def _age(evidence: KeyEvidence, now: datetime) -> float:
    return max(0.0, (now - evidence.observed_at).total_seconds())
