"""The container: encrypted objects in the AWS Encryption SDK message format, version 2, in a narrower profile.

Push-based and bounded: an :class:`Encryptor` or :class:`Decryptor` takes pieces of any size and holds at most a frame.
docs/formats.md describes every byte; what is written here, other vendors' libraries read.
"""

from ownkey.container.branch import (
    BRANCH_PROVIDER_ID,
    branch_id_of,
    new_branch_id,
    unwrap_with_branch_key,
    wrap_with_branch_key,
)
from ownkey.container.context import serialize_context
from ownkey.container.decryptor import Decryptor
from ownkey.container.derivation import Buffer
from ownkey.container.encryptor import FRAME_LENGTH_DOCUMENT, FRAME_LENGTH_MEDIA, FRAME_LENGTH_VOICE, Encryptor
from ownkey.container.errors import (
    BranchEntryInvalid,
    CommitmentMismatch,
    ContainerError,
    EncryptionLimitExceeded,
    FrameOutOfOrder,
    FrameTampered,
    HeaderInvalid,
    HeaderTampered,
    LimitExceeded,
    RangeInvalid,
    TrailingData,
    Truncated,
    UnsupportedFormat,
)
from ownkey.container.header import DEFAULT_LIMITS, EncryptedDataKey, Header, HeaderReader, ReaderLimits
from ownkey.container.range_stream import ByteSpan, RangeStream
from ownkey.container.ranges import RangeDecryptor
from ownkey.container.raw_aes import parse_raw_aes_provider_info, raw_aes_provider_info

__all__ = [
    "BRANCH_PROVIDER_ID",
    "DEFAULT_LIMITS",
    "FRAME_LENGTH_DOCUMENT",
    "FRAME_LENGTH_MEDIA",
    "FRAME_LENGTH_VOICE",
    "BranchEntryInvalid",
    "Buffer",
    "ByteSpan",
    "CommitmentMismatch",
    "ContainerError",
    "Decryptor",
    "EncryptedDataKey",
    "EncryptionLimitExceeded",
    "Encryptor",
    "FrameOutOfOrder",
    "FrameTampered",
    "Header",
    "HeaderInvalid",
    "HeaderReader",
    "HeaderTampered",
    "LimitExceeded",
    "RangeDecryptor",
    "RangeInvalid",
    "RangeStream",
    "ReaderLimits",
    "TrailingData",
    "Truncated",
    "UnsupportedFormat",
    "branch_id_of",
    "new_branch_id",
    "parse_raw_aes_provider_info",
    "raw_aes_provider_info",
    "serialize_context",
    "unwrap_with_branch_key",
    "wrap_with_branch_key",
]
