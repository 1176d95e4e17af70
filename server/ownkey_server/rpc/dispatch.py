"""The way of every call: who makes it, may it come now, what does it say, may they do that, and only then its method.

::

    identify -> rate of the caller -> parse -> authorize -> rate of the tenant -> admission -> method -> answer
        an error anywhere becomes a status; who was refused is in the audit trail

A request about a call is looked at before all that: when it is an emergency call nothing keeps it from its answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import Message

from ownkey.v1 import call_pb2
from ownkey_server.domain.audit import Caller
from ownkey_server.domain.errors import OwnkeyError, PermissionDenied, TooMuch, Unauthenticated
from ownkey_server.domain.roles import Facts, Permit
from ownkey_server.rpc import errors
from ownkey_server.rpc.calls import Call, Context
from ownkey_server.rpc.contract import ADMIN_LIMITS, ADMIN_SERVICE_NAME, CALLS_LIMITS, RequestParser, load_contract
from ownkey_server.rpc.identity import Authenticator
from ownkey_server.rpc.media_streams import Requests
from ownkey_server.rpc.methods import Method
from ownkey_server.rpc.stream_guard import StreamGuard, StreamLimitReached, Streams
from ownkey_server.rpc.wire import Peek
from ownkey_server.service.admission import Admission, Priority
from ownkey_server.service.authorization import Authorizer
from ownkey_server.service.call_gate import Standing
from ownkey_server.service.cancelled import by_the_caller
from ownkey_server.service.rates import Rates
from ownkey_server.service.refusals import Refusals
from ownkey_server.service.strangers import Strangers

UnaryMethod: TypeAlias = Callable[[Any, Call], Awaitable[Message]]
WatchMethod: TypeAlias = "Callable[[Any, Watch, Call], Awaitable[None]]"
StreamMethod: TypeAlias = Callable[[Any, Any, Call], Awaitable[None]]
Emergency: TypeAlias = Callable[[str, str, Standing], Awaitable[Message | None]]

# An emergency call waits no longer for what is known of its caller.
EMERGENCY_SECONDS = 0.25
_TENANT = call_pb2.AuthorizeCallRequest.TENANT_FIELD_NUMBER
_CALLEE = call_pb2.AuthorizeCallRequest.CALLEE_FIELD_NUMBER

# Whoever is told things for longer than this, without a pause, is looked at again before the next.
AGAIN_SECONDS = 10.0

# Before a principal where others have a tenant's id: no tenant has an id like that.
_OWN = "@"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gates:
    """What every call has to pass.

    Attributes:
        watches: Where calls are counted whose answers go on for as long as somebody listens.
        strangers: Where answers about emergency calls wait for their turn, of callers that nobody knows.
        turned_away: The same for their refusals.
    """

    authenticator: Authenticator
    authorizer: Authorizer
    rates: Rates
    admission: Admission
    refusals: Refusals
    streams: Streams
    watches: Streams
    strangers: Strangers
    turned_away: Strangers


@dataclass(slots=True)
class Watch:
    """What a watch's method writes to.

    Attributes:
        look: Makes sure that the caller is who it was, and may still do this; raises otherwise.
        next_request: Gives the caller's next request, of a method that has several; None when it has sent its last.
        looked_at: When that was made sure last, by the event loop's clock.
    """

    guard: StreamGuard
    look: Callable[[], Awaitable[None]]
    next_request: Callable[[], Coroutine[Any, Any, Any]]
    looked_at: float

    async def still_may(self) -> None:
        """Make sure of the caller now."""
        await self.look()
        self.looked_at = asyncio.get_running_loop().time()

    async def write(self, message: bytes) -> None:
        """Send a message; errors as of the guard's.

        A watch on which much happens, or whose caller makes much happen, never comes to a heartbeat: so that its
        caller is looked at all the same, a message tells whether it is time.
        """
        if asyncio.get_running_loop().time() - self.looked_at >= AGAIN_SECONDS:
            await self.still_may()
        await self.guard.write(message)


@dataclass(slots=True)
class _About:
    """What is known of a call when it ends."""

    principal: str = ""
    facts: Facts = field(default_factory=Facts)


class Dispatcher:
    """Makes handlers of methods."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        contract = load_contract()
        self._key_parser = RequestParser(contract)
        self._calls_parser = RequestParser(contract, CALLS_LIMITS)
        self._admin_parser = RequestParser(contract, ADMIN_LIMITS)
        self._peek = Peek(_TENANT, _CALLEE)

    def unary(
        self, method: Method, work: UnaryMethod, first: Emergency | None = None
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler of a unary method.

        Args:
            method: Which it is.
            work: Does it, for a call that was let in.
            first: Answers some requests before anything else, whoever sends them: those about emergency calls.
        """
        parser = self._parser(method)

        # Served as a stream of one request: grpc.aio would otherwise read it before this sees the call, wait, and hold
        # what has come of it, for as long as the connection lives.
        async def handle(_requests: object, context: Context) -> bytes:
            about = _About()
            try:
                return await answer(context, about)
            except Exception as error:  # noqa: BLE001 - every error becomes a status, unknown ones INTERNAL
                if isinstance(error, Unauthenticated | PermissionDenied):
                    # While it waits, nothing that it came through shall hold the request.
                    error.__traceback__ = None
                    await self._gates.turned_away.turn(context.peer())
                await self._refuse(method, context, error, about)

        async def answer(context: Context, about: _About) -> bytes:
            if first is None:
                principal = await self._known(context, about)
                raw = await self._gates.streams.only_request(context)
            else:
                raw = await self._gates.streams.only_request(context)
                connected = await self._emergency(raw, method, first, context)
                if connected is not None:
                    return connected
                parser.require_size(raw, method.request)
                principal = await self._known(context, about)
            request = parser.parse(raw, method.request)
            facts = about.facts = method.facts(request)
            urgency = method.urgency(request)
            call = await self._let_in(method, principal, facts, context, urgency)
            # Who names no tenant stands for itself.
            whose = facts.tenant or _OWN + principal
            async with self._gates.admission.admitted(urgency, whose, call.seconds):
                return (await work(request, call)).SerializeToString()

        return grpc.stream_unary_rpc_method_handler(handle)

    def stream(self, method: Method, work: StreamMethod) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler of a method whose requests and answers are streams."""
        parser = self._parser(method)

        async def handle(_requests: object, context: Context) -> None:
            about = _About()
            try:
                principal = await self._known(context, about, or_wait=True)
                async with self._gates.streams.guard(context, principal) as guard:
                    requests: Requests[Any] = Requests(guard, parser, method.request)
                    first = await requests.first()
                    facts = about.facts = method.facts(first)
                    urgency = method.urgency(first)
                    call = await self._let_in(method, principal, facts, context, urgency)
                    with (
                        requests.watched(lambda: self._still_may(method, principal, facts, context)),
                        self._gates.admission.stream(urgency, facts.tenant),
                    ):
                        await work(first, requests, call)
            except Exception as error:  # noqa: BLE001 - every error becomes a status, unknown ones INTERNAL
                if context.done():
                    return  # the client has left, and writing to it failed: that is its right, and no defect
                await self._refuse(method, context, error, about)

        return grpc.stream_stream_rpc_method_handler(handle)

    def watch(self, method: Method, work: WatchMethod) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler of a method with one request, whose answers go on for as long as somebody listens.

        It takes no place among calls or media streams: it is quiet nearly always. How many there are is bounded, and
        who does not take what is written.
        """
        parser = self._parser(method)

        async def handle(_requests: object, context: Context) -> None:
            about = _About()

            async def next_request() -> Message | None:
                raw: Any = await context.read()
                if raw is grpc.aio.EOF:
                    return None
                # As a call of its own: a stream is no way around what a caller and a tenant may ask in a second.
                self._gates.rates.take(about.principal, about.facts.tenant)
                return parser.parse(raw, method.request)

            try:
                principal = await self._known(context, about, or_wait=True)
                request = parser.parse(await self._gates.streams.only_request(context), method.request)
                facts = about.facts = method.facts(request)
                call = await self._let_in(method, principal, facts, context, method.urgency(request))
                async with self._gates.watches.guard(context, principal) as guard:
                    watch = Watch(
                        guard,
                        lambda: self._still_may(method, principal, facts, context),
                        next_request,
                        asyncio.get_running_loop().time(),
                    )
                    await work(request, watch, call)
            except Exception as error:  # noqa: BLE001 - every error becomes a status, unknown ones INTERNAL
                if context.done():
                    return  # the client has left: that is its right, and no defect
                await self._refuse(method, context, error, about)

        return grpc.stream_stream_rpc_method_handler(handle)

    def _parser(self, method: Method) -> RequestParser:
        if method.service == ADMIN_SERVICE_NAME:
            return self._admin_parser
        return self._calls_parser if method.name == "WatchCalls" else self._key_parser

    async def _known(self, context: Context, about: _About, *, or_wait: bool = False) -> str:
        """Who calls, if they may call now."""
        try:
            principal = about.principal = await self._gates.authenticator.principal(context)
        except Unauthenticated:
            if or_wait:
                await self._gates.turned_away.turn(context.peer())
            raise
        self._gates.rates.take(principal, "")
        return principal

    async def _let_in(self, method: Method, principal: str, facts: Facts, context: Context, urgency: Priority) -> Call:
        permit = await self._permitted(method, principal, facts, context)
        # Only now: what somebody else asks for in a tenant's name must not use up what the tenant may ask.
        self._gates.rates.take("", facts.tenant)
        return Call(context, method.name, principal, permit, urgency is Priority.BACKGROUND)

    async def _permitted(self, method: Method, principal: str, facts: Facts, context: Context) -> Permit:
        try:
            return await self._gates.authorizer.require(principal, method.name, facts)
        except PermissionDenied as error:
            self._gates.refusals.note(Caller(principal, context.peer()), method.name, error, facts.tenant)
            raise

    async def _still_may(self, method: Method, principal: str, facts: Facts, context: Context) -> None:
        """Make sure that a stream's caller is still who it was, and may still do this."""
        now = await self._gates.authenticator.principal(context)
        if now != principal:
            raise Unauthenticated("the caller is another than the one who began the stream")
        await self._permitted(method, principal, facts, context)

    async def _emergency(self, raw: bytes, method: Method, first: Emergency, context: Context) -> bytes | None:
        """The answer about an emergency call, whatever is wrong with everything else; None for any other call."""
        about = self._peek(raw)
        del raw
        standing = await self._standing(about.text(_TENANT), context, method)
        answer = await first(about.text(_TENANT), about.text(_CALLEE), standing)
        if answer is None:
            return None
        if standing is Standing.UNKNOWN:
            await self._gates.strangers.turn(context.peer())
        return answer.SerializeToString()

    async def _standing(self, tenant: str, context: Context, method: Method) -> Standing:
        """Whether what is answered may depend on the tenant that is named. Nothing makes this fail, or take long."""
        standing = Standing.UNKNOWN
        try:
            async with asyncio.timeout(EMERGENCY_SECONDS):
                principal = await self._gates.authenticator.principal(context)
                # From here on somebody is known: if it is not known what they may do, the doubt is for the call.
                standing = Standing.IN_DOUBT
                await self._gates.authorizer.require(principal, method.name, Facts((tenant,)))
                standing = Standing.KNOWN
        except (PermissionDenied, Unauthenticated):
            return Standing.UNKNOWN
        except asyncio.CancelledError:
            if by_the_caller():
                raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it keeps no emergency call from connecting
            if not isinstance(error, OwnkeyError | TimeoutError):
                _log.exception("it could not be told who asks about a call")
        return standing

    async def _refuse(self, method: Method, context: Context, error: Exception, about: _About) -> NoReturn:
        if isinstance(error, Unauthenticated):
            self._gates.refusals.note(Caller(peer=context.peer()), method.name, error)
        elif isinstance(error, TooMuch | StreamLimitReached):
            caller = Caller(about.principal or Caller().principal, context.peer())
            self._gates.refusals.note(caller, method.name, error, about.facts.tenant, at_once=False)
        await errors.abort(context, error)
