"""Receipts of revocations, checked without any server: by the public key of the audit trail alone.

A receipt is a file of JSON: ``description``, the receipt itself as a text, and ``signature``. What it proves, and what
it does not, is in docs/revocation.md.
"""

from __future__ import annotations

import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ownkey.v1 import revocation_pb2

FORMAT = 1
_STATEMENT = b"ownkey revocation receipt v1\0"
_PROVED = frozenset({"in_force", "since_start", "stopped"})


class ReceiptInvalid(ValueError):
    """It is no receipt that a key signed which is trusted. The message says what is wrong."""


def receipt_file(receipt: revocation_pb2.RevocationReceipt) -> bytes:
    """A receipt as the file that is kept and sent."""
    fields = {"description": receipt.description, "signature": receipt.signature.hex()}
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def verify_receipt(file: bytes, public_key: bytes) -> dict[str, Any]:
    """Check a receipt's signature, and that it says no more than it shows; gives what it says.

    Args:
        file: The receipt.
        public_key: PEM of the audit trail's public key. Have it from whoever runs the service by another way than the
            receipt.

    Raises:
        ReceiptInvalid: It is no receipt, another key signed it, or it claims what it does not show.
    """
    try:
        key = load_pem_public_key(public_key)
    except ValueError:
        raise ReceiptInvalid("the public key is no public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ReceiptInvalid("the public key is no Ed25519 key")
    try:
        fields = json.loads(file)
        description, signature = fields["description"].encode(), bytes.fromhex(fields["signature"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ReceiptInvalid('a receipt is a JSON object with "description" and "signature"') from None
    try:
        key.verify(signature, _STATEMENT + description)
    except InvalidSignature:
        raise ReceiptInvalid("its signature is not of this key, or it was changed") from None
    said: dict[str, Any] = json.loads(description)
    if said.get("format") != FORMAT:
        raise ReceiptInvalid(f"it is of format {said.get('format')}, and this program reads {FORMAT}")
    if said["complete"] is not all(map(_is_proved, said["instances"])):
        raise ReceiptInvalid("it is signed, but claims to be complete when it is not")
    return said


def _is_proved(instance: dict[str, Any]) -> bool:
    return instance["standing"] in _PROVED and not instance.get("served_after")
