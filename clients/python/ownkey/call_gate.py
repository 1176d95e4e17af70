"""A gate beside the caller: whether a call may be set up, decided in microseconds by a view that is kept fresh.

Example::

    with CallGate(when_stale="allow_no_recording", countries=("DE",)) as gate:
        answer = gate.authorize("acme", call_id, "tel:+49301234567", stores=("phone_recording",))

Emergency calls are told first, from the first moment on and without a network. For other calls the gate follows the
service's ``WatchCallGate``. When it has heard nothing for longer than its limit, it does what it was told to do then:
until it was told otherwise, nobody knows whether the customer has taken a key away.

:class:`CallGate` has a thread of its own, and serves any thread. :class:`AsyncCallGate` lives in the program's event
loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc

from ownkey import _gate_following
from ownkey._exchange import DEFAULT_ADDRESS
from ownkey._gate_following import DEFAULT_STALENESS, OUTSIDE_LINE_PREFIXES, Followed, Following, WhenStale
from ownkey.gate.view import Call
from ownkey.models import CallAuthorization

__all__ = ["DEFAULT_STALENESS", "AsyncCallGate", "CallGate", "WhenStale"]


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
        outside_line_prefixes: tuple[str, ...] = OUTSIDE_LINE_PREFIXES,
        first_wait: float = 0.5,
        max_tenants: int = 1000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gate = _gate_following.checked(
            address, credentials, staleness, when_stale, countries, outside_line_prefixes
        )
        self._first_wait = first_wait
        self._max_tenants = max_tenants
        self._monotonic = monotonic
        self._tenants: dict[str, Followed] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        # In the gate's own thread only.
        self._following = Following(address, credentials, staleness, monotonic)
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
        call = Call(call_id, callee, caller, direction, user, group, stores, site, queue)
        known = self._tenants.get(tenant)
        answer = _gate_following.without_a_view(self._gate, call, known.seen if known else None)
        if answer is not None:
            return answer
        followed = self._follow(tenant)
        if followed.seen is None:
            followed.known.wait(self._first_wait)
        return _gate_following.with_what_is_known(self._gate, tenant, call, followed, self._monotonic())

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

    def _follow(self, tenant: str) -> Followed:
        followed = self._tenants.get(tenant)
        if followed is not None:
            followed.used = self._monotonic()
            return followed
        with self._lock:
            followed = self._tenants.get(tenant)
            if followed is None:
                longest = _gate_following.room_for_one(self._tenants, self._max_tenants)
                if longest is not None:
                    self._on_loop(self._following.forget, longest)
                followed = self._tenants[tenant] = Followed(self._monotonic())
                self._on_loop(self._following.begin, tenant, followed)
        return followed

    def _on_loop(self, work: Callable[..., None], *arguments: Any) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(work, *arguments)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._following.close())
            self._loop.close()


class AsyncCallGate:
    """The same for one event loop, without a thread; arguments as of :class:`CallGate`.

    It waits for nothing but a tenant's first view: whoever has that there by :meth:`prepare` is answered at once.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        staleness: float = DEFAULT_STALENESS,
        when_stale: WhenStale = "refuse",
        countries: tuple[str, ...] = (),
        outside_line_prefixes: tuple[str, ...] = OUTSIDE_LINE_PREFIXES,
        first_wait: float = 0.5,
        max_tenants: int = 1000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gate = _gate_following.checked(
            address, credentials, staleness, when_stale, countries, outside_line_prefixes
        )
        self._first_wait = first_wait
        self._max_tenants = max_tenants
        self._monotonic = monotonic
        self._tenants: dict[str, Followed] = {}
        self._following = Following(address, credentials, staleness, monotonic)
        self._closed = False

    async def authorize(
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
        """As :meth:`CallGate.authorize`. For an emergency call it waits for nothing at all."""
        call = Call(call_id, callee, caller, direction, user, group, stores, site, queue)
        known = self._tenants.get(tenant)
        answer = _gate_following.without_a_view(self._gate, call, known.seen if known else None)
        if answer is not None:
            return answer
        followed = self._follow(tenant)
        if followed.seen is None:
            await _told(followed, self._first_wait)
        return _gate_following.with_what_is_known(self._gate, tenant, call, followed, self._monotonic())

    async def prepare(self, tenant: str, timeout: float = 5.0) -> bool:
        """Have a tenant's view there before its first call; whether it is."""
        return await _told(self._follow(tenant), timeout)

    def age(self, tenant: str) -> float | None:
        """Seconds since the service was last heard of about a tenant; None when it never was."""
        followed = self._tenants.get(tenant)
        seen = followed.seen if followed else None
        return None if seen is None else self._monotonic() - seen[2]

    async def close(self) -> None:
        """End it. Emergency calls are told all the same."""
        if not self._closed:
            self._closed = True
            await self._following.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _follow(self, tenant: str) -> Followed:
        followed = self._tenants.get(tenant)
        if followed is not None:
            followed.used = self._monotonic()
            return followed
        longest = _gate_following.room_for_one(self._tenants, self._max_tenants)
        if longest is not None:
            self._following.forget(longest)
        followed = self._tenants[tenant] = Followed(self._monotonic())
        if not self._closed:
            self._following.begin(tenant, followed)
        return followed


async def _told(followed: Followed, patience: float) -> bool:
    try:
        async with asyncio.timeout(patience):
            return await followed.told.wait()
    except TimeoutError:
        return False
