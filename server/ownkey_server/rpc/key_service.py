"""KeyService's unary methods: parse, one call, answer."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from ownkey.v1 import key_service_pb2
from ownkey.wrapped_key import WrappedKey, WrappedKeyInvalid
from ownkey_server.domain.audit import Caller
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.rpc import convert
from ownkey_server.rpc.contract import RequestParser
from ownkey_server.rpc.wire import peek_text
from ownkey_server.service.call_gate import CallGateKeeper
from ownkey_server.service.data_keys import DataKeys
from ownkey_server.service.key_status import KeyStatus
from ownkey_server.service.media import Media
from ownkey_server.service.policy_checks import PolicyChecks

Context = grpc.aio.ServicerContext[bytes, bytes]

TENANT_FIELD = key_service_pb2.AuthorizeCallRequest.TENANT_FIELD_NUMBER
CALLEE_FIELD = key_service_pb2.AuthorizeCallRequest.CALLEE_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases that the contract offers."""

    data_keys: DataKeys
    media: Media
    policy_checks: PolicyChecks
    key_status: KeyStatus
    call_gate: CallGateKeeper


class KeyServicer:
    """Each method takes a request as bytes and gives the answer as bytes; ``rpc/server.py`` answers errors."""

    def __init__(self, services: Services, parser: RequestParser) -> None:
        self._services = services
        self._parser = parser

    async def GenerateDataKey(self, raw: bytes, context: Context) -> bytes:
        """Make a data key under the key that policy names."""
        request = self._parser.parse(raw, key_service_pb2.GenerateDataKeyRequest)
        issued = await self._services.data_keys.generate(
            convert.asset(request.asset),
            convert.pairs(request.extra_context),
            context.time_remaining(),
            caller_of(context, request.request_id),
        )
        try:
            return key_service_pb2.GenerateDataKeyResponse(
                key=issued.key.name,
                decision=convert.POLICY_DECISIONS[issued.decision.outcome.effect],
                rule=issued.decision.rule,
                plaintext=bytes(issued.plaintext.reveal()) if request.with_plaintext else b"",
                wrapped_key=WrappedKey(issued.key.name, (issued.wrapped,)).to_bytes(),
                encryption_context=issued.context,
                lease_expire_time=convert.timestamp(issued.lease_expires_at),
            ).SerializeToString()
        finally:
            issued.plaintext.wipe()

    async def Unwrap(self, raw: bytes, context: Context) -> bytes:
        """Open a wrapped key for its asset."""
        request = self._parser.parse(raw, key_service_pb2.UnwrapRequest)
        try:
            wrapped = WrappedKey.from_bytes(request.wrapped_key)
        except WrappedKeyInvalid as error:
            raise InvalidRequest("wrapped_key", str(error)) from error
        opened = await self._services.data_keys.unwrap(
            convert.asset(request.asset),
            wrapped.encrypted_data_keys,
            convert.pairs(request.encryption_context),
            context.time_remaining(),
            caller_of(context, request.request_id),
            named_key=wrapped.key,
        )
        try:
            return key_service_pb2.UnwrapResponse(
                key=opened.key.name,
                plaintext=bytes(opened.plaintext.reveal()),
                lease_expire_time=convert.timestamp(opened.lease_expires_at),
            ).SerializeToString()
        finally:
            opened.plaintext.wipe()

    async def KeyStatus(self, raw: bytes, context: Context) -> bytes:  # noqa: ARG002
        """Tell the state of a tenant's keys."""
        request = self._parser.parse(raw, key_service_pb2.KeyStatusRequest)
        reports = await self._services.key_status.report(request.tenant, request.key)
        keys = [convert.key_report(report) for report in reports]
        return key_service_pb2.KeyStatusResponse(keys=keys).SerializeToString()

    async def CheckPolicy(self, raw: bytes, context: Context) -> bytes:  # noqa: ARG002
        """Tell what policy says of an asset."""
        request = self._parser.parse(raw, key_service_pb2.CheckPolicyRequest)
        check = await self._services.policy_checks.check(convert.asset(request.asset))
        return key_service_pb2.CheckPolicyResponse(
            decision=convert.POLICY_DECISIONS[check.ruling.decision.outcome.effect],
            key=check.ruling.key.name if check.ruling.key else "",
            rule=check.ruling.decision.rule,
            explanation=check.explanation,
            key_state=convert.key_state(check.key_state),
        ).SerializeToString()

    async def AuthorizeCall(self, raw: bytes, context: Context) -> bytes:
        """Decide about a call; an emergency call before anything of its request is judged."""
        gate = self._services.call_gate
        tenant, callee = peek_text(raw, TENANT_FIELD), peek_text(raw, CALLEE_FIELD)
        emergency = await gate.emergency_answer(tenant, callee)
        if emergency is not None:
            return convert.call_response(emergency).SerializeToString()
        request = self._parser.parse(raw, key_service_pb2.AuthorizeCallRequest)
        answer = await gate.authorize(convert.call(request), caller_of(context, request.request_id))
        return convert.call_response(answer).SerializeToString()


def caller_of(context: Context, request_id: str) -> Caller:
    """Who calls, as far as the listener knows."""
    return Caller(peer=context.peer(), request_id=request_id)
