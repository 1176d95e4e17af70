"""The control plane's messages to domain values, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from ownkey.v1 import (
    admin_service_pb2,
    approval_pb2,
    asset_pb2,
    audit_record_pb2,
    branch_key_pb2,
    customer_key_pb2,
    policy_pb2,
    role_pb2,
    tenant_pb2,
)
from ownkey_server.domain import audit
from ownkey_server.domain.assets import Asset, AssetClass, AssetOrigin
from ownkey_server.domain.branch_keys import BranchKey, BranchKeyState
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.domain.policy import Wrapping
from ownkey_server.domain.roles import Grant, Role
from ownkey_server.domain.tenants import KeyLifecycle, Replica
from ownkey_server.rpc import convert, gate_convert
from ownkey_server.rpc.tables import table
from ownkey_server.service.administration.audit_trail import AuditRow
from ownkey_server.service.administration.edits import Step, StepKind
from ownkey_server.service.administration.retention import Kept
from ownkey_server.service.administration.simulation import SimulationReport
from ownkey_server.storage.documents import PolicyTable, RuleTable
from ownkey_server.storage.grants import GrantTable
from ownkey_server.storage.records import (
    ApprovalRecord,
    GroupRecord,
    KeyRecord,
    PolicyVersion,
    PrincipalRecord,
    Stamp,
    TenantRecord,
)
from ownkey_server.storage.tables import Table

T = TypeVar("T", bound=Table)

LIFECYCLES = {one: customer_key_pb2.KeyLifecycle.Value(f"KEY_LIFECYCLE_{one.name}") for one in KeyLifecycle}
BRANCH_KEY_STATES = {one: branch_key_pb2.BranchKeyState.Value(f"BRANCH_KEY_STATE_{one.name}") for one in BranchKeyState}
STEP_KINDS = {
    one: admin_service_pb2.ConfigurationStepKind.Value(f"CONFIGURATION_STEP_KIND_{one.name}") for one in StepKind
}
ROLE_NUMBERS = {one: role_pb2.Role.Value(f"ROLE_{one.name}") for one in Role}
ROLES = {number: role for role, number in ROLE_NUMBERS.items()}
CLASS_NUMBERS = {one: asset_pb2.AssetClass.Value(f"ASSET_CLASS_{one.name}") for one in AssetClass}
WRAPPING_NUMBERS = {one: policy_pb2.Wrapping.Value(f"WRAPPING_{one.name}") for one in Wrapping}
WRAPPINGS = {number: wrapping for wrapping, number in WRAPPING_NUMBERS.items()}
ORIGIN_NUMBERS = {one: asset_pb2.AssetOrigin.Value(f"ASSET_ORIGIN_{one.name}") for one in AssetOrigin}


def time(message: Any, field: str) -> datetime | None:
    """A time of the request, if it names one.

    Raises:
        InvalidRequest: It is outside of what a calendar holds.
    """
    if not message.HasField(field):
        return None
    try:
        found: datetime = getattr(message, field).ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(field, "is no time between the years 1 and 9999") from None
    return found


def place(message: customer_key_pb2.KeyPlace) -> Replica:
    """A place of a key."""
    return Replica(message.key_store, message.reference)


def policy(message: policy_pb2.Policy) -> PolicyTable:
    """A policy.

    Raises:
        InvalidRequest: A class is named twice.
        InvalidRequests: It is not as a policy must be.
    """
    rules = []
    for rule in message.rules:
        fields = {
            "name": rule.name,
            "use": rule.use,
            "asset_classes": [convert.ASSET_CLASSES[one] for one in rule.asset_classes],
            "users": list(rule.users),
            "groups": list(rule.groups),
            "origins": [convert.ASSET_ORIGINS[one] for one in rule.origins],
            "created_from": rule.created_from or None,
            "created_before": rule.created_before or None,
        }
        rules.append(fields)
    wrapping = {convert.ASSET_CLASSES[one.asset_class]: WRAPPINGS[one.wrapping] for one in message.wrapping}
    if len(wrapping) < len(message.wrapping):
        raise InvalidRequest("policy.wrapping", "an asset class stands more than once")
    whole: dict[str, Any] = {
        "default": message.default_use or "deny",
        "rules": rules,
        "wrapping": wrapping,
        "outage_grace_seconds": message.outage_grace_seconds,
    }
    return table(PolicyTable, whole, "policy")


def tenant(record: TenantRecord) -> tenant_pb2.Tenant:
    """A tenant."""
    return tenant_pb2.Tenant(
        id=record.id,
        display_name=record.display_name,
        enrolled_at=convert.timestamp(record.enrolled_at),
        call_gate=gate_convert.message(record.call_gate),
        policy_version=record.policy_version,
        **_stamp(record.stamp),
    )


def key(record: KeyRecord) -> customer_key_pb2.CustomerKey:
    """A customer key."""
    message = customer_key_pb2.CustomerKey(
        name=record.name, lifecycle=LIFECYCLES[record.lifecycle], **_stamp(record.stamp)
    )
    for one in record.replicas:
        replica = message.replicas.add()
        replica.place.key_store, replica.place.reference = one.place.store, one.place.reference
        if one.verify_time is not None:
            replica.verify_time.CopyFrom(convert.timestamp(one.verify_time))
    return message


def branch_key(record: BranchKey) -> branch_key_pb2.BranchKey:
    """A branch key, wrapped."""
    return branch_key_pb2.BranchKey(
        id=record.id,
        tenant=record.tenant,
        key=record.key,
        first_key=record.first_key,
        state=BRANCH_KEY_STATES[record.state],
        version=record.version,
        wrapped_key=record.wrapped,
        encryption_context=record.context,
        create_time=convert.timestamp(record.create_time),
    )


def group(record: GroupRecord) -> tenant_pb2.Group:
    """A group."""
    return tenant_pb2.Group(tenant=record.tenant, id=record.id, users=record.users, **_stamp(record.stamp))


def principal(record: PrincipalRecord) -> tenant_pb2.ServicePrincipal:
    """A service principal."""
    grants = [
        role_pb2.RoleGrant(
            role=ROLE_NUMBERS[one.role],
            tenant=one.tenant,
            asset_classes=[CLASS_NUMBERS[name] for name in sorted(one.asset_classes)],
            methods=sorted(one.methods),
        )
        for one in record.grants
    ]
    stamp = _stamp(record.stamp)
    return tenant_pb2.ServicePrincipal(id=record.id, display_name=record.display_name, grants=grants, **stamp)


def grants(messages: Sequence[role_pb2.RoleGrant]) -> list[Grant]:
    """What a principal may do.

    Raises:
        InvalidRequests: A grant is limited to what its role does not have.
    """
    tables = []
    for index, one in enumerate(messages):
        fields = {
            "role": ROLES[one.role],
            "tenant": one.tenant,
            "asset_classes": [convert.ASSET_CLASSES[number] for number in one.asset_classes],
            "methods": list(one.methods),
        }
        tables.append(table(GrantTable, fields, f"grants[{index}]"))
    return [table.to_domain() for table in tables]


def approval(record: ApprovalRecord) -> approval_pb2.Approval:
    """A change that waits."""
    return approval_pb2.Approval(
        id=record.id,
        requested_by=record.requested_by,
        method=record.method,
        tenant=record.tenant,
        resource=record.resource,
        summary=record.summary,
        reason=record.reason,
        approved_by=record.approved_by,
        create_time=convert.timestamp(record.create_time),
        expire_time=convert.timestamp(record.expire_time),
        author=record.author,
        change=record.change,
    )


def approval_cursor(record: ApprovalRecord) -> str:
    """Where a list of approvals goes on after this one."""
    return f"{audit.microseconds(record.create_time)} {record.id}"


def approval_position(text: str) -> tuple[int, str]:
    """The same, read back; empty is the start.

    Raises:
        InvalidRequest: It is something else.
    """
    at, _, approval_id = text.partition(" ")
    if text and not (at.isascii() and at.isdigit() and len(at) <= 18):
        raise InvalidRequest("page_token", "is no page token: give back next_page_token as it came")
    return int(at or 0), approval_id


def audit_retention(kept: Kept) -> admin_service_pb2.AuditRetention:
    """How long audit records are kept."""
    message = admin_service_pb2.AuditRetention(second_person=kept.guarded, etag=kept.etag)
    for name in ("agreed", "configured", "in_force"):
        age = getattr(kept, name)
        if age is not None:
            getattr(message, name).FromTimedelta(age)
    return message


def policy_version(record: PolicyVersion) -> policy_pb2.PolicyVersion:
    """A version of a policy."""
    return policy_pb2.PolicyVersion(
        tenant=record.tenant,
        number=record.number,
        policy=_policy(record.policy),
        author=record.author,
        reason=record.reason,
        create_time=convert.timestamp(record.create_time),
        in_force=record.in_force,
    )


def step(one: Step) -> admin_service_pb2.ConfigurationStep:
    """A difference."""
    return admin_service_pb2.ConfigurationStep(
        kind=STEP_KINDS[one.kind],
        resource=one.resource,
        field=one.field,
        before=one.before,
        after=one.after,
        note=one.note,
    )


def simulation(report: SimulationReport) -> admin_service_pb2.SimulatePolicyResponse:
    """What would change."""
    message = admin_service_pb2.SimulatePolicyResponse(total=report.total, changed=report.changed)
    for one in report.transitions:
        message.transitions.add(before=one.before, after=one.after, count=one.count)
    for sample in report.samples:
        message.samples.add(
            asset=_asset(sample.asset),
            before=sample.before,
            before_rule=sample.before_rule,
            after=sample.after,
            after_rule=sample.after_rule,
        )
    return message


def audit_record(row: AuditRow) -> audit_record_pb2.AuditRecord:
    """An audit record. What somebody made of it that is none has its text alone."""
    at, writer, sequence = row.cursor
    text = row.body.decode("utf-8", "replace")
    message = audit_record_pb2.AuditRecord(writer=writer, sequence=sequence, hash=row.hash, json=text)
    message.time.CopyFrom(convert.timestamp(audit.from_microseconds(at)))
    try:
        fields = json.loads(text)
        for name in ("action", "result", "reason", "principal", "tenant", "key", "replica", "decision", "rule"):
            setattr(message, name, str(fields.get(name, "")))
        message.request_id = str(fields.get("request_id", ""))
        if facts := fields.get("asset"):
            message.asset.CopyFrom(_recorded_asset(message.tenant, facts))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        pass
    return message


def _recorded_asset(owner: str, facts: Mapping[str, Any]) -> asset_pb2.Asset:
    message = asset_pb2.Asset(
        tenant=owner,
        asset_class=CLASS_NUMBERS[AssetClass(facts["class"])],
        asset_id=facts["id"],
        origin=ORIGIN_NUMBERS[AssetOrigin(facts["origin"])],
        user=facts.get("user", ""),
        group=facts.get("group", ""),
    )
    if created := facts.get("create_time"):
        message.create_time.CopyFrom(convert.timestamp(datetime.fromisoformat(created)))
    return message


def _asset(asset: Asset) -> asset_pb2.Asset:
    message = asset_pb2.Asset(
        tenant=asset.tenant,
        asset_class=CLASS_NUMBERS[asset.asset_class],
        asset_id=asset.asset_id,
        origin=ORIGIN_NUMBERS[asset.origin],
        user=asset.user,
        group=asset.group,
    )
    if asset.create_time is not None:
        message.create_time.CopyFrom(convert.timestamp(asset.create_time))
    return message


def _policy(policy: PolicyTable) -> policy_pb2.Policy:
    return policy_pb2.Policy(
        default_use=policy.default,
        rules=[_rule(one) for one in policy.rules],
        wrapping=[
            policy_pb2.AssetClassWrapping(asset_class=CLASS_NUMBERS[name], wrapping=WRAPPING_NUMBERS[how])
            for name, how in sorted(policy.wrapping.items())
        ],
        outage_grace_seconds=policy.outage_grace_seconds,
    )


def _rule(rule: RuleTable) -> policy_pb2.PolicyRule:
    return policy_pb2.PolicyRule(
        name=rule.name,
        use=rule.use,
        asset_classes=[CLASS_NUMBERS[one] for one in rule.asset_classes],
        users=rule.users,
        groups=rule.groups,
        origins=[ORIGIN_NUMBERS[one] for one in rule.origins],
        created_from=_bound(rule.created_from),
        created_before=_bound(rule.created_before),
    )


def _bound(value: datetime | str | None) -> str:
    if value is None:
        return ""
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def _stamp(stamp: Stamp) -> dict[str, Any]:
    return {
        "etag": stamp.etag,
        "create_time": convert.timestamp(stamp.create_time),
        "update_time": convert.timestamp(stamp.update_time),
    }
