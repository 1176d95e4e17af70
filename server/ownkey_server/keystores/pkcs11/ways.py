"""The two ways in which a token wraps a data key, as a wrapped key names them. docs/key-stores.md has the formats."""

from __future__ import annotations

from collections.abc import Mapping

from ownkey.container.raw_aes import TAG_LENGTH
from ownkey_server.keystores.base import DATA_KEY_LENGTH

GCM_PROVIDER_ID = "ownkey-pkcs11"
KEY_WRAP_PROVIDER_ID = "ownkey-pkcs11-kw"
CONTEXT_HASH_LENGTH = 32
LENGTH_OF: Mapping[str, int] = {
    GCM_PROVIDER_ID: DATA_KEY_LENGTH + TAG_LENGTH,
    KEY_WRAP_PROVIDER_ID: DATA_KEY_LENGTH + CONTEXT_HASH_LENGTH + 8,  # RFC 3394 adds eight bytes
}
