"""The core of both clients, without any I/O: requests out of values, values out of answers.

An exchange is one unary call: its method, its request, and what its answer means. The clients differ only in how the
bytes move.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from google.protobuf import duration_pb2, timestamp_pb2
from google.protobuf.message import Message

from ownkey.errors import InvalidRequest
from ownkey.models import (
    ASSET_CLASSES,
    Asset,
    CallAuthorization,
    CustomerKeyStatus,
    DataKey,
    KeyStateChange,
    KeyStateChanges,
    MediaInfo,
    PolicyCheck,
    ReplicaStatus,
    RewrappedKey,
)
from ownkey.v1 import asset_pb2, call_pb2, key_service_pb2, key_state_pb2, key_status_pb2

T = TypeVar("T")

DEFAULT_ADDRESS = "127.0.0.1:7400"
# Characters of an address: at most, with room for a port, and as an error shows it.
_LONGEST, _SHOWN = 253 + 6, 60
_HOST_AND_PORT = re.compile(r"(?:(?P<name>[^\[\]:]+)|\[(?P<v6>[0-9a-fA-F:.]+)\]):(?P<port>[0-9]{1,5})")
MIB = 1024 * 1024
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 12 * MIB),
    ("grpc.max_send_message_length", 12 * MIB),
    # A fixed window: with the bandwidth probe, a slow reader makes the transport hold gigabytes.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", MIB),
    # A proxy from the environment would see every key, and what it calls 127.0.0.1 is another machine.
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 1),
    (
        "grpc.service_config",
        # Only what changes nothing is tried again, and only when nobody has worked on it.
        '{"methodConfig": [{"name": ['
        + ", ".join(
            f'{{"service": "ownkey.v1.KeyService", "method": "{method}"}}'
            for method in (
                "GenerateDataKey",
                "Unwrap",
                "Rewrap",
                "KeyStatus",
                "ListKeyStateChanges",
                "CheckPolicy",
                "AuthorizeCall",
            )
        )
        + '], "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "1s",'
        ' "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}',
    ),
)


@dataclass(frozen=True, slots=True)
class Exchange(Generic[T]):
    """One unary call."""

    method: str
    request: Message
    parse: Callable[[Any], T]


def require_address(address: str) -> None:
    """Make sure that it has the form of an address.

    Raises:
        InvalidRequest: It has not.
    """
    if address.startswith("unix:"):
        if not address.removeprefix("unix:").strip("/"):
            raise InvalidRequest(f"{_shortened(address)} does not name a socket: unix:PATH")
        return
    parts = _HOST_AND_PORT.fullmatch(address)
    # No name of a host is longer (RFC 1035), nor may a slash be in one: somebody gave a URL.
    if parts is None or len(address) > _LONGEST or "/" in address:
        raise InvalidRequest(
            f"{_shortened(address)} is no address: give HOST:PORT, such as {DEFAULT_ADDRESS}, or unix:PATH"
        )
    # gRPC would take a larger number modulo 65,536: another service's port.
    if not 0 < int(parts["port"]) < 65_536:
        raise InvalidRequest(f"{_shortened(address)} has no port from 1 to 65,535")


def host_and_port(address: str) -> tuple[str, int] | None:
    """The two parts of an address; None when it is a socket's or has no such parts."""
    parts = None if address.startswith("unix:") else _HOST_AND_PORT.fullmatch(address)
    return None if parts is None else (parts["name"] or parts["v6"], int(parts["port"]))


def _shortened(address: str) -> str:
    return repr(address if len(address) <= _SHOWN else address[:_SHOWN] + "...")


def require_local(address: str) -> None:
    """Make sure that nobody else can listen: without credentials nothing is encrypted.

    Raises:
        InvalidRequest: The address is not this machine's, or nothing can listen there.
    """
    require_address(address)
    place = host_and_port(address)
    try:
        local = place is None or place[0] == "localhost" or ipaddress.ip_address(place[0]).is_loopback
    except ValueError:
        local = False
    if not local:
        raise InvalidRequest(
            f"{_shortened(address)} is not on this machine, and keys are not sent unencrypted: give channel credentials"
        )


def require_timeout(timeout: float) -> None:
    """Make sure that a call ends some time.

    Raises:
        InvalidRequest: It is not a positive, finite number of seconds.
    """
    if not (math.isfinite(timeout) and timeout > 0):
        raise InvalidRequest(f"a timeout is a positive number of seconds, not {timeout}")


@contextlib.contextmanager
def sendable() -> Iterator[None]:
    """Tell whoever gave a value that no message can hold, such as a number of 100 bits, that it is the value's fault.

    Raises:
        InvalidRequest: Instead of what building a message raises.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise InvalidRequest("a text in the request has no UTF-8 form") from error
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"a value in the request cannot be sent: {error}") from error


@sendable()
def asset_message(asset: Asset) -> asset_pb2.Asset:
    """The asset as the contract has it.

    Raises:
        InvalidRequest: The class or origin does not exist, or the time has no zone.
    """
    if asset.asset_class not in ASSET_CLASSES:
        raise InvalidRequest(f"there is no asset class {asset.asset_class!r}; there are: {', '.join(ASSET_CLASSES)}")
    origins = {"created": asset_pb2.ASSET_ORIGIN_CREATED, "uploaded": asset_pb2.ASSET_ORIGIN_UPLOADED}
    if asset.origin not in origins:
        raise InvalidRequest(f"there is no asset origin {asset.origin!r}; there are: {', '.join(origins)}")
    message = asset_pb2.Asset(
        tenant=asset.tenant,
        asset_class=ASSET_CLASSES[asset.asset_class],
        asset_id=asset.asset_id,
        origin=origins[asset.origin],
        user=asset.user,
        group=asset.group,
    )
    if asset.create_time is not None:
        if asset.create_time.tzinfo is None:
            raise InvalidRequest("create_time needs a time zone: datetime(..., tzinfo=UTC)")
        message.create_time.FromDatetime(asset.create_time)
    return message


@sendable()
def generate_data_key(
    asset: Asset, extra_context: Mapping[str, str] | None, with_plaintext: bool, request_id: str
) -> Exchange[DataKey]:
    """GenerateDataKey."""
    request = key_service_pb2.GenerateDataKeyRequest(
        asset=asset_message(asset),
        extra_context=extra_context,
        with_plaintext=with_plaintext,
        request_id=request_id,
    )

    def parse(answer: key_service_pb2.GenerateDataKeyResponse) -> DataKey:
        return DataKey(
            key=answer.key,
            plaintext=answer.plaintext,
            lease_expire_time=_time(answer.lease_expire_time),
            wrapped_key=answer.wrapped_key,
            encryption_context=dict(answer.encryption_context),
            decision=decision_name(answer.decision),
            rule=answer.rule,
        )

    return Exchange("GenerateDataKey", request, parse)


@sendable()
def unwrap(
    asset: Asset, wrapped_key: bytes, encryption_context: Mapping[str, str], request_id: str
) -> Exchange[DataKey]:
    """Unwrap."""
    request = key_service_pb2.UnwrapRequest(
        asset=asset_message(asset),
        wrapped_key=wrapped_key,
        encryption_context=encryption_context,
        request_id=request_id,
    )

    def parse(answer: key_service_pb2.UnwrapResponse) -> DataKey:
        return DataKey(answer.key, answer.plaintext, _time(answer.lease_expire_time))

    return Exchange("Unwrap", request, parse)


@sendable()
def rewrap(
    asset: Asset, wrapped_key: bytes, encryption_context: Mapping[str, str], request_id: str
) -> Exchange[RewrappedKey]:
    """Rewrap."""
    request = key_service_pb2.RewrapRequest(
        asset=asset_message(asset),
        wrapped_key=wrapped_key,
        encryption_context=encryption_context,
        request_id=request_id,
    )

    def parse(answer: key_service_pb2.RewrapResponse) -> RewrappedKey:
        return RewrappedKey(
            answer.key, answer.wrapped_key, decision_name(answer.decision), answer.rule, answer.rewrapped
        )

    return Exchange("Rewrap", request, parse)


@sendable()
def key_status(tenant: str, key: str, request_id: str) -> Exchange[list[CustomerKeyStatus]]:
    """KeyStatus."""
    request = key_service_pb2.KeyStatusRequest(tenant=tenant, key=key, request_id=request_id)

    def parse(answer: key_service_pb2.KeyStatusResponse) -> list[CustomerKeyStatus]:
        return [customer_key_status(one) for one in answer.keys]

    return Exchange("KeyStatus", request, parse)


def customer_key_status(one: key_state_pb2.CustomerKeyStatus) -> CustomerKeyStatus:
    """The state of a key out of its message."""
    return CustomerKeyStatus(
        one.key,
        _state_name(one.state),
        one.cause,
        _age(one, one.evidence_age),
        tuple(
            ReplicaStatus(
                r.replica,
                _state_name(r.state),
                r.cause,
                _age(r, r.evidence_age),
                r.note,
                _time_if_any(r, "since"),
                _evidence_name(r.evidence),
                r.recovering,
            )
            for r in one.replicas
        ),
        _time_if_any(one, "since"),
        _evidence_name(one.evidence),
        one.recovering,
    )


def key_state_change(one: key_status_pb2.KeyStateChange) -> KeyStateChange:
    """A change of a key's state out of its message."""
    return KeyStateChange(
        one.sequence,
        one.key,
        one.replica,
        _state_name(one.before) if one.before else "",
        _state_name(one.state),
        one.cause,
        _evidence_name(one.evidence),
        one.time.ToDatetime(UTC),
    )


@sendable()
def key_state_changes(tenant: str, key: str, page_size: int, page_token: str) -> Exchange[KeyStateChanges]:
    """ListKeyStateChanges."""
    request = key_status_pb2.ListKeyStateChangesRequest(
        tenant=tenant, key=key, page_size=page_size, page_token=page_token
    )

    def parse(answer: key_status_pb2.ListKeyStateChangesResponse) -> KeyStateChanges:
        return KeyStateChanges(tuple(key_state_change(one) for one in answer.changes), answer.next_page_token)

    return Exchange("ListKeyStateChanges", request, parse)


def _evidence_name(evidence: key_state_pb2.EvidenceKind.ValueType) -> str:
    return key_state_pb2.EvidenceKind.Name(evidence).removeprefix("EVIDENCE_KIND_").lower() if evidence else ""


def _time_if_any(message: Any, field: str) -> datetime | None:
    return getattr(message, field).ToDatetime(UTC) if message.HasField(field) else None


def check_policy(asset: Asset, request_id: str) -> Exchange[PolicyCheck]:
    """CheckPolicy."""
    request = key_service_pb2.CheckPolicyRequest(asset=asset_message(asset), request_id=request_id)

    def parse(answer: key_service_pb2.CheckPolicyResponse) -> PolicyCheck:
        return PolicyCheck(
            decision_name(answer.decision),
            answer.key,
            answer.rule,
            answer.explanation,
            _state_name(answer.key_state) if answer.key_state else "",
        )

    return Exchange("CheckPolicy", request, parse)


@sendable()
def authorize_call(
    *,
    tenant: str,
    call_id: str,
    callee: str,
    caller: str,
    direction: str,
    user: str,
    group: str,
    stores: tuple[str, ...],
    site: str,
    queue: str,
    request_id: str,
) -> Exchange[CallAuthorization]:
    """AuthorizeCall.

    Raises:
        InvalidRequest: A direction or class does not exist.
    """
    directions = {name.removeprefix("CALL_DIRECTION_").lower(): n for name, n in call_pb2.CallDirection.items() if n}
    if direction and direction not in directions:
        raise InvalidRequest(f"there is no call direction {direction!r}; there are: {', '.join(directions)}")
    for name in stores:
        if name not in ASSET_CLASSES:
            raise InvalidRequest(f"there is no asset class {name!r}; there are: {', '.join(ASSET_CLASSES)}")
    request = call_pb2.AuthorizeCallRequest(
        tenant=tenant,
        call_id=call_id,
        callee=callee,
        caller=caller,
        direction=directions.get(direction, call_pb2.CALL_DIRECTION_UNSPECIFIED),
        user=user,
        group=group,
        stores=[ASSET_CLASSES[name] for name in stores],
        site=site,
        queue=queue,
        request_id=request_id,
    )

    def parse(answer: call_pb2.AuthorizeCallResponse) -> CallAuthorization:
        return CallAuthorization(
            decision=call_pb2.CallDecision.Name(answer.decision).removeprefix("CALL_DECISION_").lower(),
            reason=call_pb2.CallReason.Name(answer.reason).removeprefix("CALL_REASON_").lower(),
            explanation=answer.explanation,
            sip_status=answer.sip_status,
            key=answer.key,
            evidence_age=_age(answer, answer.evidence_age),
            valid_until=_time(answer.valid_until),
            emergency=answer.emergency,
            rule=answer.rule,
            retry_after=answer.retry_after.ToTimedelta() if answer.HasField("retry_after") else None,
        )

    return Exchange("AuthorizeCall", request, parse)


def encrypted_info(started: key_service_pb2.EncryptMediaStarted) -> MediaInfo:
    """What the service decided about an object that it encrypts."""
    return MediaInfo(
        key=started.key,
        encryption_context=dict(started.encryption_context),
        message_id=started.message_id,
        frame_length=started.frame_length,
        decision=decision_name(started.decision),
        rule=started.rule,
    )


def decrypted_info(started: key_service_pb2.DecryptMediaStarted) -> MediaInfo:
    """What the service opened."""
    return MediaInfo(
        key=started.key,
        encryption_context=dict(started.encryption_context),
        message_id=started.message_id,
        frame_length=started.frame_length,
        content_size=started.content_size if started.ciphertext_ranges else None,
    )


def decision_name(number: key_service_pb2.PolicyDecision.ValueType) -> str:
    """``allow``, ``deny`` or ``provider_key``."""
    return key_service_pb2.PolicyDecision.Name(number).removeprefix("POLICY_DECISION_").lower()


def _state_name(number: key_state_pb2.KeyState.ValueType) -> str:
    return key_state_pb2.KeyState.Name(number).removeprefix("KEY_STATE_").lower()


def _time(message: timestamp_pb2.Timestamp) -> datetime:
    return message.ToDatetime(UTC)


def _age(holder: Message, message: duration_pb2.Duration) -> timedelta | None:
    return message.ToTimedelta() if holder.HasField("evidence_age") else None
