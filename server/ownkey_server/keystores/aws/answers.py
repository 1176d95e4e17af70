"""What AWS answered, in a line, and what to do about it: for those who check a key, and do not use it."""

from __future__ import annotations

from botocore.exceptions import ClientError

from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.keystores.aws.findings import Finding, Outcome

DENIED = "AccessDeniedException"
_LONGEST_MESSAGE = 300
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


def say(error: Exception) -> str:
    """An error in a line."""
    if isinstance(error, ClientError):
        message = str(error.response.get("Error", {}).get("Message", ""))[:_LONGEST_MESSAGE]
        return f"{code(error)}: {message}" if message else code(error)
    if isinstance(error, KeyStoreError):
        return error.cause
    return f"no answer ({type(error).__name__})"


def advice(error: Exception, action: str) -> str:
    """What to do about an error; ``action`` is the permission that was needed."""
    if code(error) == DENIED:
        wanted = f"allow {action} " if action else "allow it "
        return f"{wanted}with the tenant's context: put the policy that `ownkey aws key-policy` prints"
    return STATES["Disabled"] if code(error) == "DisabledException" else ""


def may_not_look(place: str, check: str, error: Exception, action: str) -> Finding:
    """A check that needs a permission which ownkey itself does not."""
    if code(error) == DENIED:
        seen = f"not known: we may not look ({action})"
        return Finding(place, check, Outcome.WARN, seen, "look yourself, or print the policy with --inspect")
    return Finding(place, check, Outcome.WARN, f"not known: {say(error)}")


def require(place: str, check: str, good: bool, seen: str, advice: str) -> Finding:
    """A check that must hold."""
    return Finding(place, check, Outcome.PASS if good else Outcome.FAIL, seen, "" if good else advice)
