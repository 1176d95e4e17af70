"""The audit trail's records and their chain: pure functions from values to bytes (docs/audit.md has the layout).

Each writer (a running process) has a chain of its own. A record's hash covers the record before it, so that nothing can
be changed, removed or moved without every later hash changing too; signatures over the chain's head make that visible.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from ownkey_server.domain.assets import Asset

HASH_LENGTH = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NOTHING: Mapping[str, Any] = {}
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


class Action(StrEnum):
    """What was done, or tried. Administrative acts are ``admin.`` and the name of the call."""

    GENERATE_DATA_KEY = "generate_data_key"
    UNWRAP = "unwrap"
    REWRAP = "rewrap"
    ENCRYPT_MEDIA = "encrypt_media"
    DECRYPT_MEDIA = "decrypt_media"
    RENEW_LEASE = "renew_lease"
    MAKE_BRANCH_KEY = "make_branch_key"
    OPEN_BRANCH_KEY = "open_branch_key"
    LATE_ANSWER = "late_answer"
    OPEN_CHANNEL_SECRET = "open_channel_secret"  # noqa: S105 - the name of an act
    AUTHORIZE_CALL = "authorize_call"
    REVOCATION_IN_FORCE = "revocation_in_force"
    REVOCATION_DRAINED = "revocation_drained"
    REVOCATION_RESTORED = "revocation_restored"
    KEY_TAKEN_AWAY = "key_taken_away"
    ACCESS = "access"
    WRITER_STARTED = "audit.writer_started"
    WRITER_STOPPED = "audit.writer_stopped"
    CHAIN_BROKEN = "audit.chain_broken"
    RECORDS_LOST = "audit.records_lost"


class Result(StrEnum):
    """How it ended: done, refused by a decision, or failed for want of something."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asked.

    Attributes:
        principal: The authenticated identity; ``unauthenticated`` where the listener takes callers without one.
        peer: Where the call came from, as the transport says.
        request_id: The caller's own id of the request, or empty.
        background: Whether nobody waits for the answer. Not part of the trail: it decides about turns alone.
    """

    principal: str = "unauthenticated"
    peer: str = ""
    request_id: str = ""
    background: bool = False


SERVER = Caller("ownkey serve")
"""Who stands behind what a server does of itself: it writes of its own trail, and takes over the first tenants."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One use of a key, refusal or administrative change. It holds no key and no content.

    Attributes:
        time: When it was decided (UTC).
        action: An :class:`Action`, or ``admin.`` and the name of the call.
        reason: The error's reason, as callers get it; empty for ``OK``.
        key: Name of the customer key, if one was named.
        replica: Name of the key store that served.
        asset: What it was about, with every fact that policy looked at.
        context: The encryption context.
        decision: What policy decided: ``allow``, ``deny``, ``provider_key``; or what the call gate did.
        rule: The policy rule that decided.
        policy_version: Number of the policy that it stands in; 0 for none.
        backend_request_id: The key store's own id of the operation, where it gives one.
        cached: Whether a key that was held served, and no key store was asked.
        detail: What else this action has to say: before and after of an administrative change.
    """

    time: datetime
    action: str
    result: Result
    caller: Caller = Caller()
    reason: str = ""
    tenant: str = ""
    key: str = ""
    replica: str = ""
    asset: Asset | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    decision: str = ""
    rule: str = ""
    policy_version: int = 0
    backend_request_id: str = ""
    cached: bool = False
    detail: Mapping[str, Any] = field(default_factory=dict)
    _body: list[bytes] = field(default_factory=list, init=False, repr=False, compare=False)

    def to_bytes(self) -> bytes:
        """The record as it is hashed and stored: JSON with sorted names, no spaces, empty fields left out."""
        # Made once: by whoever records, so that a record which cannot be written is its maker's failure alone.
        if not self._body:
            self._body.append(self._to_bytes())
        return self._body[0]

    def _to_bytes(self) -> bytes:
        fields = {
            "time": timestamp(self.time),
            "action": str(self.action),
            "result": self.result.value,
            "principal": self.caller.principal,
            "peer": self.caller.peer,
            "request_id": self.caller.request_id,
            "reason": self.reason,
            "tenant": self.tenant,
            "key": self.key,
            "replica": self.replica,
            "asset": _facts(self.asset) if self.asset else _NOTHING,
            "context": dict(self.context),
            "decision": self.decision,
            "rule": self.rule,
            "policy_version": self.policy_version,
            "backend_request_id": self.backend_request_id,
            "cached": self.cached,
            "detail": dict(self.detail),
        }
        return canonical({name: value for name, value in fields.items() if value})


def _facts(asset: Asset) -> Mapping[str, str]:
    facts = {
        "class": asset.asset_class.value,
        "id": asset.asset_id,
        "origin": asset.origin.value,
        "user": asset.user,
        "group": asset.group,
        "create_time": timestamp(asset.create_time) if asset.create_time else "",
    }
    return {name: value for name, value in facts.items() if value}


def canonical(value: Mapping[str, Any]) -> bytes:
    """JSON in its one spelling: sorted names, no spaces, UTF-8."""
    return _encode(value).encode("utf-8", "replace")


def timestamp(time: datetime) -> str:
    """RFC 3339 in UTC with six digits: texts of this form sort as their times do."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def microseconds(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The time that :func:`microseconds` counted."""
    return _EPOCH + timedelta(microseconds=value)


def genesis(description: bytes) -> bytes:
    """The hash that stands before a writer's first record: it covers who the writer is."""
    return hashlib.sha256(b"ownkey audit writer v1\0" + description).digest()


def chained(previous: bytes, writer: int, sequence: int, body: bytes) -> bytes:
    """The hash of a record.

    Args:
        previous: Hash of the writer's record before, or its :func:`genesis`.
        writer: The writer's number.
        sequence: 1 for the writer's first record, and one more for each.
        body: The record's bytes.
    """
    head = b"ownkey audit record v1\0" + struct.pack(">QQ", writer, sequence)
    return hashlib.sha256(head + previous + body).digest()


def head_statement(writer: int, sequence: int, head: bytes, time: int) -> bytes:
    """What is signed with every commit: how far a writer's chain has come.

    Args:
        writer: The writer's number.
        sequence: Number of its last record.
        head: Hash of its last record.
        time: Microseconds since 1970.
    """
    return b"ownkey audit head v1\0" + struct.pack(">QQQ", writer, sequence, time) + head


def segment_statement(description: bytes) -> bytes:
    """What is signed when a part of a chain is sealed."""
    return b"ownkey audit segment v1\0" + description


def checkpoint_statement(description: bytes) -> bytes:
    """What is signed at a checkpoint."""
    return b"ownkey audit checkpoint v1\0" + description


def receipt_statement(description: bytes) -> bytes:
    """What is signed as a receipt of a revocation."""
    return b"ownkey revocation receipt v1\0" + description
