"""The control plane through gRPC, as another language's stubs would use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import (
    admin_service_pb2_grpc,
    call_pb2,
    change_note_pb2,
    customer_key_pb2,
    key_service_pb2,
    notification_pb2,
    policy_pb2,
    revocation_pb2,
)
from ownkey_server.rpc import page_tokens
from support import server
from support.requests import request_class
from support.rpc import Failure, asset

METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["AdminService"].methods]
# What a request without any field means, where that is no mistake.
MEANINGFUL_WHEN_EMPTY = {
    "GetAuditRetention",
    "ListApprovals",
    "ListTenants",
    "ListServicePrincipals",
    "ExportTenants",
    "ListAuditRecords",
    # The provider's own.
    "ListNotificationChannels",
    "ListNotifications",
}
NOTE = change_note_pb2.ChangeNote(author="ann", reason="a test", request_id="r-1")


class Admin:
    """The stub, with the failures of its calls as values."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        self.keys = channel

    async def __call__(self, method: str, **fields: Any) -> Any:
        return await getattr(self._stub, method)(request_class(method)(**fields), timeout=20)

    async def fail(self, method: str, **fields: Any) -> Failure:
        try:
            answer = await self(method, **fields)
        except grpc.aio.AioRpcError as error:
            return Failure.of(error)
        raise AssertionError(f"{method} did not fail: {answer}")


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    async with server.in_process(tmp_path) as address, grpc.aio.insecure_channel(address) as channel:
        yield Admin(channel)


async def test_every_method_is_served_and_keeps_the_contract_s_rules(admin: Admin) -> None:
    for method in METHODS:
        if method in MEANINGFUL_WHEN_EMPTY:
            await admin(method)
        else:
            failure = await admin.fail(method)
            assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), method
            assert failure.fields, method


async def test_what_is_not_there_is_not_found_by_any_method(admin: Admin) -> None:
    place = customer_key_pb2.KeyPlace(key_store="embedded", reference="acme-main")
    known = {
        "tenant": "nobody",
        "key": "main",
        "from_key": "main",
        "to_key": "next",
        "group": "g",
        "etag": "*",
        "number": 1,
        "primary": place,
        "replica": place,
    }
    known |= {
        "key_store": "embedded",
        "policy": policy_pb2.Policy(),
        "service_principal": "nobody",
        "tenants": ["nobody"],
        "scope": revocation_pb2.RevocationScope(keys=["main"]),
        "revocation": "0" * 32,
        "channel": "0" * 32,
        "notification": "0" * 32,
        "kinds": [notification_pb2.NOTIFICATION_KIND_KEY_REVOKED],
        "webhook": notification_pb2.WebhookChannel(url="https://hooks.example.org/"),
    }
    for method in METHODS:
        request = request_class(method).DESCRIPTOR
        if method in MEANINGFUL_WHEN_EMPTY or not {"tenant", "service_principal"} & set(request.fields_by_name):
            continue
        fields = {name: value for name, value in known.items() if name in request.fields_by_name}
        if method == "SimulatePolicy":
            del fields["policy"]
        failure = await admin.fail(method, **fields)
        assert failure.code == grpc.StatusCode.NOT_FOUND, (method, failure)
    assert (await admin.fail("ExportTenants", tenants=["nobody"])).reason == "RESOURCE_NOT_FOUND"


async def test_a_tenant_from_nothing_to_its_first_data_key_and_away_again(admin: Admin, tmp_path: Path) -> None:
    (tmp_path / "keys" / "beta-main.key").write_bytes((tmp_path / "keys" / "acme-main.key").read_bytes()[::-1])
    (tmp_path / "keys" / "beta-main.key").chmod(0o600)
    made = (await admin("CreateTenant", id="beta", display_name="Beta", note=NOTE)).tenant
    assert (made.display_name, made.policy_version, made.call_gate.mode) == ("Beta", 0, call_pb2.CALL_GATE_MODE_ALLOW)
    place = customer_key_pb2.KeyPlace(key_store="embedded", reference="beta-main")
    key = (await admin("EnrolKey", tenant="beta", key="main", primary=place, note=NOTE)).key
    assert (key.name, key.lifecycle) == ("tenants/beta/keys/main", customer_key_pb2.KEY_LIFECYCLE_ACTIVE)
    assert key.replicas[0].HasField("verify_time")
    policy = policy_pb2.Policy(default_use="key:main")
    version = await admin("CreatePolicyVersion", tenant="beta", policy=policy, activate=True, etag=made.etag, note=NOTE)
    assert (version.policy_version.number, version.policy_version.in_force) == (1, True)
    data_keys = admin.keys.unary_unary(
        "/ownkey.v1.KeyService/GenerateDataKey",
        request_serializer=key_service_pb2.GenerateDataKeyRequest.SerializeToString,
        response_deserializer=key_service_pb2.GenerateDataKeyResponse.FromString,
    )
    answer = await data_keys(key_service_pb2.GenerateDataKeyRequest(asset=asset(tenant="beta")), timeout=20)
    assert answer.key == "tenants/beta/keys/main"
    assert (await admin.fail("RetireKey", tenant="beta", key="main", etag="*")).reason == "RESOURCE_IN_USE"
    assert (await admin.fail("DeleteTenant", tenant="beta", etag="*")).reason == "RESOURCE_IN_USE"
    await admin("CreatePolicyVersion", tenant="beta", policy=policy_pb2.Policy(), activate=True, etag="*", note=NOTE)
    with pytest.raises(grpc.aio.AioRpcError) as denied:
        await data_keys(key_service_pb2.GenerateDataKeyRequest(asset=asset(tenant="beta")), timeout=20)
    assert Failure.of(denied.value).reason == "POLICY_DENIED", "a change is in force at once where it was made"
    await admin("RetireKey", tenant="beta", key="main", etag="*")
    await admin("RemoveKey", tenant="beta", key="main", etag="*")
    await admin("DeleteTenant", tenant="beta", etag="*", note=NOTE)
    records = (await admin("ListAuditRecords", tenant="beta")).records
    assert [record.action.removeprefix("admin.") for record in records] == [
        "create_tenant",
        "enrol_key",
        "create_policy_version",
        "generate_data_key",
        "retire_key",
        "delete_tenant",
        "create_policy_version",
        "generate_data_key",
        "retire_key",
        "remove_key",
        "delete_tenant",
    ]
    assert [record.result for record in records if record.result != "ok"] == ["refused"] * 3
    assert '"author":"ann"' in records[0].json
    assert records[0].request_id == "r-1"
    assert (records[3].key, records[3].asset.asset_id, records[3].rule) == (answer.key, "call-1", "default")


async def test_a_key_that_does_not_work_is_not_enrolled_and_the_error_says_why(admin: Admin) -> None:
    place = customer_key_pb2.KeyPlace(key_store="embedded", reference="missing")
    failure = await admin.fail("EnrolKey", tenant="acme", key="new", primary=place)
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ENROLMENT_FAILED")
    assert failure.metadata == {"resource": "tenants/acme/keys/new", "replica": "embedded"}
    assert "'missing'" in failure.message
    assert len((await admin("ListKeys", tenant="acme")).keys) == 2


async def test_of_two_administrators_at_once_one_gets_aborted_and_nothing_is_lost(admin: Admin) -> None:
    for turn in range(20):
        etag = (await admin("GetTenant", tenant="acme")).tenant.etag
        names = [f"{turn}-one", f"{turn}-two"]
        answers = await asyncio.gather(
            *(admin("UpdateTenant", tenant="acme", etag=etag, display_name=name) for name in names),
            return_exceptions=True,
        )
        failed = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert [error.code() for error in failed] == [grpc.StatusCode.ABORTED]
        assert Failure.of(failed[0]).reason == "ETAG_MISMATCH"
        [winner] = [answer.tenant for answer in answers if not isinstance(answer, BaseException)]
        assert (await admin("GetTenant", tenant="acme")).tenant == winner


async def test_an_update_leaves_alone_what_it_leaves_out(admin: Admin) -> None:
    before = (await admin("GetTenant", tenant="acme")).tenant
    assert before.call_gate.mode == call_pb2.CALL_GATE_MODE_REFUSE
    after = (await admin("UpdateTenant", tenant="acme", etag=before.etag, display_name="New")).tenant
    assert (after.display_name, after.call_gate) == ("New", before.call_gate)
    gate = call_pb2.CallGate(mode=call_pb2.CALL_GATE_MODE_REFUSE)
    failure = await admin.fail("UpdateTenant", tenant="acme", etag="*", call_gate=gate)
    assert "emergency numbers must always connect" in failure.fields["call_gate"]


async def test_lists_come_in_pages_and_tokens_hold_for_their_request_alone(admin: Admin) -> None:
    for number in range(7):
        await admin("CreateGroup", tenant="acme", group=f"g{number}", users=[f"user-{number}"])
        await admin("CreateServicePrincipal", id=f"recorder-{number}")
        await admin("CreatePolicyVersion", tenant="acme", policy=policy_pb2.Policy())
    for method, field, fixed, count in (
        ("ListGroups", "groups", {"tenant": "acme"}, 8),
        ("ListServicePrincipals", "service_principals", {}, 7),
        ("ListPolicyVersions", "policy_versions", {"tenant": "acme"}, 8),
        ("ListAuditRecords", "records", {"tenant": "acme"}, None),
    ):
        whole = getattr(await admin(method, page_size=1000, **fixed), field)
        found, token = [], ""
        while True:
            page = await admin(method, page_size=3, page_token=token, **fixed)
            assert len(getattr(page, field)) <= 3
            found += getattr(page, field)
            token = page.next_page_token
            if not token:
                break
        assert found == list(whole)
        assert count is None or len(found) == count
    token = (await admin("ListGroups", tenant="acme", page_size=3)).next_page_token
    for method, fixed in (("ListPolicyVersions", {"tenant": "acme"}), ("ListTenants", {}), ("ListAuditRecords", {})):
        assert "page_token" in (await admin.fail(method, page_token=token, **fixed)).fields
    for junk in ("x", "!!", token[:-3], token + "AAAA"):
        assert "page_token" in (await admin.fail("ListGroups", tenant="acme", page_token=junk)).fields


async def test_a_policy_version_never_changes_and_an_older_one_can_be_put_in_force(admin: Admin) -> None:
    rule = policy_pb2.PolicyRule(name="old", use="provider_key", created_before="2026-01-01T00:00:00Z", users=["sam"])
    policy = policy_pb2.Policy(default_use="key:main", rules=[rule])
    second = (await admin("CreatePolicyVersion", tenant="acme", policy=policy, note=NOTE)).policy_version
    assert (second.number, second.in_force, second.author, second.policy) == (2, False, "ann", policy)
    await admin("ActivatePolicyVersion", tenant="acme", number=2, etag="*")
    await admin("ActivatePolicyVersion", tenant="acme", number=1, etag="*")
    again = (await admin("GetPolicyVersion", tenant="acme", number=2)).policy_version
    assert again == second
    assert (await admin("GetPolicyVersion", tenant="acme")).policy_version.number == 1


@pytest.mark.parametrize(
    ("policy", "field", "complaint"),
    [
        (policy_pb2.Policy(default_use="key:none"), "policy", "the tenant has no key 'none'"),
        (
            policy_pb2.Policy(rules=[policy_pb2.PolicyRule(name="a", use="deny", groups=["x"])]),
            "policy",
            "no group 'x'",
        ),
        (
            policy_pb2.Policy(rules=[policy_pb2.PolicyRule(name="default", use="deny")]),
            "policy",
            "taken by the default",
        ),
        (
            policy_pb2.Policy(rules=[policy_pb2.PolicyRule(name="a", use="deny", created_from="soon")]),
            "policy.rules[0].created_from",
            "",
        ),
        (policy_pb2.Policy(default_use="maybe"), "policy.default_use", ""),
    ],
)
async def test_a_policy_with_a_mistake_is_refused_with_its_place(
    admin: Admin, policy: policy_pb2.Policy, field: str, complaint: str
) -> None:
    failure = await admin.fail("CreatePolicyVersion", tenant="acme", policy=policy)
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    [found] = [place for place in failure.fields if place.startswith(field)]
    assert complaint in failure.fields[found]
    assert len((await admin("ListPolicyVersions", tenant="acme")).policy_versions) == 1


async def test_a_simulation_tells_what_would_change_and_changes_nothing(admin: Admin) -> None:
    other = policy_pb2.Policy(
        default_use="key:main", rules=[policy_pb2.PolicyRule(name="none-of-sam", use="deny", users=["sam"])]
    )
    assets = [asset(asset_id=f"call-{number}", user="sam" if number % 2 else "zoe") for number in range(10)]
    report = await admin("SimulatePolicy", tenant="acme", policy=other, assets=assets)
    assert (report.total, report.changed) == (10, 5)
    [transition] = report.transitions
    assert (transition.before, transition.after, transition.count) == ("allow key main", "deny", 5)
    assert {sample.after_rule for sample in report.samples} == {"none-of-sam"}
    data_keys = admin.keys.unary_unary(
        "/ownkey.v1.KeyService/GenerateDataKey",
        request_serializer=key_service_pb2.GenerateDataKeyRequest.SerializeToString,
        response_deserializer=key_service_pb2.GenerateDataKeyResponse.FromString,
    )
    for one in assets:
        await data_keys(key_service_pb2.GenerateDataKeyRequest(asset=one), timeout=20)
    from_history = await admin("SimulatePolicy", tenant="acme", policy=other)
    assert (from_history.total, from_history.changed) == (10, 5)
    assert (await admin("GetPolicyVersion", tenant="acme")).policy_version.number == 1
    foreign = await admin.fail("SimulatePolicy", tenant="acme", policy=other, assets=[asset(tenant="umbrella")])
    assert "assets" in foreign.fields


async def test_a_group_and_a_principal_live_and_die(admin: Admin) -> None:
    group = (await admin("CreateGroup", tenant="acme", group="sales", users=["zoe", "abe", "zoe"])).group
    assert list(group.users) == ["abe", "zoe"]
    assert (await admin.fail("CreateGroup", tenant="acme", group="sales")).reason == "RESOURCE_EXISTS"
    group = (await admin("UpdateGroup", tenant="acme", group="sales", etag=group.etag, users=["abe"])).group
    assert (await admin("GetGroup", tenant="acme", group="sales")).group == group
    assert (await admin.fail("DeleteGroup", tenant="acme", group="finance", etag="*")).reason == "RESOURCE_IN_USE"
    await admin("DeleteGroup", tenant="acme", group="sales", etag=group.etag)
    assert (await admin.fail("GetGroup", tenant="acme", group="sales")).reason == "RESOURCE_NOT_FOUND"
    made = (await admin("CreateServicePrincipal", id="spiffe://acme/recorder")).service_principal
    named = await admin(
        "UpdateServicePrincipal", service_principal=made.id, etag=made.etag, display_name="The recorder"
    )
    found = (await admin("GetServicePrincipal", service_principal=made.id)).service_principal
    assert (found, found.display_name) == (named.service_principal, "The recorder")
    stale = await admin.fail("DeleteServicePrincipal", service_principal=made.id, etag=made.etag)
    assert stale.reason == "ETAG_MISMATCH"
    await admin("DeleteServicePrincipal", service_principal=made.id, etag=found.etag)


async def test_a_replica_comes_and_goes_and_a_retired_key_comes_back(admin: Admin) -> None:
    place = customer_key_pb2.KeyPlace(key_store="elsewhere", reference="acme-main")
    failure = await admin.fail("AddKeyReplica", tenant="acme", key="main", etag="*", replica=place)
    assert "the settings have no such key store" in failure.message
    failure = await admin.fail("RemoveKeyReplica", tenant="acme", key="main", etag="*", key_store="embedded")
    assert failure.reason == "RESOURCE_IN_USE"
    await admin("CreatePolicyVersion", tenant="acme", policy=policy_pb2.Policy(), activate=True, etag="*")
    retired = (await admin("RetireKey", tenant="acme", key="main", etag="*")).key
    assert retired.lifecycle == customer_key_pb2.KEY_LIFECYCLE_RETIRED
    active = (await admin("ActivateKey", tenant="acme", key="main", etag=retired.etag)).key
    assert active == (await admin("GetKey", tenant="acme", key="main")).key
    assert active.lifecycle == customer_key_pb2.KEY_LIFECYCLE_ACTIVE


async def test_a_document_is_exported_applied_and_found_to_be_the_same(admin: Admin) -> None:
    document = (await admin("ExportTenants")).document
    answer = await admin("ApplyTenants", document=document)
    assert (list(answer.steps), answer.applied) == ([], False)
    changed = document.replace('mode = "refuse"', 'mode = "off"')
    told = await admin("ApplyTenants", document=changed, dry_run=True)
    assert ([step.field for step in told.steps], told.applied) == (["call_gate"], False)
    assert (await admin("ExportTenants")).document == document
    assert (await admin("ApplyTenants", document=changed, note=NOTE)).applied
    assert (await admin("ExportTenants", tenants=["acme"])).document == (await admin("ExportTenants")).document
    failure = await admin.fail("ApplyTenants", document="tenants = 1")
    assert "document" in failure.fields


async def test_a_large_group_and_a_large_document_are_taken_and_too_large_ones_told(admin: Admin) -> None:
    users = [f"user-{number}@acme.example" for number in range(10_000)]
    await admin("CreateGroup", tenant="acme", group="everybody", users=users)
    assert len((await admin("GetGroup", tenant="acme", group="everybody")).group.users) == 10_000
    failure = await admin.fail("CreateGroup", tenant="acme", group="more", users=[*users, "one-more"])
    assert "users" in failure.fields
    failure = await admin.fail("ApplyTenants", document="#" * (4 * 1024 * 1024 + 1))
    assert "document" in failure.fields


@pytest.mark.parametrize("text", ["a\0b", "\0"])
async def test_a_text_that_a_database_cannot_keep_is_refused_by_its_field(admin: Admin, text: str) -> None:
    note = change_note_pb2.ChangeNote(author=text)
    place = customer_key_pb2.KeyPlace(key_store="embedded", reference=text)
    rule = policy_pb2.PolicyRule(name=text, use="deny", users=[text])
    for method, fields in (
        ("CreateTenant", {"id": "t", "display_name": text}),
        ("CreateGroup", {"tenant": "acme", "group": "g", "users": [text]}),
        ("CreateServicePrincipal", {"id": "p", "display_name": text}),
        ("CreateServicePrincipal", {"id": "p", "note": note}),
        ("EnrolKey", {"tenant": "acme", "key": "k", "primary": place}),
        ("CreatePolicyVersion", {"tenant": "acme", "policy": policy_pb2.Policy(rules=[rule])}),
    ):
        failure = await admin.fail(method, **fields)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), method
        assert failure.fields, method


@pytest.mark.parametrize(
    "document",
    [
        "a = " + "[" * 100_000,
        ".".join("a" * 50_000) + " = 1",
        "[" + ".".join('"a"' for _ in range(5000)) + "]",
        'x = "\\u0000"',
        "a = \0",
        "[[tenants]]\nid = 1",
    ],
)
async def test_a_document_made_to_do_harm_is_refused_in_a_moment(admin: Admin, document: str) -> None:
    async with asyncio.timeout(5):
        assert "document" in (await admin.fail("ApplyTenants", document=document)).fields


async def test_times_that_no_calendar_holds_are_refused(admin: Admin) -> None:
    for bound in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01", "never"):
        rule = policy_pb2.PolicyRule(name="x", use="deny", created_from=bound)
        failure = await admin.fail("CreatePolicyVersion", tenant="acme", policy=policy_pb2.Policy(rules=[rule]))
        assert "policy.rules[0].created_from" in failure.fields, bound


async def test_forged_page_tokens_are_refused_and_reach_no_database(admin: Admin) -> None:
    requests = {
        "ListPolicyVersions": pb.ListPolicyVersionsRequest(tenant="acme"),
        "ListGroups": pb.ListGroupsRequest(tenant="acme"),
        "ListAuditRecords": pb.ListAuditRecordsRequest(),
        "ListServicePrincipals": pb.ListServicePrincipalsRequest(),
    }
    positions = [10**30, -1, True, "a\0", "\ud800", 1.5, None, {}, [1, 2, 10**30], [True, 1, 1], [[1], 1, 1], [1]]
    for method, request in requests.items():
        fields = {"tenant": request.tenant} if hasattr(request, "tenant") else {}
        for position in positions:
            token = page_tokens.encode(request, position)
            failure = await admin.fail(method, page_token=token, **fields)
            assert "page_token" in failure.fields, (method, position)
