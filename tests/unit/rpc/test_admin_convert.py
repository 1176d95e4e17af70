"""The control plane's messages and our values say the same."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf import timestamp_pb2

from ownkey.v1 import admin_service_pb2, asset_pb2, call_pb2, customer_key_pb2, policy_pb2
from ownkey_server.domain.assets import AssetClass, AssetOrigin
from ownkey_server.domain.call_gates import GateMode
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.domain.tenants import KeyLifecycle
from ownkey_server.rpc import admin_convert, gate_convert
from ownkey_server.rpc.errors import InvalidRequests
from ownkey_server.service.administration.audit_trail import AuditRow
from ownkey_server.service.administration.edits import StepKind
from ownkey_server.storage.documents import PolicyTable, RuleTable
from ownkey_server.storage.records import PolicyVersion, Stamp, TenantRecord

NOW = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
STAMP = Stamp("7", NOW, NOW)


@pytest.mark.parametrize(
    ("theirs", "prefix", "ours"),
    [
        (call_pb2.CallGateMode, "CALL_GATE_MODE_", GateMode),
        (customer_key_pb2.KeyLifecycle, "KEY_LIFECYCLE_", KeyLifecycle),
        (admin_service_pb2.ConfigurationStepKind, "CONFIGURATION_STEP_KIND_", StepKind),
    ],
)
def test_an_enum_of_the_contract_and_ours_have_the_same_members(theirs: object, prefix: str, ours: type) -> None:
    names = {name.removeprefix(prefix).lower() for name, number in theirs.items() if number}  # type: ignore[attr-defined]
    assert names == {member.value for member in ours}  # type: ignore[attr-defined]


def test_every_enum_member_is_converted() -> None:
    assert set(gate_convert.MODES) | {0} == set(call_pb2.CallGateMode.values())
    assert set(admin_convert.CLASS_NUMBERS.values()) == {n for n in asset_pb2.AssetClass.values() if n}
    assert set(admin_convert.ORIGIN_NUMBERS.values()) == {n for n in asset_pb2.AssetOrigin.values() if n}
    assert set(gate_convert.DIRECTION_NUMBERS.values()) == {n for n in call_pb2.CallDirection.values() if n}


def test_a_policy_comes_back_as_it_was_sent() -> None:
    rules = [
        policy_pb2.PolicyRule(name="plain", use="deny"),
        policy_pb2.PolicyRule(
            name="all",
            use="key:main",
            asset_classes=[asset_pb2.AssetClass.Value(f"ASSET_CLASS_{one.name}") for one in AssetClass],
            users=["sam", "zoe"],
            groups=["legal"],
            origins=[asset_pb2.AssetOrigin.Value(f"ASSET_ORIGIN_{one.name}") for one in AssetOrigin],
            created_from="enrolment",
            created_before="2027-01-01T00:00:00Z",
        ),
    ]
    sent = policy_pb2.Policy(default_use="provider_key", rules=rules)
    stored = PolicyVersion("acme", 3, admin_convert.policy(sent), "ann", "why", NOW, in_force=True)
    message = admin_convert.policy_version(stored)
    assert message.policy == sent
    assert (message.tenant, message.number, message.author, message.in_force) == ("acme", 3, "ann", True)


def test_a_policy_without_a_default_denies_and_another_zone_is_told_in_utc() -> None:
    rule = policy_pb2.PolicyRule(name="a", use="deny", created_from="2026-01-01T02:00:00+02:00")
    table = admin_convert.policy(policy_pb2.Policy(rules=[rule]))
    assert table == PolicyTable(
        default="deny", rules=[RuleTable(name="a", use="deny", created_from=datetime(2026, 1, 1, tzinfo=UTC))]
    )


def test_a_call_gate_comes_back_as_it_was_sent() -> None:
    sent = call_pb2.CallGate(
        mode=call_pb2.CALL_GATE_MODE_REFUSE,
        directions=[call_pb2.CALL_DIRECTION_INBOUND],
        countries=["DE", "US"],
        emergency_numbers=["4711"],
        outside_line_prefixes=["9"],
    )
    record = TenantRecord("acme", "Acme", NOW, gate_convert.call_gate(sent), 3, STAMP)
    message = admin_convert.tenant(record)
    assert message.call_gate == sent
    assert message.update_time.ToDatetime(UTC) == NOW


@pytest.mark.parametrize(
    ("gate", "place"),
    [
        (call_pb2.CallGate(mode=call_pb2.CALL_GATE_MODE_REFUSE), "call_gate"),
        (call_pb2.CallGate(countries=["ZZ"]), "call_gate.countries[0]"),
    ],
)
def test_a_call_gate_with_a_mistake_is_told_by_its_place(gate: call_pb2.CallGate, place: str) -> None:
    with pytest.raises(InvalidRequests) as caught:
        gate_convert.call_gate(gate)
    assert [one.field for one in caught.value.violations] == [place]


@pytest.mark.parametrize("seconds", [-(10**12), 10**15, 253_402_300_800])
def test_a_time_that_no_calendar_holds_is_refused_by_its_field(seconds: int) -> None:
    request = admin_service_pb2.ListAuditRecordsRequest(start_time=timestamp_pb2.Timestamp(seconds=seconds))
    with pytest.raises(InvalidRequest) as caught:
        admin_convert.time(request, "start_time")
    assert caught.value.field == "start_time"
    assert admin_convert.time(request, "end_time") is None


def test_an_audit_record_has_its_fields_and_its_text() -> None:
    text = (
        '{"action":"generate_data_key","asset":{"class":"team_chat","id":"x","origin":"created","user":"sam"},'
        '"decision":"allow","key":"tenants/acme/keys/main","request_id":"r-1","result":"ok","rule":"default",'
        '"tenant":"acme"}'
    )
    message = admin_convert.audit_record(AuditRow((1_790_000_000_000_000, 2, 3), text.encode(), b"hash"))
    assert (message.writer, message.sequence, message.hash, message.json) == (2, 3, b"hash", text)
    assert (message.action, message.result, message.rule, message.request_id) == (
        "generate_data_key",
        "ok",
        "default",
        "r-1",
    )
    assert (message.asset.tenant, message.asset.asset_id, message.asset.user) == ("acme", "x", "sam")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b'{"asset": 5}',
        b'{"asset": {"class": "fax", "id": "x", "origin": "created"}}',
        b'{"asset": {"class": "team_chat", "id": 5, "origin": "created"}}',
        b'{"asset": {"class": "team_chat", "id": "x", "origin": "created", "create_time": "soon"}}',
        b'{"asset": {"class": "team_chat", "id": "\\ud800", "origin": "created"}}',
        b'{"action": {"a": 1}, "rule": "\\ud800"}',
        b"[" * 100_000,
    ],
)
def test_a_record_that_somebody_tampered_with_is_shown_all_the_same(body: bytes) -> None:
    message = admin_convert.audit_record(AuditRow((1, 2, 3), body, b"hash"))
    assert (message.sequence, message.json) == (3, body.decode("utf-8", "replace"))
