"""Messages to domain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from google.protobuf import duration_pb2, timestamp_pb2

from ownkey.v1 import asset_pb2, call_pb2, key_service_pb2, key_state_pb2
from ownkey_server.domain.assets import Asset, AssetClass, AssetOrigin
from ownkey_server.domain.call_gates import CallDirection
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.domain.key_history import EvidenceKind
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.policy import Effect
from ownkey_server.service.call_gate import Call, CallAnswer, CallDecision, CallReason
from ownkey_server.service.key_status import Finding, KeyReport

# An enum of the contract and one of ours differ by a prefix and by case; tests hold them to have the same members.
ASSET_CLASSES = {
    number: AssetClass(name.removeprefix("ASSET_CLASS_").lower())
    for name, number in asset_pb2.AssetClass.items()
    if number
}
NO_PAIRS: Mapping[str, str] = {}
ASSET_ORIGINS = {
    asset_pb2.ASSET_ORIGIN_UNSPECIFIED: AssetOrigin.CREATED,
    asset_pb2.ASSET_ORIGIN_CREATED: AssetOrigin.CREATED,
    asset_pb2.ASSET_ORIGIN_UPLOADED: AssetOrigin.UPLOADED,
}
CALL_DIRECTIONS = {
    call_pb2.CALL_DIRECTION_INBOUND: CallDirection.INBOUND,
    call_pb2.CALL_DIRECTION_OUTBOUND: CallDirection.OUTBOUND,
    call_pb2.CALL_DIRECTION_INTERNAL: CallDirection.INTERNAL,
}
KEY_STATES = {state: key_state_pb2.KeyState.Value(f"KEY_STATE_{state.name}") for state in KeyState}
EVIDENCE_KINDS = {kind: key_state_pb2.EvidenceKind.Value(f"EVIDENCE_KIND_{kind.name}") for kind in EvidenceKind}
POLICY_DECISIONS = {effect: key_service_pb2.PolicyDecision.Value(f"POLICY_DECISION_{effect.name}") for effect in Effect}
CALL_DECISIONS = {decision: call_pb2.CallDecision.Value(f"CALL_DECISION_{decision.name}") for decision in CallDecision}
CALL_REASONS = {reason: call_pb2.CallReason.Value(f"CALL_REASON_{reason.name}") for reason in CallReason}


def asset(message: asset_pb2.Asset) -> Asset:
    """The facts about an asset, from a message that keeps the contract's rules.

    Raises:
        InvalidRequest: The creation time is outside of what a calendar holds.
    """
    create_time = None
    if message.HasField("create_time"):
        try:
            create_time = message.create_time.ToDatetime(UTC)
        except (ValueError, OverflowError):
            raise InvalidRequest("asset.create_time", "is no time between the years 1 and 9999") from None
    return Asset(
        tenant=message.tenant,
        asset_class=ASSET_CLASSES[message.asset_class],
        asset_id=message.asset_id,
        origin=ASSET_ORIGINS[message.origin],
        user=message.user,
        group=message.group,
        create_time=create_time,
    )


def pairs(message: Mapping[str, str]) -> Mapping[str, str]:
    """A map of strings, out of the message: its own kind of map is slow to ask."""
    return dict(message) if message else NO_PAIRS


def call(message: call_pb2.AuthorizeCallRequest) -> Call:
    """The facts about a call, from a message that keeps the contract's rules."""
    return Call(
        tenant=message.tenant,
        call_id=message.call_id,
        callee=message.callee,
        direction=CALL_DIRECTIONS.get(message.direction),
        user=message.user,
        group=message.group,
        stores=tuple(ASSET_CLASSES[number] for number in message.stores),
        queue=message.queue,
        caller=message.caller,
        site=message.site,
    )


def call_response(answer: CallAnswer) -> call_pb2.AuthorizeCallResponse:
    """The answer about a call."""
    return call_pb2.AuthorizeCallResponse(
        decision=CALL_DECISIONS[answer.decision],
        reason=CALL_REASONS[answer.reason],
        explanation=answer.explanation,
        sip_status=answer.sip_status,
        key=answer.key.name if answer.key else "",
        evidence_age=duration(answer.evidence_age),
        valid_until=timestamp(answer.valid_until),
        emergency=answer.emergency,
        rule=answer.rule,
        retry_after=duration(answer.retry_after),
    )


def key_report(report: KeyReport) -> key_state_pb2.CustomerKeyStatus:
    """The state of a key, and of each place where it can be used."""
    state, cause, age = _finding(report.whole)
    status = key_state_pb2.CustomerKeyStatus(key=report.key.name, state=state, cause=cause, evidence_age=age)
    _add_history(status, report.whole)
    for replica, finding in report.replicas:
        state, cause, age = _finding(finding)
        told = status.replicas.add(replica=replica, state=state, cause=cause, evidence_age=age, note=finding.note)
        _add_history(told, finding)
    return status


def _add_history(status: key_state_pb2.CustomerKeyStatus | key_state_pb2.ReplicaStatus, finding: Finding) -> None:
    if finding.since is not None:
        status.since.CopyFrom(timestamp(finding.since))
    status.evidence = evidence_kind(finding.kind)
    status.recovering = finding.recovering


def evidence_kind(kind: EvidenceKind | None) -> key_state_pb2.EvidenceKind.ValueType:
    """How something is known, as the contract has it; unspecified for None."""
    return EVIDENCE_KINDS[kind] if kind else key_state_pb2.EVIDENCE_KIND_UNSPECIFIED


def _finding(finding: Finding) -> tuple[key_state_pb2.KeyState.ValueType, str, duration_pb2.Duration | None]:
    state = finding.evidence.state if finding.evidence else KeyState.UNKNOWN
    cause = finding.evidence.cause if finding.evidence else "it was not asked yet"
    return KEY_STATES[state], cause, duration(finding.evidence_age)


def key_state(state: KeyState | None) -> key_state_pb2.KeyState.ValueType:
    """The state as the contract has it; unspecified for None."""
    return KEY_STATES[state] if state else key_state_pb2.KEY_STATE_UNSPECIFIED


def timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    """A time as the contract has it."""
    # Not FromDatetime, which costs several microseconds of every data key.
    seconds = time.timestamp()
    whole = int(seconds)
    return timestamp_pb2.Timestamp(seconds=whole, nanos=int((seconds - whole) * 1_000_000) * 1000)


def duration(span: timedelta | None) -> duration_pb2.Duration | None:
    """A length of time as the contract has it; never negative, as a clock set back would make it."""
    if span is None:
        return None
    message = duration_pb2.Duration()
    message.FromTimedelta(max(span, timedelta(0)))
    return message
