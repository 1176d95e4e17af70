"""AuthorizeCall over a channel of the worker's own.

Calls block, and need no thread of Python's: between two SIP messages app_python3 keeps the interpreter to itself, so
that a thread in the background would stand still.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import grpc

from ownkey import credentials, errors
from ownkey.models import ASSET_CLASSES
from ownkey.v1 import call_pb2, key_service_pb2_grpc
from ownkey_kamailio.facts import Facts
from ownkey_kamailio.settings import Service, SettingsError

OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    # A second try would come too late for the caller, and hold a worker meanwhile.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A peer that vanished without a word is found out.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", 64 * 1024),
)
# Kamailio starts no sooner: as long as a first connection may take.
WARM_UP_SECONDS = 2.0
# What was asked was answered: with a no that says something of us or of the request, and nothing of an outage.
SAID_NO = (errors.InvalidRequest, errors.NotFound, errors.NotAuthenticated, errors.PermissionDenied)


@dataclass(frozen=True, slots=True)
class Answer:
    """What ownkey says about a call.

    Attributes:
        decision: ``allow``, ``allow_no_recording`` or ``refuse``.
        status: The SIP status to refuse it with.
        valid_until: Until when it holds for calls with the same facts, in seconds of the epoch.
        retry_after: With 503, the seconds after which trying again may help; 0 when ownkey does not say.
    """

    decision: str
    reason: str
    status: int
    valid_until: float
    retry_after: int = 0


class Asking:
    """Asks one service.

    Raises:
        SettingsError: The credentials cannot be used.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        try:
            self._credentials = (
                credentials.tls(
                    ca_file=service.ca_file,
                    certificate_file=service.certificate_file,
                    private_key_file=service.private_key_file,
                    token_file=service.token_file,
                )
                if service.secured
                else None
            )
        except errors.InvalidRequest as error:
            raise SettingsError(f"service: {error}") from None
        self._channel: grpc.Channel | None = None

    def connect(self) -> None:
        """Open the channel, or a new one. After the fork: gRPC's threads do not survive it."""
        if self._channel is not None:
            self._channel.close()
        # Without the pool of the whole process a new channel is a new connection.
        options = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self._service.address, options=options)
        else:
            self._channel = grpc.secure_channel(self._service.address, self._credentials, options=options)
        self._stub = key_service_pb2_grpc.KeyServiceStub(self._channel)

    def warm_up(self) -> None:
        """Have the connection there before the first call needs it. Whether ownkey answers shows then."""
        if self._channel is None:
            return
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary("/grpc.health.v1.Health/Check")
        with contextlib.suppress(grpc.RpcError):
            check(b"", timeout=WARM_UP_SECONDS)

    def ask(self, facts: Facts, timeout: float) -> Answer:
        """Ask about a call.

        Raises:
            OwnkeyError: See :mod:`ownkey.errors`.
        """
        request = call_pb2.AuthorizeCallRequest(
            tenant=facts.tenant,
            call_id=facts.call_id,
            callee=facts.callee,
            caller=facts.caller,
            direction=call_pb2.CallDirection.Value(f"CALL_DIRECTION_{facts.direction.upper() or 'UNSPECIFIED'}"),
            user=facts.user,
            group=facts.group,
            stores=[ASSET_CLASSES[name] for name in facts.stores],
            queue=facts.queue,
            site=facts.site,
        )
        try:
            answer = self._stub.AuthorizeCall(request, timeout=timeout)
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from None
        decision = call_pb2.CallDecision.Name(answer.decision).removeprefix("CALL_DECISION_").lower()
        return Answer(
            decision=decision if decision in ("allow", "allow_no_recording") else "refuse",
            reason=call_pb2.CallReason.Name(answer.reason).removeprefix("CALL_REASON_").lower(),
            status=403 if answer.sip_status == 403 else 503,
            valid_until=answer.valid_until.ToMilliseconds() / 1000,
            retry_after=math.ceil(answer.retry_after.ToMilliseconds() / 1000),
        )
