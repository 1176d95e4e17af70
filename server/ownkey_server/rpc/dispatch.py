"""The way of every call: who makes it, may it come now, what does it say, may they do that, and only then its method.

::

    identify -> rate of the caller -> parse -> authorize -> rate of the tenant -> admission -> method -> answer
        an error anywhere becomes a status; who was refused is in the audit trail
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import Message

from ownkey.v1 import key_service_pb2
from ownkey_server.domain.audit import Caller
from ownkey_server.domain.errors import OwnkeyError, PermissionDenied, ServiceImpaired, Unauthenticated
from ownkey_server.domain.roles import Facts, Permit
from ownkey_server.rpc import errors
from ownkey_server.rpc.calls import Call, Context
from ownkey_server.rpc.contract import ADMIN_LIMITS, ADMIN_SERVICE_NAME, RequestParser, load_contract
from ownkey_server.rpc.identity import Authenticator
from ownkey_server.rpc.media_streams import Requests
from ownkey_server.rpc.methods import Method
from ownkey_server.rpc.stream_guard import Streams
from ownkey_server.rpc.wire import peek_text
from ownkey_server.service.admission import Admission, Priority
from ownkey_server.service.authorization import Authorizer
from ownkey_server.service.rates import Rates
from ownkey_server.service.refusals import Refusals

UnaryMethod: TypeAlias = Callable[[Any, Call], Awaitable[Message]]
StreamMethod: TypeAlias = Callable[[Any, Any, Call], Awaitable[None]]
Emergency: TypeAlias = Callable[..., Awaitable[Message | None]]

# An emergency call waits no longer for what is known of its caller.
EMERGENCY_SECONDS = 0.25
_TENANT_FIELD = key_service_pb2.AuthorizeCallRequest.TENANT_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class Gates:
    """What every call has to pass."""

    authenticator: Authenticator
    authorizer: Authorizer
    rates: Rates
    admission: Admission
    refusals: Refusals
    streams: Streams


class Dispatcher:
    """Makes handlers of methods."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        contract = load_contract()
        self._key_parser = RequestParser(contract)
        self._admin_parser = RequestParser(contract, ADMIN_LIMITS)

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
            try:
                if first is None:
                    principal = await self._known(context)
                    raw = await self._gates.streams.only_request(context)
                else:
                    raw = await self._gates.streams.only_request(context)
                    known = await self._knows_its_tenant(raw, context, method)
                    answer = await first(raw, known=known)
                    if answer is not None:
                        return answer.SerializeToString()
                    principal = await self._known(context)
                request = parser.parse(raw, method.request)
                facts = method.facts(request)
                urgency = method.urgency(request)
                call = await self._let_in(method, principal, facts, context, urgency)
                async with self._gates.admission.admitted(urgency, facts.tenant, call.seconds):
                    return (await work(request, call)).SerializeToString()
            except Exception as error:  # noqa: BLE001 - every error becomes a status, unknown ones INTERNAL
                await self._refuse(method, context, error)

        return grpc.stream_unary_rpc_method_handler(handle)

    def stream(self, method: Method, work: StreamMethod) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler of a method whose requests and answers are streams."""
        parser = self._parser(method)

        async def handle(_requests: object, context: Context) -> None:
            try:
                principal = await self._known(context)
                async with self._gates.streams.guard(context, principal) as guard:
                    requests: Requests[Any] = Requests(guard, parser, method.request)
                    first = await requests.first()
                    facts = method.facts(first)
                    urgency = method.urgency(first)
                    call = await self._let_in(method, principal, facts, context, urgency)
                    requests.decide_anew(lambda: self._still_may(method, principal, facts, context))
                    with self._gates.admission.stream(urgency, facts.tenant):
                        await work(first, requests, call)
            except Exception as error:  # noqa: BLE001 - every error becomes a status, unknown ones INTERNAL
                if context.done():
                    return  # the client has left, and writing to it failed: that is its right, and no defect
                await self._refuse(method, context, error)

        return grpc.stream_stream_rpc_method_handler(handle)

    def _parser(self, method: Method) -> RequestParser:
        return self._admin_parser if method.service == ADMIN_SERVICE_NAME else self._key_parser

    async def _known(self, context: Context) -> str:
        """Who calls, if they may call now."""
        principal = await self._gates.authenticator.principal(context)
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

    async def _knows_its_tenant(self, raw: bytes, context: Context, method: Method) -> bool:
        """Whether what is answered may depend on the tenant that is named. In doubt it may: a life may depend on it."""
        try:
            async with asyncio.timeout(EMERGENCY_SECONDS):
                principal = await self._gates.authenticator.principal(context)
                await self._gates.authorizer.require(principal, method.name, Facts((peek_text(raw, _TENANT_FIELD),)))
        except (ServiceImpaired, TimeoutError):
            return True
        except OwnkeyError:
            return False
        return True

    async def _refuse(self, method: Method, context: Context, error: Exception) -> NoReturn:
        if isinstance(error, Unauthenticated):
            self._gates.refusals.note(Caller(peer=context.peer()), method.name, error)
        await errors.abort(context, error)
