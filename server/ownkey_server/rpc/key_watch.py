"""WatchKeyStatus: messages of a watch, each made once for all who are told it."""

from __future__ import annotations

import random
from collections.abc import Callable

from ownkey.v1 import key_status_pb2
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.domain.key_history import KeyTransition
from ownkey_server.rpc import convert
from ownkey_server.rpc.calls import Call
from ownkey_server.rpc.dispatch import Watch
from ownkey_server.service.key_watch import Heartbeat, KeyWatches, Snapshot, Told

# The heartbeats of thousands come within this part of the time between two, and not in one moment.
HEARTBEAT_SPREAD = 0.25
TOKEN_PREFIX = "s"  # noqa: S105 - of a resume token, which is no secret


class WatchServicer:
    """Each method takes a request that was let in (``dispatch.py``), and writes until nobody listens any more.

    Args:
        watches: Who tells.
        heartbeat: Seconds between two messages at most.
        chance: A number from 0 to 1, another each time.
    """

    def __init__(self, watches: KeyWatches, heartbeat: float, chance: Callable[[], float] = random.random) -> None:
        self._watches = watches
        self._heartbeat = heartbeat
        self._chance = chance

    async def WatchKeyStatus(self, request: key_status_pb2.WatchKeyStatusRequest, watch: Watch, _call: Call) -> None:
        """Tell the present states, and then every change."""
        with self._watches.watching(request.tenant, request.key, _sequence(request.resume_token)) as watcher:
            for told in await watcher.beginning():
                await watch.write(_raw(told))
            while not watcher.ended:
                # A little sooner than it must be, each as chance has it: all have just heard of the same change.
                next_told = await watcher.next(self._heartbeat * (1 - HEARTBEAT_SPREAD * self._chance()))
                if next_told is None:
                    return
                if isinstance(next_told.what, Heartbeat):
                    # While nothing happens is the time to look whether the caller may still hear of what does.
                    await watch.still_may()
                await watch.write(_raw(next_told))


def change_message(change: KeyTransition) -> key_status_pb2.KeyStateChange:
    """A change of state as the contract has it."""
    return key_status_pb2.KeyStateChange(
        sequence=change.sequence,
        key=change.key,
        replica=change.replica,
        before=convert.key_state(change.before),
        state=convert.key_state(change.state),
        cause=change.cause,
        evidence=convert.evidence_kind(change.kind),
        time=convert.timestamp(change.time),
    )


def _raw(told: Told) -> bytes:
    if not told.raw:
        told.raw = _message(told).SerializeToString()
    return told.raw


def _message(told: Told) -> key_status_pb2.WatchKeyStatusResponse:
    message = key_status_pb2.WatchKeyStatusResponse(resume_token=f"{TOKEN_PREFIX}{told.sequence}")
    match told.what:
        case Snapshot(keys, missed):
            message.snapshot.keys.extend(convert.key_report(one) for one in keys)
            message.snapshot.changes_missed = missed
        case Heartbeat(time):
            message.heartbeat.time.CopyFrom(convert.timestamp(time))
        case KeyTransition():
            message.change.CopyFrom(change_message(told.what))
        case report:
            message.status.CopyFrom(convert.key_report(report))
    if not message.WhichOneof("event"):
        message.snapshot.SetInParent()
    return message


def _sequence(token: str) -> int | None:
    """Where a watch goes on; None at the present.

    Raises:
        InvalidRequest: It is no token of ours.
    """
    if not token:
        return None
    digits = token.removeprefix(TOKEN_PREFIX)
    if not token.startswith(TOKEN_PREFIX) or not digits.isdecimal() or len(digits) > 18 or not digits.isascii():
        raise InvalidRequest("resume_token", "is no resume token: give back the last message's as it came, or none")
    return int(digits)
