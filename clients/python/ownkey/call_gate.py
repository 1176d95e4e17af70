"""A gate beside the caller: whether a call may be set up, decided in microseconds by a view that is kept fresh.

Example::

    with CallGate(when_stale="allow_no_recording", countries=("DE",)) as gate:
        answer = gate.authorize("acme", call_id, "tel:+49301234567", stores=("phone_recording",))

Emergency calls are told first, from the first moment on and without a network. For other calls the gate follows the
service's ``WatchCallGate``. When it has heard nothing for longer than its limit, it does what it was told to do then:
until it was told otherwise, nobody knows whether the customer has taken a key away.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import grpc

from ownkey import _exchange, _gate_messages, emergency, errors
from ownkey._exchange import CHANNEL_OPTIONS, DEFAULT_ADDRESS
from ownkey.gate.rules import ALLOW, REFUSE, SIP_SERVICE_UNAVAILABLE, STRICTNESS, KeySight
from ownkey.gate.view import EMERGENCY, Answer, Call, UnknownGroup, View
from ownkey.models import ASSET_CLASSES, CallAuthorization
from ownkey.v1 import call_watch_pb2, key_service_pb2_grpc

WhenStale: TypeAlias = Literal["allow", "allow_no_recording", "refuse"]

DEFAULT_STALENESS: Final = 15.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
# Another try would meet the same; the service may be set right meanwhile.
REFUSED_PAUSE: Final = 5.0
_REFUSED = (errors.InvalidRequest, errors.NotFound, errors.NotAuthenticated, errors.PermissionDenied)
_DIRECTIONS = ("", "inbound", "outbound", "internal")

_log = logging.getLogger(__name__)


class _Followed:
    """What is known of a tenant. ``seen`` is replaced as a whole, so that it is read without a lock."""

    __slots__ = ("error", "known", "seen", "used")

    def __init__(self, now: float) -> None:
        self.seen: tuple[View, dict[str, KeySight], float] | None = None
        self.known = threading.Event()
        self.error: errors.OwnkeyError | None = None
        self.used = now


class CallGate:
    """Decides about calls of many tenants. Thread-safe, and of use in an event loop too; keep one and reuse it.

    A tenant's first call waits for its view, ``first_wait`` seconds at most; :meth:`prepare` has it there before.

    Args:
        address: Of the service, as of :class:`ownkey.Client`.
        credentials: For a service elsewhere.
        staleness: Seconds without a word of the service after which its last word counts no more. Longer than its
            ``call_gate.heartbeat_seconds``.
        when_stale: What to do with calls then: ``allow``, ``allow_no_recording`` or ``refuse``. What was last known
            to be revoked is not allowed more than its rule allows.
        countries: ISO 3166 codes whose emergency numbers count until a tenant's view is there; none means all.
        outside_line_prefixes: Digits dialled for an outside line, until then.
        first_wait: Seconds that a tenant's first call waits for its view.
        max_tenants: How many tenants are followed; who was asked for the longest ago gives way.
        monotonic: The present time of a clock that is never set.

    Raises:
        InvalidRequest: An argument is not as it must be.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        staleness: float = DEFAULT_STALENESS,
        when_stale: WhenStale = "refuse",
        countries: tuple[str, ...] = (),
        outside_line_prefixes: tuple[str, ...] = ("0", "8", "9"),
        first_wait: float = 0.5,
        max_tenants: int = 1000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if credentials is None:
            _exchange.require_local(address)
        _exchange.require_timeout(staleness)
        if when_stale not in STRICTNESS:
            raise errors.InvalidRequest(f"when_stale is one of {', '.join(STRICTNESS)}, not {when_stale!r}")
        self._address = address
        self._credentials = credentials
        self._staleness = staleness
        self._when_stale = when_stale
        self._countries = countries
        self._prefixes = outside_line_prefixes
        self._first_wait = first_wait
        self._max_tenants = max_tenants
        self._monotonic = monotonic
        # Its own: the program may want the same numbers again from the one that all share.
        self._chance = random.Random()  # noqa: S311 - no secret
        self._tenants: dict[str, _Followed] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._channel: grpc.aio.Channel | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ownkey-call-gate", daemon=True)
        self._thread.start()

    def authorize(
        self,
        tenant: str,
        call_id: str,
        callee: str,
        *,
        caller: str = "",
        direction: str = "",
        user: str = "",
        group: str = "",
        stores: tuple[str, ...] = (),
        site: str = "",
        queue: str = "",
    ) -> CallAuthorization:
        """Whether a call may be set up; arguments as of :meth:`ownkey.Client.authorize_call`.

        Raises:
            InvalidRequest: A direction, class or group does not exist; never for an emergency call.
            NotFound: There is no such tenant; never for an emergency call.
        """
        if self._is_emergency(tenant, callee):
            return _told(EMERGENCY, 0.0)
        _require_known(direction, stores)
        if not stores:
            return _told(Answer(ALLOW, "nothing_stored", "nothing of the call will be stored"), 0.0)
        followed = self._follow(tenant)
        if followed.seen is None:
            followed.known.wait(self._first_wait)
        seen = followed.seen
        if seen is None:
            if isinstance(followed.error, errors.NotFound):
                raise followed.error
            return _told(self._stale(f"nothing is known of it yet: {followed.error or 'no answer'}"), 30.0)
        call = Call(call_id, callee, caller, direction, user, group, stores, site, queue)
        try:
            answer = self._by_view(call, *seen)
        except UnknownGroup as error:
            raise errors.InvalidRequest(f"tenant {tenant!r}: {error}") from None
        return _told(answer, seen[0].retry_after)

    def prepare(self, tenant: str, timeout: float = 5.0) -> bool:
        """Have a tenant's view there before its first call; whether it is."""
        return self._follow(tenant).known.wait(timeout)

    def age(self, tenant: str) -> float | None:
        """Seconds since the service was last heard of about a tenant; None when it never was."""
        followed = self._tenants.get(tenant)
        seen = followed.seen if followed else None
        return None if seen is None else self._monotonic() - seen[2]

    def close(self) -> None:
        """End it. Emergency calls are told all the same."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _is_emergency(self, tenant: str, callee: str) -> bool:
        followed = self._tenants.get(tenant)
        seen = followed.seen if followed else None
        if seen is not None:
            try:
                if seen[0].is_emergency(callee):
                    return True
            except Exception:  # noqa: BLE001 - a view that cannot be used holds up no emergency call
                _log.exception("the view of a tenant cannot be used to tell emergency calls")
            else:
                if not self._countries:
                    return False
        return emergency.is_emergency(callee, self._countries, outside_line_prefixes=self._prefixes)

    def _by_view(self, call: Call, view: View, keys: dict[str, KeySight], at: float) -> Answer:
        elapsed = max(self._monotonic() - at, 0.0)
        answer = view.decide(call, keys, elapsed)
        if elapsed <= self._staleness:
            return answer
        stale = self._stale(f"the service was not heard of for {elapsed:.1f} s")
        revoked = answer.reason == "key_revoked"
        stricter = STRICTNESS.index(answer.decision) >= STRICTNESS.index(stale.decision)
        return answer if revoked and stricter else stale

    def _stale(self, why: str) -> Answer:
        status = SIP_SERVICE_UNAVAILABLE if self._when_stale == REFUSE else 0
        return Answer(self._when_stale, "view_stale", f"the tenant's gate is not known to be so: {why}", status)

    def _follow(self, tenant: str) -> _Followed:
        followed = self._tenants.get(tenant)
        if followed is not None:
            followed.used = self._monotonic()
            return followed
        with self._lock:
            followed = self._tenants.get(tenant)
            if followed is None:
                if len(self._tenants) >= self._max_tenants:
                    longest = min(self._tenants, key=lambda one: self._tenants[one].used)
                    del self._tenants[longest]
                    self._on_loop(self._forget, longest)
                followed = self._tenants[tenant] = _Followed(self._monotonic())
                self._on_loop(self._begin, tenant, followed)
        return followed

    def _on_loop(self, work: Callable[..., None], *arguments: Any) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(work, *arguments)

    # From here on: on the gate's own thread.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for task in self._tasks.values():
                task.cancel()
            ending = asyncio.gather(*self._tasks.values(), return_exceptions=True)
            self._loop.run_until_complete(ending)
            if self._channel is not None:
                self._loop.run_until_complete(self._channel.close())
            self._loop.close()

    def _begin(self, tenant: str, followed: _Followed) -> None:
        self._forget(tenant)
        self._tasks[tenant] = self._loop.create_task(self._keep(tenant, followed), name=f"call gate of {tenant:.64}")

    def _forget(self, tenant: str) -> None:
        task = self._tasks.pop(tenant, None)
        if task is not None:
            task.cancel()

    async def _keep(self, tenant: str, followed: _Followed) -> None:
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
                    followed.known.set()
                pause = REFUSED_PAUSE if refused else min(pause * 2, LONGEST_PAUSE)
            except Exception:  # noqa: BLE001 - a message that cannot be used: what was known grows stale
                _log.exception("the call gate of tenant %.64s cannot be followed", tenant)
                pause = LONGEST_PAUSE
            await asyncio.sleep(pause * (0.5 + self._chance.random() / 2))

    async def _listen(self, tenant: str, followed: _Followed) -> None:
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
                    followed.known.set()
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


def _require_known(direction: str, stores: tuple[str, ...]) -> None:
    if direction not in _DIRECTIONS:
        raise errors.InvalidRequest(
            f"there is no call direction {direction!r}; there are: {', '.join(_DIRECTIONS[1:])}"
        )
    for name in stores:
        if name not in ASSET_CLASSES:
            raise errors.InvalidRequest(f"there is no asset class {name!r}; there are: {', '.join(ASSET_CLASSES)}")


def _told(answer: Answer, retry_after: float) -> CallAuthorization:
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
