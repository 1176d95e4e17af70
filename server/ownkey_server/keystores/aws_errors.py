"""What each error of AWS KMS means (docs/aws.md has the table)."""

from __future__ import annotations

from collections.abc import Mapping

from botocore.exceptions import BotoCoreError, ClientError

from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
)

MEANINGS: Mapping[str, tuple[type[KeyStoreError], str]] = {
    "DisabledException": (KeyRevoked, "the key is disabled"),
    "NotFoundException": (KeyMisconfigured, "AWS KMS has no such key"),
    "ThrottlingException": (KeyStoreThrottled, "AWS KMS has too many calls of ours"),
    "InvalidCiphertextException": (CiphertextInvalid, "wrong key, wrong encryption context, or changed bytes"),
    "IncorrectKeyException": (CiphertextInvalid, "wrong key, wrong encryption context, or changed bytes"),
    "AccessDeniedException": (KeyMisconfigured, "AWS KMS denies us the key"),
}


def meaning(replica: str, key: str, error: ClientError | BotoCoreError) -> KeyStoreError:
    """The error in our own words."""
    if isinstance(error, ClientError):
        kind, cause = MEANINGS.get(error.response["Error"]["Code"], (KeyUnreachable, "AWS KMS answered an error"))
        return kind(replica, key, cause)
    return KeyUnreachable(replica, key, "AWS KMS does not answer")
