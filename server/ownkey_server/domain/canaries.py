"""Canaries: throw-away bytes that a key has wrapped, to be opened later: only the same key does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ownkey_server.domain.encryption_context import TENANT
from ownkey_server.domain.errors import ANOTHER_KEY_REMEDY
from ownkey_server.domain.tenants import tenant_of

EXCHANGED = (
    "it wraps and opens, and does not open what it had wrapped before: it is another key by the same name, and what the"
    f" old one wrapped cannot be opened: {ANOTHER_KEY_REMEDY}"
)
_PROBE = {"ownkey:probe": "canary"}


@dataclass(frozen=True, slots=True)
class Canary:
    """What a key has wrapped at one place.

    Attributes:
        key: Name of the key.
        entry: The bytes, wrapped: an encrypted data key.
        context: To which they are bound.
        digest: SHA-256 of the bytes, which are kept nowhere.
    """

    key: str
    entry: Any
    context: Mapping[str, str]
    digest: bytes


def canary_context(key: str) -> dict[str, str]:
    """The encryption context of a key's canary: reserved, so that no asset's wrapped key can pass for one."""
    tenant = tenant_of(key)
    # The policy of a customer's key may let us in for the tenant's own context alone.
    return {**_PROBE, **({TENANT: tenant} if tenant else {})}
