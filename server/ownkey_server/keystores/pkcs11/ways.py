"""The ways in which a token wraps a data key, as a wrapped key names them. docs/key-stores.md has the formats."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ownkey.container.raw_aes import TAG_LENGTH
from ownkey_server.keystores.base import DATA_KEY_LENGTH

GCM_PROVIDER_ID = "ownkey-pkcs11"
KEY_WRAP_PROVIDER_ID = "ownkey-pkcs11-kw"
KEY_WRAP_PAD_PROVIDER_ID = "ownkey-pkcs11-kwp"
CONTEXT_HASH_LENGTH = 32
SECRET_LENGTH = DATA_KEY_LENGTH + CONTEXT_HASH_LENGTH


class Way(Enum):
    """A way to wrap. The values are the words of the setting ``mechanism``."""

    GCM = "aes-gcm"
    KEY_WRAP = "aes-key-wrap"
    KEY_WRAP_PAD = "aes-key-wrap-pad"


PROVIDER_ID_OF: Mapping[Way, str] = {
    Way.GCM: GCM_PROVIDER_ID,
    Way.KEY_WRAP: KEY_WRAP_PROVIDER_ID,
    Way.KEY_WRAP_PAD: KEY_WRAP_PAD_PROVIDER_ID,
}
WAY_OF: Mapping[str, Way] = {provider_id: way for way, provider_id in PROVIDER_ID_OF.items()}
LENGTH_OF: Mapping[str, int] = {
    GCM_PROVIDER_ID: DATA_KEY_LENGTH + TAG_LENGTH,
    KEY_WRAP_PROVIDER_ID: SECRET_LENGTH + 8,  # RFC 3394 adds eight bytes
    KEY_WRAP_PAD_PROVIDER_ID: SECRET_LENGTH + 8,  # as does RFC 5649 to a multiple of eight
}
