"""Keys as the fake of AWS KMS has them: one object a region, with a state and a policy of its own; material is shared.

Written from AWS's documentation: the KMS API Reference, and of the Developer Guide "Key states of AWS KMS keys",
"Multi-Region keys" and "Importing key material".
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_BLOB = b"\x01\x02\x02\x00"
_ID_LENGTH = 36


class AwsError(Exception):
    """An answer that says no, by AWS's own code."""

    def __init__(self, code: str, message: str = "", status: int = 0) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.status = status or _STATUS.get(code, 400)


_STATUS = {
    "AccessDenied": 403,
    "KMSInternalException": 500,
    "KeyUnavailableException": 500,
    "InternalFailure": 500,
    "DependencyTimeoutException": 503,
    "ServiceUnavailable": 503,
    "DryRunOperationException": 412,
}


@dataclass
class Material:
    """What all related keys share. Rotations are appended; the last one wraps."""

    key_id: str
    versions: list[bytes] = field(default_factory=list)

    def wrap(self, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        number = len(self.versions) - 1
        header = _BLOB + self.key_id.encode() + number.to_bytes(2, "big")
        nonce = os.urandom(12)
        return header + nonce + AESGCM(self.versions[number]).encrypt(nonce, plaintext, header + canonical(context))

    def unwrap(self, blob: bytes, context: Mapping[str, str]) -> bytes:
        at = len(_BLOB) + _ID_LENGTH
        header, number = blob[: at + 2], int.from_bytes(blob[at : at + 2], "big")
        if number >= len(self.versions) or len(blob) < at + 2 + 12 + 16:
            raise AwsError("InvalidCiphertextException")
        nonce, sealed = blob[at + 2 : at + 14], blob[at + 14 :]
        try:
            return AESGCM(self.versions[number]).decrypt(nonce, sealed, header + canonical(context))
        except InvalidTag:
            raise AwsError("InvalidCiphertextException") from None


def key_id_of(blob: bytes) -> str:
    """The id of the key that a blob says made it."""
    named = blob[len(_BLOB) : len(_BLOB) + _ID_LENGTH]
    if not blob.startswith(_BLOB) or len(named) < _ID_LENGTH:
        raise AwsError("InvalidCiphertextException")
    return named.decode("latin-1")


def canonical(context: Mapping[str, str]) -> bytes:
    """The encryption context as bytes, whatever its order."""
    return json.dumps(sorted(context.items()), ensure_ascii=True).encode()


@dataclass
class FakeKey:
    """A key in one region."""

    region: str
    account: str
    material: Material
    origin: str = "AWS_KMS"
    spec: str = "SYMMETRIC_DEFAULT"
    usage: str = "ENCRYPT_DECRYPT"
    state: str = "Enabled"
    policy: dict[str, Any] | None = None
    primary_region: str = ""
    rotation: bool = False
    valid_to: float | None = None
    deletion_date: float | None = None
    # What the proxy of an external key store says; None when it serves.
    xks_message: str | None = None

    @property
    def key_id(self) -> str:
        return self.material.key_id

    @property
    def arn(self) -> str:
        return f"arn:aws:kms:{self.region}:{self.account}:key/{self.key_id}"

    @property
    def multi_region(self) -> bool:
        return self.key_id.startswith("mrk-")

    def expire(self) -> None:
        """Let imported material go when its time has come."""
        if self.valid_to is not None and time.time() >= self.valid_to and self.state in {"Enabled", "Disabled"}:
            self.state = "PendingImport"

    def require_usable(self) -> None:
        """Refuse as KMS does in every state but Enabled and Updating."""
        self.expire()
        if self.usage != "ENCRYPT_DECRYPT" or self.spec != "SYMMETRIC_DEFAULT":
            raise AwsError("InvalidKeyUsageException", f"{self.arn} key usage is {self.usage}.")
        if self.state == "Disabled":
            raise AwsError("DisabledException", f"{self.arn} is disabled.")
        if self.state in _REFUSING:
            raise AwsError("KMSInvalidStateException", f"{self.arn} {_REFUSING[self.state]}.")
        if self.xks_message is not None:
            raise AwsError("KMSInvalidStateException", self.xks_message)

    def metadata(self, regions: list[str]) -> dict[str, Any]:
        """What DescribeKey answers."""
        self.expire()
        shown: dict[str, Any] = {
            "AWSAccountId": self.account,
            "KeyId": self.key_id,
            "Arn": self.arn,
            "CreationDate": 1_700_000_000.0,
            "Enabled": self.state == "Enabled",
            "Description": "",
            "KeyUsage": self.usage,
            "KeyState": self.state,
            "Origin": self.origin,
            "KeyManager": "CUSTOMER",
            "CustomerMasterKeySpec": self.spec,
            "KeySpec": self.spec,
            "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
            "MultiRegion": self.multi_region,
        }
        if self.origin == "EXTERNAL" and self.state != "PendingImport":
            shown["ExpirationModel"] = (
                "KEY_MATERIAL_DOES_NOT_EXPIRE" if self.valid_to is None else "KEY_MATERIAL_EXPIRES"
            )
            if self.valid_to is not None:
                shown["ValidTo"] = self.valid_to
        if self.deletion_date is not None:
            shown["DeletionDate"] = self.deletion_date
        if self.multi_region:

            def one(region: str) -> dict[str, str]:
                return {"Arn": f"arn:aws:kms:{region}:{self.account}:key/{self.key_id}", "Region": region}

            shown["MultiRegionConfiguration"] = {
                "MultiRegionKeyType": "PRIMARY" if self.region == self.primary_region else "REPLICA",
                "PrimaryKey": one(self.primary_region),
                "ReplicaKeys": [one(region) for region in regions if region != self.primary_region],
            }
        return shown


_REFUSING = {
    "PendingDeletion": "is pending deletion",
    "PendingReplicaDeletion": "is pending replica deletion",
    "PendingImport": "is pending import",
    "Unavailable": "is unavailable",
    "Creating": "is creating",
}


def new_key_id(*, multi_region: bool) -> str:
    """An id as KMS gives them."""
    return f"mrk-{uuid.uuid4().hex}" if multi_region else str(uuid.uuid4())
