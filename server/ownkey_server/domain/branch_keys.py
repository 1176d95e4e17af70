"""A branch key: a tenant's key that wraps data keys by the thousand, and is itself wrapped under a customer key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ownkey_server.domain.encryption_context import TENANT

BRANCH = "ownkey:branch"
PURPOSE = "ownkey:purpose"


class BranchKeyState(StrEnum):
    """What a branch key still does."""

    ACTIVE = "active"
    DECRYPT_ONLY = "decrypt_only"


@dataclass(frozen=True, slots=True)
class BranchKey:
    """A branch key as it is kept: wrapped. Its plaintext is never part of this.

    Attributes:
        id: 32 hex digits; the entries of data keys that it wrapped name it.
        tenant: Id of the tenant whose content it protects.
        key: Name of the key under which it is wrapped at present: one of the tenant's, or the provider's.
        first_key: Name of the key under which it was made, which the wrapped keys that it gave name.
        version: Its number among those that were wrapped under ``key``, counted from 1.
        wrapped: Bytes of a wrapped key.
        context: What it is bound to.
    """

    id: str
    tenant: str
    key: str
    first_key: str
    state: BranchKeyState
    version: int
    wrapped: bytes
    context: Mapping[str, str]
    create_time: datetime


def branch_context(tenant: str, branch_id: str) -> dict[str, str]:
    """The encryption context of a branch key. Nothing of any asset is in it, for it serves them all."""
    return {TENANT: tenant, BRANCH: branch_id, PURPOSE: "branch"}
