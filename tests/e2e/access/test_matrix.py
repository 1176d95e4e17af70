"""Every method, every role, one's own tenant and another's: who may, and who is told nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import grpc
import pytest

from ownkey.v1 import asset_pb2, role_pb2
from support.access import Caller, Lab
from support.requests import EXPECTED, METHODS, ROLES, request
from support.rpc import Failure

# How a method answers who was let in: each request is good, and is about nothing that there is. Nothing else counts,
# least of all that the server cannot be reached.
LET_IN = frozenset({"OK", "RESOURCE_NOT_FOUND", "TENANT_NOT_FOUND"})
BESIDE: Mapping[str, frozenset[str]] = {
    "ApplyTenants": frozenset({"INVALID_FIELD"}),
    "CreatePolicyVersion": frozenset({"INVALID_FIELD"}),
    "CreateServicePrincipal": frozenset({"RESOURCE_EXISTS"}),
    "CreateNotificationChannel": frozenset({"INVALID_FIELD"}),
    "UpdateNotificationChannel": frozenset({"INVALID_FIELD"}),
    "CreateTenant": frozenset({"RESOURCE_EXISTS"}),
    "CreateGroup": frozenset({"RESOURCE_EXISTS"}),
    "DecryptMedia": frozenset({"CONTAINER_TRUNCATED"}),
    "DeleteGroup": frozenset({"ETAG_MISMATCH"}),
    "DeleteTenant": frozenset({"ETAG_MISMATCH", "RESOURCE_IN_USE"}),
    "EncryptMedia": frozenset({"POLICY_DENIED"}),
    "EnrolKey": frozenset({"ENROLMENT_FAILED"}),
    "GenerateDataKey": frozenset({"POLICY_DENIED"}),
    "Rewrap": frozenset({"INVALID_FIELD"}),
    "Unwrap": frozenset({"INVALID_FIELD"}),
    "UpdateAuditRetention": frozenset({"ETAG_MISMATCH"}),
    "UpdateGroup": frozenset({"ETAG_MISMATCH"}),
    "UpdateTenant": frozenset({"ETAG_MISMATCH"}),
}


def denied(method: str, answer: object) -> bool:
    """Whether the caller was sent away for want of a role; if not, that it was let in is certain."""
    found = (answer.reason or answer.code.name) if isinstance(answer, Failure) else "OK"
    if found == "PERMISSION_DENIED":
        assert isinstance(answer, Failure)
        assert answer.code is grpc.StatusCode.PERMISSION_DENIED
        return True
    assert found in LET_IN | BESIDE.get(method, frozenset()), (method, answer)
    return False


@pytest.fixture(scope="module")
def callers(lab: Lab) -> Iterator[dict[tuple[str, str], Caller]]:
    """A caller for each role, once for acme alone and once for everything."""
    found = {}
    for role in ROLES:
        for tenant, name in (("acme", "acme"), ("*", "all")):
            grant = role_pb2.RoleGrant(role=role_pb2.Role.Value(f"ROLE_{role.upper()}"), tenant=tenant)
            found[role, tenant] = lab.caller(f"{role.replace('_', '-')}-of-{name}", grant)
    return found


def test_what_is_neither_a_refusal_nor_an_answer_is_no_proof() -> None:
    for answer in (
        Failure(grpc.StatusCode.UNAVAILABLE, "failed to connect"),
        Failure(grpc.StatusCode.UNAVAILABLE, "", "OVERLOADED"),
        Failure(grpc.StatusCode.DEADLINE_EXCEEDED, ""),
        Failure(grpc.StatusCode.UNAUTHENTICATED, "", "UNAUTHENTICATED"),
        Failure(grpc.StatusCode.INTERNAL, "", "INTERNAL"),
        Failure(grpc.StatusCode.PERMISSION_DENIED, "", "POLICY_DENIED"),
    ):
        with pytest.raises(AssertionError):
            denied("GetTenant", answer)


def test_every_method_is_in_this_table_and_in_no_other() -> None:
    assert {method.name for method in METHODS} == set(EXPECTED)


@pytest.mark.parametrize("method", sorted(EXPECTED))
def test_a_method_by_role_and_tenant(method: str, callers: dict[tuple[str, str], Caller]) -> None:
    roles, scope = EXPECTED[method]
    for role in ROLES:
        may = role in roles.split()
        for tenant in ("acme", "globex", "nobody"):
            everywhere = callers[role, "*"].send(method, request(method, tenant))
            assert denied(method, everywhere) == (not may), (role, "everywhere", tenant, everywhere)
            answer = callers[role, "acme"].send(method, request(method, tenant))
            own = {"tenant": tenant == "acme", "visible": True, "service": False}[scope]
            assert denied(method, answer) == (not (may and own)), (role, "of acme", tenant, answer)


@pytest.mark.parametrize("method", sorted(name for name, (_, scope) in EXPECTED.items() if scope == "tenant"))
def test_another_tenant_and_none_at_all_get_the_same_answer(
    method: str, callers: dict[tuple[str, str], Caller]
) -> None:
    for role in ROLES:
        other = callers[role, "acme"].send(method, request(method, "globex"))
        absent = callers[role, "acme"].send(method, request(method, "nobody"))
        assert isinstance(other, Failure)
        assert isinstance(absent, Failure)
        assert other.message.replace("globex", "nobody") == absent.message
        assert (other.code, other.reason, other.metadata) == (absent.code, absent.reason, absent.metadata)
        assert other.code is grpc.StatusCode.PERMISSION_DENIED


def test_lists_show_ones_own_tenants_alone(callers: dict[tuple[str, str], Caller]) -> None:
    for role in ("tenant_admin", "auditor"):
        assert [one.id for one in callers[role, "acme"]("ListTenants").tenants] == ["acme"]
        everybody = [one.id for one in callers[role, "*"]("ListTenants").tenants]
        assert {"acme", "globex"} <= set(everybody)
        records = callers[role, "acme"]("ListAuditRecords", tenant="acme").records
        assert {one.tenant for one in records} == {"acme"}
        assert callers[role, "acme"]("ListAuditRecords").reason == "PERMISSION_DENIED"
        assert callers[role, "acme"]("ExportTenants").reason == "PERMISSION_DENIED"
        assert "globex" not in callers[role, "acme"]("ExportTenants", tenants=["acme"]).document
        assert callers[role, "acme"]("ExportTenants", tenants=["acme", "globex"]).reason == "PERMISSION_DENIED"


def test_a_grant_may_be_for_some_asset_classes_or_methods_alone(lab: Lab) -> None:
    voicemail = asset_pb2.ASSET_CLASS_PHONE_VOICEMAIL
    limited = lab.caller(
        "voicemail-recorder", role_pb2.RoleGrant(role=role_pb2.ROLE_RECORDER, tenant="acme", asset_classes=[voicemail])
    )
    asset = asset_pb2.Asset(tenant="acme", asset_class=voicemail, asset_id="v", origin=asset_pb2.ASSET_ORIGIN_CREATED)
    assert limited("GenerateDataKey", asset=asset).wrapped_key
    assert denied("GenerateDataKey", limited.send("GenerateDataKey", request("GenerateDataKey", "acme")))
    assert denied("EncryptMedia", limited.send("EncryptMedia", request("EncryptMedia", "acme")))
    grant = role_pb2.RoleGrant(role=role_pb2.ROLE_DATA, tenant="acme", methods=["GenerateDataKey"])
    only = lab.caller("maker", grant)
    assert only.send("GenerateDataKey", request("GenerateDataKey", "acme")).wrapped_key
    assert denied("Unwrap", only.send("Unwrap", request("Unwrap", "acme")))


def test_a_grant_that_is_taken_away_is_gone_at_once(lab: Lab) -> None:
    recorder = lab.caller("short-lived", role_pb2.RoleGrant(role=role_pb2.ROLE_RECORDER, tenant="acme"))
    assert recorder.send("GenerateDataKey", request("GenerateDataKey", "acme")).wrapped_key
    administrator = lab.by_certificate(lab.admin)
    name = "spiffe://example.org/short-lived"
    assert administrator("UpdateServicePrincipal", service_principal=name, etag="*").service_principal.id == name
    assert denied("GenerateDataKey", recorder.send("GenerateDataKey", request("GenerateDataKey", "acme")))


def test_who_was_refused_and_who_did_it_is_in_the_audit_trail(lab: Lab) -> None:
    stranger = lab.caller("stranger")
    assert denied("Unwrap", stranger.send("Unwrap", request("Unwrap", "acme")))
    assert denied("Unwrap", stranger.send("Unwrap", request("Unwrap", "acme")))
    administrator = lab.by_certificate(lab.admin)
    records = administrator("ListAuditRecords", tenant="acme", page_size=1000).records
    refused = [one for one in records if one.principal == "spiffe://example.org/stranger"]
    assert [(one.action, one.result, one.reason) for one in refused] == [("access", "refused", "PERMISSION_DENIED")]
    made = [one.principal for one in administrator("ListAuditRecords", page_size=1000).records]
    assert "spiffe://example.org/admin" in made
