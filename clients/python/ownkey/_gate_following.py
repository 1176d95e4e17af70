"""How a gate beside the caller follows the service, in one event loop, and what its answers are for the caller."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

import grpc

from ownkey import _exchange, _gate_messages, errors
from ownkey._exchange import CHANNEL_OPTIONS
from ownkey.gate.local import DIRECTIONS, LocalGate, Seen
from ownkey.gate.rules import ALLOW, STRICTNESS
from ownkey.gate.view import EMERGENCY, Answer, Call, UnknownGroup, View
from ownkey.models import ASSET_CLASSES, CallAuthorization
from ownkey.v1 import call_watch_pb2, key_service_pb2_grpc

WhenStale: TypeAlias = Literal["allow", "allow_no_recording", "refuse"]

DEFAULT_STALENESS: Final = 15.0
OUTSIDE_LINE_PREFIXES: Final = ("0", "8", "9")
# When a caller may try again of whose tenant nothing is known.
RETRY_SECONDS: Final = 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
# Another try would meet the same; the service may be set right meanwhile.
REFUSED_PAUSE: Final = 5.0
_REFUSED = (errors.InvalidRequest, errors.NotFound, errors.NotAuthenticated, errors.PermissionDenied)

_log = logging.getLogger(__name__)


class Followed:
    """What is known of a tenant. ``seen`` is replaced as a whole, so that it is read without a lock.

    Attributes:
        known: Set when there is a first view, or it is known that there can be none.
        error: Why nothing comes, while nothing does.
        used: When it was last asked for.
    """

    __slots__ = ("error", "known", "seen", "told", "used")

    def __init__(self, now: float) -> None:
        self.seen: Seen | None = None
        self.known = threading.Event()
        # The same for whoever waits in the event loop that follows.
        self.told = asyncio.Event()
        self.error: errors.OwnkeyError | None = None
        self.used = now

    def tell(self) -> None:
        """Have whoever waits go on. In the event loop."""
        self.known.set()
        self.told.set()


def checked(
    address: str,
    credentials: grpc.ChannelCredentials | None,
    staleness: float,
    when_stale: str,
    countries: tuple[str, ...],
    outside_line_prefixes: tuple[str, ...],
) -> LocalGate:
    """How a gate with these arguments decides.

    Raises:
        InvalidRequest: An argument is not as it must be.
    """
    if credentials is None:
        _exchange.require_local(address)
    _exchange.require_timeout(staleness)
    if when_stale not in STRICTNESS:
        raise errors.InvalidRequest(f"when_stale is one of {', '.join(STRICTNESS)}, not {when_stale!r}")
    return LocalGate(staleness, when_stale, countries, outside_line_prefixes)


def without_a_view(gate: LocalGate, call: Call, seen: Seen | None) -> CallAuthorization | None:
    """The answer to a call that needs no view: to an emergency service, or one that stores nothing; None for others.

    Raises:
        InvalidRequest: A direction or class does not exist, and this is no emergency call.
    """
    if gate.is_emergency(call.callee, seen):
        return told(EMERGENCY, 0.0)
    if call.direction not in DIRECTIONS:
        raise errors.InvalidRequest(
            f"there is no call direction {call.direction!r}; there are: {', '.join(DIRECTIONS[1:])}"
        )
    for name in call.stores:
        if name not in ASSET_CLASSES:
            raise errors.InvalidRequest(f"there is no asset class {name!r}; there are: {', '.join(ASSET_CLASSES)}")
    if not call.stores:
        return told(Answer(ALLOW, "nothing_stored", "nothing of the call will be stored"), 0.0)
    return None


def with_what_is_known(gate: LocalGate, tenant: str, call: Call, followed: Followed, now: float) -> CallAuthorization:
    """The answer to any other call.

    Raises:
        InvalidRequest: The call names a group that the tenant does not have.
        NotFound: There is no such tenant.
    """
    seen = followed.seen
    if seen is None:
        if isinstance(followed.error, errors.NotFound):
            raise followed.error
        return told(gate.stale(f"nothing is known of it yet: {followed.error or 'no answer'}"), RETRY_SECONDS)
    try:
        return told(gate.by_view(call, seen, now), seen[0].retry_after)
    except UnknownGroup as error:
        raise errors.InvalidRequest(f"tenant {tenant!r}: {error}") from None


def told(answer: Answer, retry_after: float) -> CallAuthorization:
    """An answer as the caller gets it."""
    return CallAuthorization(
        answer.decision,
        answer.reason,
        answer.explanation,
        sip_status=answer.sip_status,
        key=answer.key,
        evidence_age=None if answer.age is None else timedelta(seconds=answer.age),
        emergency=answer.emergency,
        rule=answer.rule,
        retry_after=timedelta(seconds=retry_after) if answer.outage else None,
    )


def room_for_one(tenants: dict[str, Followed], most: int) -> str | None:
    """The tenant that gives way to another, taken out; None while there is room."""
    if len(tenants) < most:
        return None
    longest = min(tenants, key=lambda one: tenants[one].used)
    del tenants[longest]
    return longest


class Following:
    """Follows the service for many tenants. All of it in one event loop.

    Args:
        staleness: Seconds without a word after which a stream is begun anew.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None,
        staleness: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._address = address
        self._credentials = credentials
        self._staleness = staleness
        self._monotonic = monotonic
        # Its own: the program may want the same numbers again from the one that all share.
        self._chance = random.Random()  # noqa: S311 - no secret
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._channel: grpc.aio.Channel | None = None

    def begin(self, tenant: str, followed: Followed) -> None:
        """Follow a tenant, and tell what comes."""
        self.forget(tenant)
        keeping = self._keep(tenant, followed)
        self._tasks[tenant] = asyncio.get_running_loop().create_task(keeping, name=f"call gate of {tenant:.64}")

    def forget(self, tenant: str) -> None:
        """Follow it no more."""
        task = self._tasks.pop(tenant, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Follow nobody any more."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()

    async def _keep(self, tenant: str, followed: Followed) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                await self._listen(tenant, followed)
                pause = FIRST_PAUSE
            except errors.OwnkeyError as error:
                followed.error = error
                refused = isinstance(error, _REFUSED)
                if refused:
                    # It is known now that nothing can be: whoever waits for the first word need not.
                    followed.tell()
                pause = REFUSED_PAUSE if refused else min(pause * 2, LONGEST_PAUSE)
            except Exception:  # noqa: BLE001 - a message that cannot be used: what was known grows stale
                _log.exception("the call gate of tenant %.64s cannot be followed", tenant)
                pause = LONGEST_PAUSE
            await asyncio.sleep(pause * (0.5 + self._chance.random() / 2))

    async def _listen(self, tenant: str, followed: Followed) -> None:
        """Take the service's word until it ends.

        Raises:
            OwnkeyError: It ended with this.
        """
        request = call_watch_pb2.WatchCallGateRequest(tenant=tenant)
        messages = key_service_pb2_grpc.KeyServiceStub(self._connected()).WatchCallGate(request)
        view: View | None = None
        try:
            while True:
                async with asyncio.timeout(self._staleness):
                    message = await messages.read()
                if message is grpc.aio.EOF:
                    return
                if message.HasField("view"):
                    view = _gate_messages.view(message.view)
                if view is not None:
                    followed.seen = (view, _gate_messages.keys(message.keys), self._monotonic())
                    followed.error = None
                    followed.tell()
        except TimeoutError:
            raise errors.ServiceUnavailable(f"no word came in {self._staleness:g} s") from None
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from None
        finally:
            messages.cancel()

    def _connected(self) -> Any:
        if self._channel is None:
            options = (*CHANNEL_OPTIONS, ("grpc.max_reconnect_backoff_ms", 1000))
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._address, options=options)
            else:
                self._channel = grpc.aio.secure_channel(self._address, self._credentials, options=options)
        return self._channel
