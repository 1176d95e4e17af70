"""Amazon's own library, with a raw AES master key: what it writes and reads is the measure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import aws_encryption_sdk
from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy, EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.raw import RawMasterKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ownkey.container import (
    EncryptedDataKey,
    parse_raw_aes_provider_info,
    raw_aes_provider_info,
    serialize_context,
)
from ownkey.container.raw_aes import IV_LENGTH

PROVIDER_ID = "ownkey-embedded"
KEY_NAME = "acme-main"


def master_key(key: bytes) -> RawMasterKey:
    wrapping_key = WrappingKey(WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING, key, EncryptionKeyType.SYMMETRIC)
    return RawMasterKey(provider_id=PROVIDER_ID, key_id=KEY_NAME, wrapping_key=wrapping_key)


def client() -> aws_encryption_sdk.EncryptionSDKClient:
    return aws_encryption_sdk.EncryptionSDKClient(commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)


def encrypt(key: bytes, content: bytes, context: Mapping[str, str], frame_length: int) -> bytes:
    message, _ = client().encrypt(
        source=content,
        key_provider=master_key(key),
        encryption_context=dict(context),
        algorithm=Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
        frame_length=frame_length,
    )
    return bytes(message)


def decrypt(key: bytes, message: bytes) -> tuple[bytes, dict[str, str]]:
    content, header = client().decrypt(source=message, key_provider=master_key(key))
    return bytes(content), dict(header.encryption_context)


def wrap(key: bytes, data_key: bytes, context: Mapping[str, str]) -> EncryptedDataKey:
    """What ownkey's AES-GCM key stores do."""
    iv = secrets.token_bytes(IV_LENGTH)
    wrapped = AESGCM(key).encrypt(iv, data_key, serialize_context(context))
    return EncryptedDataKey(PROVIDER_ID, raw_aes_provider_info(KEY_NAME, iv), wrapped)


def unwrap(key: bytes, entry: EncryptedDataKey, context: Mapping[str, str]) -> bytes:
    iv = parse_raw_aes_provider_info(entry.provider_info, KEY_NAME)
    assert iv is not None
    return AESGCM(key).decrypt(iv, entry.ciphertext, serialize_context(context))
