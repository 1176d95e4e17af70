"""What can go wrong, in the words of this product. ``rpc/errors.py`` alone turns these into gRPC statuses.

::

    OwnkeyError
    ├── InvalidRequest             the caller must change the request
    ├── Unauthenticated            nobody we know calls
    ├── PermissionDenied           no role of the caller allows it
    ├── TenantNotFound
    ├── KeyNotFound                no such key, or none of this tenant's keys made this ciphertext
    ├── PolicyDenied               the tenant's policy says no
    ├── UseRevoked                 the tenant has taken it back here
    ├── AssetMismatch              the ciphertext is another asset's than the one named
    ├── DeadlineExceeded           the caller's own time was up first: nothing else is said
    ├── ServiceImpaired            this service lacks something of its own
    │   ├── DatabaseUnavailable    its database does not answer
    │   ├── ViewStale              what it knows of a tenant, or its callers, is too old to decide by
    │   ├── IssuerUnreachable      it cannot verify an issuer's tokens
    │   └── AuditUnavailable       nothing is done that cannot be recorded
    ├── TooMuch                    more was asked for than is done at the moment: later it will be
    │   ├── Overloaded             this server has more work than it can do in time
    │   └── RateLimited            this caller, or this tenant, asks more often than it may
    ├── AdministrationError        a change that an administrator asked for is not possible
    │   ├── ResourceNotFound
    │   ├── ResourceExists
    │   ├── ResourceInUse          something depends on it
    │   ├── EtagMismatch           somebody else changed it in the meantime
    │   ├── ApprovalRequired       a second person must agree first
    │   ├── ApprovalInvalid        what is named as their agreement is none
    │   └── EnrolmentFailed        a key was tried, and does not do what a customer key must
    └── KeyStoreError              a customer key could not be used
        ├── KeyRevoked             a deliberate act of the key's holder
        ├── KeyUnreachable         an outage: nobody decided anything
        ├── KeyStoreThrottled      too busy at the moment
        ├── KeyMisconfigured       it never worked, or our own permission is at fault
        │   ├── StoreMisconfigured our own credentials or settings alone are at fault, whichever key it is
        │   ├── KeyExists          one is to be made, and there is one of that name
        │   └── KeyAbsent          its holder names one that is not there
        ├── KeyExhausted           it has wrapped as often as is safe
        ├── CiphertextInvalid      not made by this key under this context, or changed since
        └── OperationUnsupported   this key store or token cannot do that
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class OwnkeyError(Exception):
    """Root of all errors that a caller may see. The message never holds a secret.

    Attributes:
        reason: What callers and the audit trail know the error by.
        refusal: Whether it says no to the caller, rather than that something does not work.
    """

    reason: ClassVar[str] = ""
    refusal: ClassVar[bool] = False


class InvalidRequest(OwnkeyError):
    """A value of the request is wrong.

    Attributes:
        field: Path of the field in the request message, such as ``asset.asset_id``; empty for the message as a whole.
    """

    reason = "INVALID_FIELD"
    refusal = True

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}" if field else description)
        self.field = field
        self.description = description


class Unauthenticated(OwnkeyError):
    """The caller showed nothing that says who it is, or something that does not hold."""

    reason = "UNAUTHENTICATED"
    refusal = True


class PermissionDenied(OwnkeyError):
    """No role of the caller allows this. The message is the same whether there is such a tenant or not."""

    reason = "PERMISSION_DENIED"
    refusal = True

    def __init__(self, principal: str, method: str, about: str = "") -> None:
        what = f"{method} for {about}" if about else method
        super().__init__(f"no role of {principal!r} allows {what}")
        self.principal = principal
        self.method = method


class TenantNotFound(OwnkeyError):
    """No tenant of that id is known here."""

    reason = "TENANT_NOT_FOUND"
    refusal = True

    def __init__(self, tenant: str) -> None:
        super().__init__(f"tenant {tenant!r} is not known to this server")
        self.tenant = tenant


class KeyNotFound(OwnkeyError):
    """The tenant has no such key, or no key of the tenant made the given ciphertext."""

    reason = "KEY_NOT_FOUND"
    refusal = True

    def __init__(self, tenant: str, what: str) -> None:
        super().__init__(f"tenant {tenant!r}: {what}")
        self.tenant = tenant


class PolicyDenied(OwnkeyError):
    """The tenant's policy denies this asset.

    Attributes:
        rule: Name of the rule that decided.
    """

    reason = "POLICY_DENIED"
    refusal = True

    def __init__(self, tenant: str, rule: str, explanation: str) -> None:
        super().__init__(f"policy of tenant {tenant!r} denies this asset: {explanation}")
        self.tenant = tenant
        self.rule = rule


class UseRevoked(OwnkeyError):
    """The tenant has taken back what is asked for; its key store was not asked.

    Attributes:
        revocation: Id of the revocation.
    """

    reason = "KEY_REVOKED"
    refusal = True

    def __init__(self, tenant: str, revocation: str, why: str) -> None:
        super().__init__(f"tenant {tenant!r} has revoked this" + (f": {why}" if why else ""))
        self.tenant = tenant
        self.revocation = revocation


class AssetMismatch(OwnkeyError):
    """The ciphertext belongs to another asset than the one that the request names."""

    reason = "ASSET_MISMATCH"
    refusal = True

    def __init__(self, tenant: str, pair: str) -> None:
        super().__init__(f"this is not the asset that the request names: the pair {pair!r} of its context differs")
        self.tenant = tenant
        self.pair = pair


class DeadlineExceeded(OwnkeyError):
    """The caller's own deadline came first. It says nothing of a key, a key store or this service's database."""

    reason = "DEADLINE_EXCEEDED"


class ServiceImpaired(OwnkeyError):
    """This service lacks something of its own, and so does nothing: the doubt is never the customer's loss."""


class DatabaseUnavailable(ServiceImpaired):
    """The database does not answer, or not in time.

    Attributes:
        cause: What the driver said, in one line. It may name hosts and files, and so is not for callers.
    """

    reason = "DATABASE_UNAVAILABLE"

    def __init__(self, cause: str) -> None:
        super().__init__("the service's database does not answer")
        self.cause = cause


class ViewStale(ServiceImpaired):
    """The database has been away for so long that what is known of the tenant, or of callers, may be wrong."""

    reason = "VIEW_STALE"

    def __init__(self, tenant: str, age: float) -> None:
        whom = f"tenant {tenant!r}" if tenant else "its callers"
        super().__init__(f"what this service knows of {whom} is {age:.0f} s old, and its database does not answer")
        self.tenant = tenant
        self.age = age


class IssuerUnreachable(ServiceImpaired):
    """The keys by which an issuer's tokens are verified are not known, or were not confirmed for too long."""

    reason = "ISSUER_UNREACHABLE"

    def __init__(self, issuer: str) -> None:
        super().__init__(f"the keys of issuer {issuer!r} cannot be had, so its tokens cannot be verified")
        self.issuer = issuer


class AuditUnavailable(ServiceImpaired):
    """The audit record cannot be made durable, so that the call must not succeed."""

    reason = "AUDIT_UNAVAILABLE"

    def __init__(self, why: str) -> None:
        super().__init__(f"the audit record cannot be written: {why}; nothing is done that is not recorded")


class TooMuch(OwnkeyError):
    """More was asked for than is done at the moment. Nothing was done; the same call may be made again later.

    Attributes:
        retry_seconds: When to try again, in seconds from now.
    """

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(f"{message}; try again in {retry_seconds:.3g} s")
        self.retry_seconds = retry_seconds


class Overloaded(TooMuch):
    """This server has more work than it can do in time, and the call's priority was the lowest that waited.

    Attributes:
        priority: The call's priority, such as ``background``.
    """

    reason = "SERVER_OVERLOADED"

    def __init__(self, priority: str, why: str, retry_seconds: float) -> None:
        super().__init__(f"this server is too busy for {priority} work: {why}", retry_seconds)
        self.priority = priority


class RateLimited(TooMuch):
    """This caller, or this tenant, asks more often than it may.

    Attributes:
        limited: Whose rate it is: ``principal`` or ``tenant``.
        per_second: The rate.
    """

    reason = "RATE_LIMITED"
    refusal = True

    def __init__(self, limited: str, name: str, per_second: float, retry_seconds: float) -> None:
        super().__init__(f"{limited} {name!r} may make {per_second:g} calls a second", retry_seconds)
        self.limited = limited
        self.per_second = per_second


class AdministrationError(OwnkeyError):
    """A change that an administrator asked for is not possible as things are.

    Attributes:
        resource: Name of what it is about, such as ``tenants/acme/groups/finance``.
    """

    refusal = True

    def __init__(self, resource: str, message: str) -> None:
        super().__init__(f"{resource}: {message}")
        self.resource = resource


class ResourceNotFound(AdministrationError):
    """There is no such thing."""

    reason = "RESOURCE_NOT_FOUND"

    def __init__(self, resource: str, there_are: Sequence[str] = ()) -> None:
        known = f"; there are: {', '.join(there_are)}" if there_are else ""
        super().__init__(resource, f"there is none of that name{known}")


class ResourceExists(AdministrationError):
    """There is one already."""

    reason = "RESOURCE_EXISTS"


class ResourceInUse(AdministrationError):
    """Something depends on it, or its present state does not allow the change."""

    reason = "RESOURCE_IN_USE"


class EtagMismatch(AdministrationError):
    """Somebody else changed it since it was read. Read it again, and decide anew."""

    reason = "ETAG_MISMATCH"

    def __init__(self, resource: str) -> None:
        super().__init__(resource, "it was changed since you read it: read it again, and decide anew")


class ApprovalRequired(AdministrationError):
    """A second person must agree first: the change waits for that.

    Attributes:
        approval: Id of the approval that now waits.
    """

    reason = "APPROVAL_REQUIRED"

    def __init__(self, resource: str, approval: str, *, changed: bool = False) -> None:
        why = "what this does has changed since it was approved, and " if changed else ""
        super().__init__(
            resource, f"{why}a second person must approve this change; then repeat it with the approval {approval}"
        )
        self.approval = approval


class TooManyWaiting(AdministrationError):
    """Too many changes wait for a second person already."""

    reason = "APPROVALS_FULL"

    def __init__(self, resource: str, why: str) -> None:
        super().__init__(
            resource,
            f"{why} for a second person: have them approved and make them, or withdraw what is not wanted any more"
            " (ownkey admin approval list, withdraw)",
        )


class ApprovalInvalid(AdministrationError):
    """What is named as a second person's agreement is none.

    Attributes:
        approval: Its id.
    """

    reason = "APPROVAL_INVALID"

    def __init__(self, resource: str, approval: str, why: str) -> None:
        super().__init__(resource, f"approval {approval} {why}")
        self.approval = approval


class EnrolmentFailed(AdministrationError):
    """A key was tried by wrapping and unwrapping, and is not fit to protect anything.

    Attributes:
        replica: Name of the key store concerned.
        cause: What was observed.
    """

    reason = "ENROLMENT_FAILED"

    def __init__(self, resource: str, replica: str, reference: str, cause: str) -> None:
        super().__init__(resource, f"key {reference!r} of key store {replica!r} cannot be used: {cause}")
        self.replica = replica
        self.cause = cause


class KeyStoreError(OwnkeyError):
    """A customer key could not be used.

    Args:
        replica: Name of the key store concerned, as in the settings.
        key: The key's reference in that store (a label, a file name, an ARN).
        cause: What was observed, in a few words, without secrets and without vendor text.
        request_id: The key store's own id of the operation that failed; empty where it gives none.
    """

    def __init__(self, replica: str, key: str, cause: str, *, request_id: str = "") -> None:
        super().__init__(f"key store {replica!r}, key {key!r}: {cause}")
        self.replica = replica
        self.key = key
        self.cause = cause
        self.request_id = request_id


class KeyRevoked(KeyStoreError):
    """The holder of the key took it away: disabled it, destroyed it, or withdrew the right to use it."""

    reason = "KEY_REVOKED"
    refusal = True


class KeyUnreachable(KeyStoreError):
    """The key store does not answer, or its token is absent. Nobody decided anything."""

    reason = "KEY_UNREACHABLE"


class KeyStoreThrottled(KeyStoreError):
    """The key store works but is too busy to take this call now.

    Attributes:
        ours: Whether a bound of this server's own, or the caller's time, kept the key store from saying anything. Only
            what it said itself shows that it is there.
    """

    reason = "KEY_STORE_THROTTLED"

    def __init__(self, replica: str, key: str, cause: str, *, request_id: str = "", ours: bool = False) -> None:
        super().__init__(replica, key, cause, request_id=request_id)
        self.ours = ours


# Told where a key of the right name is another than it was; activation is the one way to mean another.
ANOTHER_KEY_REMEDY = "put that one back or, if this one is meant, have the key activated, which proves it anew"


class KeyMisconfigured(KeyStoreError):
    """The key never worked, or our own credentials or permissions are at fault."""

    reason = "KEY_MISCONFIGURED"


class StoreMisconfigured(KeyMisconfigured):
    """Our own credentials or settings are at fault, whichever key it is: nothing is said of the key or its holder."""


class KeyExists(KeyMisconfigured):
    """A key is to be made, and there is one of that name. None is ever overwritten."""


class KeyAbsent(KeyMisconfigured):
    """The holder of a key store names a key that is not in it."""


class KeyExhausted(KeyStoreError):
    """The key has wrapped as often as a key may with random nonces (SP 800-38D, section 8.3). It still opens."""

    reason = "KEY_EXHAUSTED"


class CiphertextInvalid(KeyStoreError):
    """Wrong key, wrong context or changed bytes: one answer for all three, so that it is no oracle.

    It says nothing about the key's state: a forged ciphertext is not an outage.
    """

    reason = "CIPHERTEXT_INVALID"
    refusal = True


class OperationUnsupported(KeyStoreError):
    """The key store or token cannot do what was asked, whatever its state."""

    reason = "KEY_STORE_UNSUPPORTED"
