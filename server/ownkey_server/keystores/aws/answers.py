"""What AWS answered, in a line, and what to do about it: for those who check a key, and do not use it."""

from __future__ import annotations

from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from ownkey_server.domain.errors import KeyMisconfigured, KeyStoreError
from ownkey_server.keystores.aws import denials
from ownkey_server.keystores.aws import errors as aws_errors
from ownkey_server.keystores.aws.findings import Finding, Outcome

DENIED = aws_errors.KEY_DENIED
_LONGEST_MESSAGE = 300
_WAY = "see endpoint_url of the key store, and this machine's way there: proxy, firewall, VPC endpoint"
STATES = {
    "Disabled": "enable it: aws kms enable-key",
    "PendingDeletion": "it will be deleted: aws kms cancel-key-deletion, then enable-key",
    "PendingReplicaDeletion": "it will be deleted after its replicas: aws kms cancel-key-deletion, then enable-key",
    "PendingImport": "import its key material, into each region: aws kms import-key-material",
    "Unavailable": "connect its custom key store: aws kms connect-custom-key-store",
    "Creating": "wait until AWS has made it",
}


def code(error: Exception) -> str:
    """AWS's code of an error; empty where AWS did not answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def by_our_fault(error: Exception) -> str:
    """What is wrong with our own credentials or configuration, as the server says it; empty where nothing is."""
    row = aws_errors.by_exception(error) if isinstance(error, BotoCoreError) else aws_errors.by_code(code(error))
    return row.cause if issubclass(row.kind, KeyMisconfigured) else ""


def say(error: Exception, service: str = "KMS") -> str:
    """An error in a line; ``service`` is who did not answer, where nobody did."""
    if isinstance(error, ClientError):
        message = str(error.response.get("Error", {}).get("Message", ""))[:_LONGEST_MESSAGE]
        return f"{code(error)}: {message}" if message else code(error)
    if isinstance(error, KeyStoreError):
        return error.cause
    cause = aws_errors.by_exception(error).cause
    told = getattr(error, "kwargs", {})
    if told.get("endpoint_url"):
        return f"{cause} ({_which(str(told['endpoint_url']), service)})"
    return f"{cause} ({told['cred_var']})" if told.get("cred_var") else cause


def _which(url: str, service: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    # Credentials may come from STS, and then it is what does not answer when KMS is called.
    named = "STS" if host.startswith("sts.") or ".sts." in host else service
    return f"{named} at {parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}"


def advice(error: Exception, action: str, *, by_role: bool, otherwise: str = "") -> str:
    """What to do about an error.

    Args:
        error: What AWS answered, or why it did not.
        action: The permission that was needed.
        by_role: Whether the call was made as a role of the customer's.
        otherwise: What else than the tenant's context to allow it with.
    """
    if code(error) == DENIED:
        ours = by_our_policy(error, by_role=by_role)
        if ours:
            return f"{ours} ({action})"
        return otherwise or (
            f"allow {action} with the tenant's context: put the policy that `ownkey aws key-policy` prints"
        )
    if code(error) == "DisabledException":
        return STATES["Disabled"]
    if isinstance(error, ClientError):
        return by_our_fault(error)
    return _WAY if getattr(error, "kwargs", {}).get("endpoint_url") else ""


def by_our_policy(error: Exception, *, by_role: bool) -> str:
    """The policy of our own by which AWS says that it denies us, as the server says it; empty where it names none."""
    if not isinstance(error, ClientError):
        return ""
    when = denials.by_ours(str(error.response.get("Error", {}).get("Message", "")), by_role=by_role)
    return "" if when is None else aws_errors.by_code(code(error), when).cause


def may_not_look(place: str, check: str, error: Exception, action: str) -> Finding:
    """A check that needs a permission which ownkey itself does not."""
    if code(error) == DENIED:
        seen = f"not known: we may not look ({action})"
        return Finding(place, check, Outcome.WARN, seen, "look yourself, or print the policy with --inspect")
    return Finding(place, check, Outcome.WARN, f"not known: {say(error)}")


def require(place: str, check: str, good: bool, seen: str, advice: str) -> Finding:
    """A check that must hold."""
    return Finding(place, check, Outcome.PASS if good else Outcome.FAIL, seen, "" if good else advice)
