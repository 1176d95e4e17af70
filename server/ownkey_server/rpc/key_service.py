"""KeyService's unary methods: one call, and its answer."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from ownkey.v1 import call_pb2, key_service_pb2, key_status_pb2
from ownkey.wrapped_key import WrappedKey, WrappedKeyInvalid
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.rpc import convert, key_watch, page_tokens
from ownkey_server.rpc.calls import Call
from ownkey_server.service.call_gate import CallGateKeeper, Standing
from ownkey_server.service.data_keys import DataKeys
from ownkey_server.service.gate_views import GateViews
from ownkey_server.service.key_changes import KeyChanges
from ownkey_server.service.key_status import KeyStatus
from ownkey_server.service.key_watch import KeyWatches
from ownkey_server.service.media import Media
from ownkey_server.service.open_streams import OpenStreams
from ownkey_server.service.policy_checks import PolicyChecks
from ownkey_server.service.rewrapping import Rewraps
from ownkey_server.service.watched_calls import WatchedCalls


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases that the contract offers."""

    data_keys: DataKeys
    rewraps: Rewraps
    media: Media
    policy_checks: PolicyChecks
    key_status: KeyStatus
    call_gate: CallGateKeeper
    open_streams: OpenStreams
    key_watches: KeyWatches
    key_changes: KeyChanges
    gate_views: GateViews
    watched_calls: WatchedCalls
    watch_heartbeat: float = 10.0
    gate_heartbeat: float = 5.0


class KeyServicer:
    """Each method takes a request that was let in (``dispatch.py``), and gives its answer."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def GenerateDataKey(self, request: key_service_pb2.GenerateDataKeyRequest, call: Call) -> Message:
        """Make a data key under the key that policy names."""
        issued = await self._services.data_keys.generate(
            convert.asset(request.asset),
            convert.pairs(request.extra_context),
            call.seconds,
            call.caller(request.request_id),
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
            )
        finally:
            issued.plaintext.wipe()

    async def Unwrap(self, request: key_service_pb2.UnwrapRequest, call: Call) -> Message:
        """Open a wrapped key for its asset."""
        wrapped = _wrapped_key(request.wrapped_key)
        opened = await self._services.data_keys.unwrap(
            convert.asset(request.asset),
            wrapped.encrypted_data_keys,
            convert.pairs(request.encryption_context),
            call.seconds,
            call.caller(request.request_id),
            named_key=wrapped.key,
        )
        try:
            return key_service_pb2.UnwrapResponse(
                key=opened.key.name,
                plaintext=bytes(opened.plaintext.reveal()),
                lease_expire_time=convert.timestamp(opened.lease_expires_at),
            )
        finally:
            opened.plaintext.wipe()

    async def Rewrap(self, request: key_service_pb2.RewrapRequest, call: Call) -> Message:
        """Wrap a data key as policy says today."""
        wrapped = _wrapped_key(request.wrapped_key)
        found = await self._services.rewraps.rewrap(
            convert.asset(request.asset),
            wrapped.encrypted_data_keys,
            convert.pairs(request.encryption_context),
            call.seconds,
            call.caller(request.request_id),
            named_key=wrapped.key,
        )
        return key_service_pb2.RewrapResponse(
            key=found.key.name,
            decision=convert.POLICY_DECISIONS[found.decision.outcome.effect],
            rule=found.decision.rule,
            wrapped_key=WrappedKey(found.key.name, (found.wrapped,)).to_bytes()
            if found.wrapped is not None
            else request.wrapped_key,
            rewrapped=found.wrapped is not None,
        )

    async def KeyStatus(self, request: key_service_pb2.KeyStatusRequest, _call: Call) -> Message:
        """Tell the state of a tenant's keys."""
        reports = await self._services.key_status.report(request.tenant, request.key)
        keys = [convert.key_report(report) for report in reports]
        return key_service_pb2.KeyStatusResponse(keys=keys)

    async def ListKeyStateChanges(self, request: key_status_pb2.ListKeyStateChangesRequest, _call: Call) -> Message:
        """Tell what became of a tenant's keys."""
        before = page_tokens.decode(request, int, 0) or None
        size = page_tokens.page_size(request)
        found = await self._services.key_changes.listed(request.tenant, request.key, before, size + 1)
        more = page_tokens.encode(request, found[size - 1].sequence) if len(found) > size else ""
        changes = [key_watch.change_message(one) for one in found[:size]]
        return key_status_pb2.ListKeyStateChangesResponse(changes=changes, next_page_token=more)

    async def CheckPolicy(self, request: key_service_pb2.CheckPolicyRequest, _call: Call) -> Message:
        """Tell what policy says of an asset."""
        check = await self._services.policy_checks.check(convert.asset(request.asset))
        return key_service_pb2.CheckPolicyResponse(
            decision=convert.POLICY_DECISIONS[check.ruling.decision.outcome.effect],
            key=check.ruling.key.name if check.ruling.key else "",
            rule=check.ruling.decision.rule,
            explanation=check.explanation,
            key_state=convert.key_state(check.key_state),
        )

    async def AuthorizeCall(self, request: call_pb2.AuthorizeCallRequest, call: Call) -> Message:
        """Decide about a call."""
        answer = await self._services.call_gate.authorize(convert.call(request), call.caller(request.request_id))
        return convert.call_response(answer)

    async def emergency(self, tenant: str, callee: str, standing: Standing) -> Message | None:
        """The answer about an emergency call, before anything else of its request is judged; None for any other call.

        Args:
            tenant: As the request has it, whatever it is.
            callee: The same.
            standing: Whether the caller may ask about the tenant; otherwise nothing is said that depends on it.
        """
        answer = await self._services.call_gate.emergency_answer(tenant, callee, standing)
        return None if answer is None else convert.call_response(answer)


def _wrapped_key(raw: bytes) -> WrappedKey:
    try:
        return WrappedKey.from_bytes(raw)
    except WrappedKeyInvalid as error:
        raise InvalidRequest("wrapped_key", str(error)) from error
