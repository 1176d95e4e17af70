"""What administrative changes tell their tenants, in the transactions that make them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from ownkey_server.domain.errors import OwnkeyError
from ownkey_server.domain.notifications import Notice, NoticeKind
from ownkey_server.domain.revocations import Revocation
from ownkey_server.service.administration.desk import Act
from ownkey_server.storage import outbox
from ownkey_server.storage.records import TenantRecord
from ownkey_server.storage.registry import Change
from ownkey_server.storage.revocations import scope_json

MAX_SCOPE = 2048


def policy_changed(change: Change, act: Act, owner: TenantRecord, number: int, now: datetime) -> None:
    """Another version of a policy is in force."""
    data = {"version": number, "previous_version": owner.policy_version, **_who(act)}
    outbox.put(change.connection, outbox.new_notice(owner.id, NoticeKind.POLICY_CHANGED, now, data=data))


def revocation_made(change: Change, act: Act, made: Revocation) -> None:
    """Something was taken back."""
    data = {**_about(made), "ending": made.ending.value, **_who(act)}
    notice = outbox.new_notice(made.tenant, NoticeKind.REVOCATION_MADE, made.create_time, data=data)
    outbox.put(change.connection, notice)


def revocation_restored(change: Change, act: Act, ended: Revocation, now: datetime) -> None:
    """Something that was taken back was given back."""
    data = {**_about(ended), **_who(act)}
    outbox.put(change.connection, outbox.new_notice(ended.tenant, NoticeKind.REVOCATION_RESTORED, now, data=data))


def enrolment_failed(tenant: str, act: Act, operation: str, resource: str, error: OwnkeyError, now: datetime) -> Notice:
    """A key, or a place of one, could not be enrolled: nothing was changed, and so it is told by itself."""
    return outbox.new_notice(
        tenant,
        NoticeKind.ENROLMENT_FAILED,
        now,
        key=resource,
        replica=getattr(error, "replica", ""),
        cause=str(getattr(error, "cause", error)),
        data={"operation": operation, "error": error.reason, **_who(act)},
    )


def _about(revocation: Revocation) -> dict[str, Any]:
    scope = scope_json(revocation.scope)
    # Who is named in it may be thousands: whoever wants to know asks for the revocation.
    shown = json.loads(scope) if len(scope.encode()) <= MAX_SCOPE else {"omitted": "look the revocation up"}
    return {"revocation": revocation.id, "scope": shown}


def _who(act: Act) -> dict[str, str]:
    said = {"author": act.author, "reason": act.reason}
    return {name: text for name, text in said.items() if text}
