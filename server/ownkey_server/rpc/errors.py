"""The one place where errors become gRPC statuses: the table, and what goes into the details."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from ownkey import container
from ownkey.v1 import error_reason_pb2
from ownkey_server.domain import errors
from ownkey_server.rpc.stream_guard import RequestMissing, StreamsBusy, StreamTooMuch, StreamTooSlow

Reason: TypeAlias = error_reason_pb2.ErrorReason.ValueType
ERROR_DOMAIN = "ownkey"
RETRY_AFTER_SECONDS = 1
REASON_PREFIX = "ERROR_REASON_"

_log = logging.getLogger(__name__)


class StreamProtocolError(errors.OwnkeyError):
    """Messages of a stream came in an order that the contract does not know."""


class InvalidRequests(errors.OwnkeyError):
    """Several fields of a request are wrong.

    Attributes:
        violations: One for each.
    """

    def __init__(self, violations: list[errors.InvalidRequest]) -> None:
        super().__init__("; ".join(str(v) for v in violations))
        self.violations = violations


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error goes over the wire.

    Attributes:
        metadata: Names of the error's attributes that go into ``ErrorInfo.metadata``.
        retry: Whether ``RetryInfo`` comes with it.
    """

    code: grpc.StatusCode
    reason: Reason
    metadata: tuple[str, ...] = ()
    retry: bool = False


_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
_KEY = ("key", "replica")
_RESOURCE = ("resource",)

# The first row whose type matches counts, so that a narrower type stands before a wider one.
TABLE: Mapping[type[Exception], Row] = {
    errors.InvalidRequest: Row(_INVALID, error_reason_pb2.ERROR_REASON_INVALID_FIELD),
    InvalidRequests: Row(_INVALID, error_reason_pb2.ERROR_REASON_INVALID_FIELD),
    StreamProtocolError: Row(_INVALID, error_reason_pb2.ERROR_REASON_STREAM_PROTOCOL),
    RequestMissing: Row(_INVALID, error_reason_pb2.ERROR_REASON_STREAM_PROTOCOL),
    StreamTooSlow: Row(grpc.StatusCode.DEADLINE_EXCEEDED, error_reason_pb2.ERROR_REASON_STREAM_LIMIT, ("limit",)),
    StreamTooMuch: Row(_EXHAUSTED, error_reason_pb2.ERROR_REASON_STREAM_LIMIT, ("limit",)),
    StreamsBusy: Row(_EXHAUSTED, error_reason_pb2.ERROR_REASON_STREAM_LIMIT, ("limit",), retry=True),
    errors.Unauthenticated: Row(grpc.StatusCode.UNAUTHENTICATED, error_reason_pb2.ERROR_REASON_UNAUTHENTICATED),
    errors.PermissionDenied: Row(
        grpc.StatusCode.PERMISSION_DENIED, error_reason_pb2.ERROR_REASON_PERMISSION_DENIED, ("principal", "method")
    ),
    errors.TenantNotFound: Row(grpc.StatusCode.NOT_FOUND, error_reason_pb2.ERROR_REASON_TENANT_NOT_FOUND, ("tenant",)),
    errors.KeyNotFound: Row(grpc.StatusCode.NOT_FOUND, error_reason_pb2.ERROR_REASON_KEY_NOT_FOUND, ("tenant",)),
    errors.PolicyDenied: Row(
        grpc.StatusCode.PERMISSION_DENIED, error_reason_pb2.ERROR_REASON_POLICY_DENIED, ("tenant", "rule")
    ),
    errors.UseRevoked: Row(_PRECONDITION, error_reason_pb2.ERROR_REASON_KEY_REVOKED, ("tenant", "revocation")),
    errors.AssetMismatch: Row(_INVALID, error_reason_pb2.ERROR_REASON_ASSET_MISMATCH),
    errors.KeyRevoked: Row(_PRECONDITION, error_reason_pb2.ERROR_REASON_KEY_REVOKED, _KEY),
    errors.KeyUnreachable: Row(
        grpc.StatusCode.UNAVAILABLE, error_reason_pb2.ERROR_REASON_KEY_UNREACHABLE, _KEY, retry=True
    ),
    errors.KeyStoreThrottled: Row(
        grpc.StatusCode.UNAVAILABLE, error_reason_pb2.ERROR_REASON_KEY_STORE_THROTTLED, _KEY, retry=True
    ),
    errors.KeyMisconfigured: Row(_PRECONDITION, error_reason_pb2.ERROR_REASON_KEY_MISCONFIGURED, _KEY),
    errors.KeyExhausted: Row(_PRECONDITION, error_reason_pb2.ERROR_REASON_KEY_EXHAUSTED, _KEY),
    errors.CiphertextInvalid: Row(_INVALID, error_reason_pb2.ERROR_REASON_CIPHERTEXT_INVALID, _KEY),
    errors.OperationUnsupported: Row(_PRECONDITION, error_reason_pb2.ERROR_REASON_KEY_STORE_UNSUPPORTED, _KEY),
    errors.DeadlineExceeded: Row(grpc.StatusCode.DEADLINE_EXCEEDED, error_reason_pb2.ERROR_REASON_DEADLINE_EXCEEDED),
    errors.AuditUnavailable: Row(_UNAVAILABLE, error_reason_pb2.ERROR_REASON_AUDIT_UNAVAILABLE, retry=True),
    errors.ViewStale: Row(_UNAVAILABLE, error_reason_pb2.ERROR_REASON_VIEW_STALE, ("tenant",), retry=True),
    errors.IssuerUnreachable: Row(
        _UNAVAILABLE, error_reason_pb2.ERROR_REASON_ISSUER_UNREACHABLE, ("issuer",), retry=True
    ),
    errors.Overloaded: Row(_EXHAUSTED, error_reason_pb2.ERROR_REASON_SERVER_OVERLOADED, ("priority",), retry=True),
    errors.RateLimited: Row(_EXHAUSTED, error_reason_pb2.ERROR_REASON_RATE_LIMITED, ("limited",), retry=True),
    errors.DatabaseUnavailable: Row(_UNAVAILABLE, error_reason_pb2.ERROR_REASON_DATABASE_UNAVAILABLE, retry=True),
    errors.ResourceNotFound: Row(
        grpc.StatusCode.NOT_FOUND, error_reason_pb2.ERROR_REASON_RESOURCE_NOT_FOUND, _RESOURCE
    ),
    errors.ResourceExists: Row(
        grpc.StatusCode.ALREADY_EXISTS, error_reason_pb2.ERROR_REASON_RESOURCE_EXISTS, _RESOURCE
    ),
    errors.ResourceInUse: Row(_PRECONDITION, error_reason_pb2.ERROR_REASON_RESOURCE_IN_USE, _RESOURCE),
    errors.EtagMismatch: Row(grpc.StatusCode.ABORTED, error_reason_pb2.ERROR_REASON_ETAG_MISMATCH, _RESOURCE),
    errors.ApprovalRequired: Row(
        _PRECONDITION, error_reason_pb2.ERROR_REASON_APPROVAL_REQUIRED, ("resource", "approval")
    ),
    errors.ApprovalInvalid: Row(
        _PRECONDITION, error_reason_pb2.ERROR_REASON_APPROVAL_INVALID, ("resource", "approval")
    ),
    errors.TooManyWaiting: Row(_EXHAUSTED, error_reason_pb2.ERROR_REASON_APPROVALS_FULL, _RESOURCE),
    errors.EnrolmentFailed: Row(_PRECONDITION, error_reason_pb2.ERROR_REASON_ENROLMENT_FAILED, ("resource", "replica")),
    container.RangeInvalid: Row(grpc.StatusCode.OUT_OF_RANGE, error_reason_pb2.ERROR_REASON_RANGE_INVALID),
    container.Truncated: Row(_INVALID, error_reason_pb2.ERROR_REASON_CONTAINER_TRUNCATED),
    container.TrailingData: Row(_INVALID, error_reason_pb2.ERROR_REASON_CONTAINER_TRAILING_DATA),
    container.UnsupportedFormat: Row(_INVALID, error_reason_pb2.ERROR_REASON_CONTAINER_UNSUPPORTED),
    container.LimitExceeded: Row(_INVALID, error_reason_pb2.ERROR_REASON_CONTAINER_LIMIT_EXCEEDED),
    container.EncryptionLimitExceeded: Row(_INVALID, error_reason_pb2.ERROR_REASON_CONTAINER_LIMIT_EXCEEDED),
    container.ContainerError: Row(_INVALID, error_reason_pb2.ERROR_REASON_CONTAINER_INVALID),
}


def to_status(error: Exception) -> status_pb2.Status:
    """The status, with all its details, that tells a caller of an error.

    An error that is not in the table is a defect of ours: the caller gets a fixed text and an id, and our log the rest.
    """
    row = next((row for kind, row in TABLE.items() if isinstance(error, kind)), None)
    if row is None:
        error_id = secrets.token_hex(8)
        _log.error("error %s", error_id, exc_info=error)
        return _status(
            grpc.StatusCode.INTERNAL,
            f"internal error {error_id}: the server's log has the details",
            _info(error_reason_pb2.ERROR_REASON_INTERNAL, {"error_id": error_id}),
        )
    details = [_info(row.reason, {name: str(getattr(error, name)) for name in row.metadata})]
    violations = [error] if isinstance(error, errors.InvalidRequest) else getattr(error, "violations", [])
    if violations:
        bad = error_details_pb2.BadRequest()
        for violation in violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        details.append(_packed(bad))
    if row.retry:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1000 * getattr(error, "retry_seconds", RETRY_AFTER_SECONDS)))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return _status(row.code, str(error), *details)


async def abort(context: grpc.aio.ServicerContext[bytes, bytes], error: Exception) -> NoReturn:
    """End the call with the status of ``error``, which is then nobody else's to read."""
    status = rpc_status.to_status(to_status(error))
    _forget_the_way(error)
    await context.abort(status.code, status.details, status.trailing_metadata)


def _forget_the_way(error: BaseException) -> None:
    """Let go of the frames that an error, and those behind it, went through.

    What grpc.aio raises to end a call closes a circle, and refers to this error: the request, and whatever else these
    frames have, would stay in memory until Python's collector comes by.
    """
    known, left = set[int](), [error]
    while left:
        one = left.pop()
        if id(one) in known:
            continue
        known.add(id(one))
        one.__traceback__ = None
        left += [behind for behind in (one.__cause__, one.__context__) if behind is not None]


def _status(code: grpc.StatusCode, message: str, *details: any_pb2.Any) -> status_pb2.Status:
    return status_pb2.Status(code=code.value[0], message=message, details=details)


def _info(reason: Reason, metadata: Mapping[str, str]) -> any_pb2.Any:
    name = error_reason_pb2.ErrorReason.Name(reason).removeprefix(REASON_PREFIX)
    return _packed(error_details_pb2.ErrorInfo(reason=name, domain=ERROR_DOMAIN, metadata=metadata))


def _packed(detail: object) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]
    return packed
