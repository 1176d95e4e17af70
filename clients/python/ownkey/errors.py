"""What can go wrong, as the SDK raises it.

::

    OwnkeyError                 reason, hint, retry_after; also for reasons that this version does not know
    ├── InvalidRequest          change the request; ``violations`` names the fields
    ├── NotFound                no such tenant, or no key of the tenant made this ciphertext
    ├── NotAuthenticated        the service does not know who calls
    ├── PermissionDenied        no role of the caller allows it
    ├── PolicyDenied            the tenant's policy says no
    ├── KeyRevoked              the holder of the key took it away
    ├── KeyUnreachable          the key store does not answer: retry later
    ├── KeyMisconfigured        the key never worked, or the service's permission is at fault
    ├── CiphertextInvalid       the object or wrapped key is damaged, forged, or another asset's
    ├── AlreadyExists           there is one of that name
    ├── InUse                   something depends on it, or its state does not allow the change
    ├── Conflict                somebody else changed it since it was read
    ├── ApprovalRequired        a second person must agree first
    ├── EnrolmentFailed         a key was tried, and does not do what a customer key must
    ├── TooMuch                 asked too often, or of a service that is too busy: retry later
    ├── ServiceImpaired         the service lacks its database: retry later
    ├── ServiceUnavailable      the service itself does not answer: retry later
    └── ServiceFailed           a defect of the service
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from ownkey.container import (
    ContainerError,
    EncryptionLimitExceeded,
    LimitExceeded,
    RangeInvalid,
    TrailingData,
    Truncated,
    UnsupportedFormat,
)
from ownkey.wrapped_key import WrappedKeyInvalid

ERROR_DOMAIN = "ownkey"


class OwnkeyError(Exception):
    """Root of all errors that a call of the SDK raises.

    Attributes:
        reason: The service's reason, such as ``KEY_REVOKED`` (see error_reason.proto); None when it gave none.
        hint: What to do about it, in a sentence; may be empty.
        retry_after: Seconds after which trying again may help; None when it does not.
        metadata: What the service says of the error besides: names, never secrets.
        violations: For each field of the request that is wrong, what is wrong with it.
    """

    hint = ""

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})
        self.violations = dict(violations or {})


class InvalidRequest(OwnkeyError):
    """A value of the request is wrong."""

    hint = "change what the message names"


class NotFound(OwnkeyError):
    """The service knows no such thing, or no key of the tenant made this ciphertext."""

    hint = "check the ids, and that the object or key is this tenant's"


class NotAuthenticated(OwnkeyError):
    """The service does not know who calls: there is no certificate and no token, or one that does not hold."""

    hint = "give your certificate (--tls-ca, --tls-cert, --tls-key) or token (--token-file), and see that it is valid"


class PermissionDenied(OwnkeyError):
    """No role of the caller allows this, whether there is such a thing or not."""

    hint = "an operator can grant a role: ownkey admin principal update"


class PolicyDenied(OwnkeyError):
    """The tenant's policy denies this asset."""

    hint = "`ownkey check` with the same facts tells which rule decides; the tenant's admin can change it"


class KeyRevoked(OwnkeyError):
    """The holder of the key took it away. Trying again does not help."""

    hint = "only the holder of the key can give it back; tell the tenant"


class KeyUnreachable(OwnkeyError):
    """The key store does not answer, or is too busy."""

    hint = "try again later; `ownkey status` tells the key's state"


class KeyMisconfigured(OwnkeyError):
    """The key never worked, or the service's own permission is at fault."""

    hint = "the operator of the service must look at its key store; `ownkey status` tells more"


class CiphertextInvalid(OwnkeyError):
    """The object or wrapped key is damaged, forged, cut off, or another asset's. Trying again does not help."""

    hint = "get the object again from where it is stored, and check tenant, class and asset id"


class AlreadyExists(OwnkeyError):
    """There is one of that name already."""

    hint = "take another id, or change what is there"


class InUse(OwnkeyError):
    """Something depends on it, or its present state does not allow the change."""

    hint = "change first what the message names"


class Conflict(OwnkeyError):
    """Somebody else changed it since it was read. Nothing was changed by this call."""

    hint = "read it again, and decide anew"


class ApprovalRequired(OwnkeyError):
    """A second person must agree first; ``metadata["approval"]`` is the id of what waits. Nothing was changed."""

    hint = "somebody else runs `ownkey admin approval approve ID`; then repeat this with --approval ID"


class EnrolmentFailed(OwnkeyError):
    """A key was tried by wrapping and unwrapping, and is not fit to protect anything. Nothing was changed."""

    hint = "put the key right in its key store, and try again"


class TooMuch(OwnkeyError):
    """The caller or the tenant asks too often, or the service has more to do than it can. Nothing was done."""

    hint = "try again later"


class ServiceImpaired(OwnkeyError):
    """The service runs, and lacks its database: it cannot look up, or not record, and so does nothing."""

    hint = "try again later; the operator of the service must look at its database"


class ServiceUnavailable(OwnkeyError):
    """The service does not answer, or not in time."""

    hint = "is the server running, is the address right, and does it want TLS (--tls-ca)? `ownkey serve` starts one"


class ServiceFailed(OwnkeyError):
    """A defect of the service; its log has the details."""

    hint = "report it with the id in the message"


KIND_OF_REASON: Mapping[str, type[OwnkeyError]] = {
    "INVALID_FIELD": InvalidRequest,
    "STREAM_PROTOCOL": InvalidRequest,
    "TENANT_NOT_FOUND": NotFound,
    "KEY_NOT_FOUND": NotFound,
    "UNAUTHENTICATED": NotAuthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "POLICY_DENIED": PolicyDenied,
    "KEY_REVOKED": KeyRevoked,
    "KEY_UNREACHABLE": KeyUnreachable,
    "KEY_STORE_THROTTLED": KeyUnreachable,
    "KEY_MISCONFIGURED": KeyMisconfigured,
    "KEY_STORE_UNSUPPORTED": KeyMisconfigured,
    "KEY_EXHAUSTED": KeyMisconfigured,
    "CIPHERTEXT_INVALID": CiphertextInvalid,
    "CONTAINER_UNSUPPORTED": CiphertextInvalid,
    "CONTAINER_INVALID": CiphertextInvalid,
    "CONTAINER_TRUNCATED": CiphertextInvalid,
    "CONTAINER_TRAILING_DATA": CiphertextInvalid,
    "CONTAINER_LIMIT_EXCEEDED": CiphertextInvalid,
    "ASSET_MISMATCH": CiphertextInvalid,
    "RANGE_INVALID": InvalidRequest,
    "INTERNAL": ServiceFailed,
    "AUDIT_UNAVAILABLE": ServiceImpaired,
    "DATABASE_UNAVAILABLE": ServiceImpaired,
    "VIEW_STALE": ServiceImpaired,
    "RESOURCE_NOT_FOUND": NotFound,
    "RESOURCE_EXISTS": AlreadyExists,
    "RESOURCE_IN_USE": InUse,
    "ETAG_MISMATCH": Conflict,
    "APPROVAL_REQUIRED": ApprovalRequired,
    "APPROVAL_INVALID": ApprovalRequired,
    "APPROVALS_FULL": InUse,
    "ENROLMENT_FAILED": EnrolmentFailed,
    "RATE_LIMITED": TooMuch,
    "SERVER_OVERLOADED": TooMuch,
    "STREAM_LIMIT": TooMuch,
    "ISSUER_UNREACHABLE": ServiceImpaired,
    "DEADLINE_EXCEEDED": ServiceUnavailable,
}
# The same reasons as the service gives; the first row whose type matches counts.
REASON_OF_CONTAINER_ERROR: Mapping[type[ContainerError], str] = {
    RangeInvalid: "RANGE_INVALID",
    Truncated: "CONTAINER_TRUNCATED",
    TrailingData: "CONTAINER_TRAILING_DATA",
    UnsupportedFormat: "CONTAINER_UNSUPPORTED",
    LimitExceeded: "CONTAINER_LIMIT_EXCEEDED",
    EncryptionLimitExceeded: "CONTAINER_LIMIT_EXCEEDED",
    WrappedKeyInvalid: "CIPHERTEXT_INVALID",
    ContainerError: "CONTAINER_INVALID",
}
_KIND_OF_CODE: Mapping[grpc.StatusCode, type[OwnkeyError]] = {
    grpc.StatusCode.UNAVAILABLE: ServiceUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: ServiceUnavailable,
    # Nobody here cancelled it: a server that is stopping ends so what has come too late.
    grpc.StatusCode.CANCELLED: ServiceUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: InvalidRequest,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
}
# What grpcio's asyncio client says when it overwrites the status that the service sent (grpc issue 36066).
_LOST_REASON = "Internal error from Core"
# What grpcio says of a call that this side has given up.
_GIVEN_UP = "Locally cancelled by application!"


def from_rpc_error(error: grpc.RpcError) -> OwnkeyError:
    """The error that a failed call means, from its status and details. For both kinds of client."""
    code = error.code()
    message = error.details() or code.name
    if message == _LOST_REASON:
        return OwnkeyError("the service ended the stream while it was being sent, and grpcio lost the reason")
    if message == _GIVEN_UP:
        return OwnkeyError("the stream was given up")
    reason, retry_after = None, None
    metadata: dict[str, str] = {}
    violations: dict[str, str] = {}
    for detail in _details(error):
        if isinstance(detail, error_details_pb2.ErrorInfo) and detail.domain == ERROR_DOMAIN:
            reason, metadata = detail.reason, dict(detail.metadata)
        elif isinstance(detail, error_details_pb2.RetryInfo):
            retry_after = detail.retry_delay.ToTimedelta().total_seconds()
        elif isinstance(detail, error_details_pb2.BadRequest):
            violations = {v.field: v.description for v in detail.field_violations}
    if reason is None:
        kind, message = _KIND_OF_CODE.get(code, OwnkeyError), _without_reason(code, message)
    else:
        kind = KIND_OF_REASON.get(reason, OwnkeyError)
    return kind(message, reason=reason, retry_after=retry_after, metadata=metadata, violations=violations)


def from_container_error(error: ContainerError) -> OwnkeyError:
    """The same for what the SDK itself found to be wrong with an object or range: as the service would have told it."""
    reason = next(reason for kind, reason in REASON_OF_CONTAINER_ERROR.items() if isinstance(error, kind))
    return KIND_OF_REASON[reason](str(error), reason=reason)


def _without_reason(code: grpc.StatusCode, message: str) -> str:
    """The transport's message, as somebody understands it who does not know gRPC."""
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return "the service did not answer in time"
        case grpc.StatusCode.UNAVAILABLE:
            return f"the service cannot be reached: {message}"
        case grpc.StatusCode.CANCELLED:
            return "the service ended the call: it may be stopping"
    return message


def _details(error: grpc.RpcError) -> list[object]:
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # the status in the trailers is another call's: believe the plain one
        return []
    if status is None:
        return []
    details = []
    for packed in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest):
            detail = kind()
            if packed.Unpack(detail):
                details.append(detail)
    return details
