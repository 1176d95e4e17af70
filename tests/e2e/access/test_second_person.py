"""Changes that take two persons: one asks, another agrees, the first makes the very same change, once."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ownkey.v1 import call_pb2, change_note_pb2, policy_pb2, role_pb2
from support.access import Caller, Lab
from support.rpc import Failure
from support.server import OWNKEY

ALL_DANGERS = '"remove_key", "gate_off", "grant_role", "retention", "move_branch_keys", "restore"'
GATED = call_pb2.CallGate(
    mode=call_pb2.CALL_GATE_MODE_REFUSE,
    countries=["US", "DE"],
    emergency_numbers=["7777"],
    outside_line_prefixes=["9"],
)
OFF = call_pb2.CallGate(mode=call_pb2.CALL_GATE_MODE_ALLOW)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server on which every dangerous change takes two persons."""
    with Lab(Path(tmp_path_factory.mktemp("two")), second_person=ALL_DANGERS).running() as running:
        yield running


@pytest.fixture(scope="module")
def first(lab: Lab) -> Caller:
    """An operator."""
    return lab.by_certificate(lab.admin)


@pytest.fixture(scope="module")
def second(lab: Lab, first: Caller) -> Caller:
    """Another one, whom a third agreed to: the settings name two at the beginning."""
    return lab.by_certificate(lab.authority.issue("other", uris=["spiffe://example.org/other-admin"]))


def made(caller: Caller, method: str, approval: str = "", **fields: Any) -> Any:
    """A change, with or without an approval."""
    return caller(method, note=change_note_pb2.ChangeNote(reason="a test", approval=approval), **fields)


def asked(caller: Caller, method: str, **fields: Any) -> str:
    """A change that must wait; gives the id of its approval."""
    answer = made(caller, method, **fields)
    assert isinstance(answer, Failure), answer
    assert answer.reason == "APPROVAL_REQUIRED", answer
    return answer.metadata["approval"]


def test_a_role_is_granted_when_another_has_agreed_and_once(lab: Lab, first: Caller, second: Caller) -> None:
    grant = [role_pb2.RoleGrant(role=role_pb2.ROLE_PLAYER, tenant="acme")]
    fields = {"id": "spiffe://example.org/player", "grants": grant}
    approval = asked(first, "CreateServicePrincipal", **fields)
    assert asked(first, "CreateServicePrincipal", **fields) == approval, "the same request waits once"
    early = made(first, "CreateServicePrincipal", approval, **fields)
    assert (early.reason, "not approved yet" in early.message) == ("APPROVAL_INVALID", True)
    own = first("ApproveChange", approval=approval)
    assert (own.reason, "your own" in own.message) == ("APPROVAL_INVALID", True)
    waiting = second("ListApprovals").approvals
    assert [(one.id, one.method, one.summary) for one in waiting] == [
        (approval, "CreateServicePrincipal", "grant spiffe://example.org/player: player for acme")
    ]
    assert second("GetApproval", approval=approval).approval == waiting[0]
    assert json.loads(waiting[0].change) == {
        "effects": [
            {
                "danger": "grant_role",
                "resource": "servicePrincipals/spiffe://example.org/player",
                "before": {},
                "after": {"display_name": "", "grants": [{"role": "player", "tenant": "acme"}]},
            }
        ]
    }
    agreed = second("ApproveChange", approval=approval).approval
    assert agreed.approved_by == "spiffe://example.org/other-admin"
    assert agreed.requested_by == "spiffe://example.org/admin"
    greedy = [role_pb2.RoleGrant(role=role_pb2.ROLE_PLAYER, tenant="*")]
    other = made(first, "CreateServicePrincipal", approval, id=fields["id"], grants=greedy)
    assert (other.reason, "another request" in other.message) == ("APPROVAL_INVALID", True)
    note = change_note_pb2.ChangeNote(reason="another reason", approval=approval)
    reworded = first("CreateServicePrincipal", note=note, **fields)
    assert (reworded.reason, "another request" in reworded.message) == ("APPROVAL_INVALID", True)
    stolen = made(second, "CreateServicePrincipal", approval, **fields)
    assert (stolen.reason, "none of yours" in stolen.message) == ("APPROVAL_INVALID", True)
    assert not isinstance(made(first, "CreateServicePrincipal", approval, **fields), Failure)
    assert made(first, "CreateServicePrincipal", approval, **fields).reason in ("RESOURCE_EXISTS", "APPROVAL_INVALID")
    assert not second("ListApprovals").approvals


def test_taking_a_role_away_and_renaming_need_nobody(first: Caller, second: Caller) -> None:
    name = "spiffe://example.org/player"
    grants = first("GetServicePrincipal", service_principal=name).service_principal.grants
    renamed = made(first, "UpdateServicePrincipal", service_principal=name, etag="*", grants=grants, display_name="P")
    assert renamed.service_principal.display_name == "P"
    assert not isinstance(made(first, "UpdateServicePrincipal", service_principal=name, etag="*"), Failure)
    more = {"service_principal": name, "etag": "*", "grants": grants}
    assert asked(first, "UpdateServicePrincipal", **more)


def test_a_key_is_removed_and_gating_is_switched_off_by_two(first: Caller, second: Caller) -> None:
    assert not isinstance(made(first, "UpdateTenant", tenant="acme", etag="*", call_gate=GATED), Failure)
    approval = asked(first, "UpdateTenant", tenant="acme", etag="*", call_gate=OFF)
    assert first("GetTenant", tenant="acme").tenant.call_gate.mode == call_pb2.CALL_GATE_MODE_REFUSE
    second("ApproveChange", approval=approval)
    done = made(first, "UpdateTenant", approval, tenant="acme", etag="*", call_gate=OFF)
    assert done.tenant.call_gate.mode == call_pb2.CALL_GATE_MODE_ALLOW
    tenant = first("GetTenant", tenant="acme").tenant
    keys = [one.name.rpartition("/")[2] for one in first("ListKeys", tenant="acme").keys]
    policy = policy_pb2.Policy(default_use="deny")
    first("CreatePolicyVersion", tenant="acme", policy=policy, activate=True, etag=tenant.etag)
    assert not isinstance(made(first, "RetireKey", tenant="acme", key=keys[0], etag="*"), Failure)
    approval = asked(first, "RemoveKey", tenant="acme", key=keys[0], etag="*")
    second("ApproveChange", approval=approval)
    removed = made(first, "RemoveKey", approval, tenant="acme", key=keys[0], etag="*")
    assert not isinstance(removed, Failure), removed


def test_more_numbers_that_always_connect_are_less_gating(first: Caller) -> None:
    assert not isinstance(made(first, "UpdateTenant", tenant="acme", etag="*", call_gate=GATED), Failure)
    for field, entry in (("countries", "GB"), ("emergency_numbers", "5551234"), ("outside_line_prefixes", "555")):
        more = call_pb2.CallGate()
        more.CopyFrom(GATED)
        getattr(more, field).append(entry)
        assert asked(first, "UpdateTenant", tenant="acme", etag="*", call_gate=more), field


def test_a_document_does_not_get_around_it(first: Caller) -> None:
    assert not isinstance(made(first, "UpdateTenant", tenant="acme", etag="*", call_gate=GATED), Failure)
    document = first("ExportTenants").document
    weaker = document.replace('mode = "refuse"', 'mode = "off"')
    assert weaker != document
    assert asked(first, "ApplyTenants", document=weaker)
    assert first("GetTenant", tenant="acme").tenant.call_gate.mode == call_pb2.CALL_GATE_MODE_REFUSE
    assert first("ApplyTenants", document=weaker, dry_run=True).steps


def test_what_waits_can_be_withdrawn_and_is_seen_by_those_alone_who_may(
    lab: Lab, first: Caller, second: Caller
) -> None:
    before = {one.id for one in first("ListApprovals").approvals}
    grant = [role_pb2.RoleGrant(role=role_pb2.ROLE_TENANT_ADMIN, tenant="globex")]
    name = "spiffe://example.org/globex-admin"
    approval = asked(first, "CreateServicePrincipal", id=name, grants=grant)
    second("ApproveChange", approval=approval)
    assert not isinstance(made(first, "CreateServicePrincipal", approval, id=name, grants=grant), Failure)
    foreign = lab.by_certificate(lab.authority.issue("globex", uris=[name]))
    waiting = asked(first, "UpdateTenant", tenant="acme", etag="*", call_gate=OFF)
    assert not foreign("ListApprovals").approvals
    assert foreign("ApproveChange", approval=waiting).reason == "RESOURCE_NOT_FOUND"
    assert foreign("WithdrawApproval", approval=waiting).reason == "RESOURCE_NOT_FOUND"
    assert foreign("GetApproval", approval=waiting).reason == "RESOURCE_NOT_FOUND"
    assert not foreign("ListApprovals", tenant="acme").approvals
    assert not isinstance(second("WithdrawApproval", approval=waiting), Failure)
    assert made(first, "UpdateTenant", waiting, tenant="acme", etag="*", call_gate=OFF).reason == "APPROVAL_INVALID"
    assert {one.id for one in first("ListApprovals").approvals} == before
    records = first("ListAuditRecords", page_size=1000).records
    refused = {(one.action, one.principal, one.tenant) for one in records if one.result == "refused"}
    assert ("admin.approve_change", name, "acme") in refused
    assert ("admin.approve_change", "spiffe://example.org/admin", "") in refused
    actions = [one.action for one in records]
    assert {"admin.request_approval", "admin.approve_change", "admin.withdraw_approval"} <= set(actions)


def test_what_a_document_does_may_not_change_between_approval_and_application(first: Caller, second: Caller) -> None:
    for tenant in ("acme", "initech"):
        first("CreateTenant", id=tenant)
        assert not isinstance(made(first, "UpdateTenant", tenant=tenant, etag="*", call_gate=GATED), Failure)
    switched = {"tenant": "initech", "etag": "*", "call_gate": OFF}
    approval = asked(first, "UpdateTenant", **switched)
    second("ApproveChange", approval=approval)
    assert not isinstance(made(first, "UpdateTenant", approval, **switched), Failure)
    document = first("ExportTenants").document.replace('mode = "refuse"', 'mode = "off"')
    plan = first("ApplyTenants", document=document, dry_run=True)
    approval = asked(first, "ApplyTenants", document=document, etag=plan.etag)
    second("ApproveChange", approval=approval)
    assert not isinstance(made(second, "UpdateTenant", tenant="initech", etag="*", call_gate=GATED), Failure)
    answer = made(first, "ApplyTenants", approval, document=document)
    assert (answer.reason, "has changed since" in answer.message) == ("APPROVAL_REQUIRED", True)
    assert first("GetTenant", tenant="initech").tenant.call_gate.mode == call_pb2.CALL_GATE_MODE_REFUSE
    fresh = answer.metadata["approval"]
    assert fresh != approval
    told = json.loads(second("GetApproval", approval=fresh).approval.change)["effects"]
    assert "tenants/initech" in [one["resource"] for one in told]
    second("ApproveChange", approval=fresh)
    again = first("ApplyTenants", document=document, dry_run=True)
    done = made(first, "ApplyTenants", fresh, document=document, etag=again.etag)
    assert done.applied


def test_what_waits_comes_in_pages_and_has_an_end(first: Caller, second: Caller) -> None:
    made(first, "UpdateTenant", tenant="acme", etag="*", call_gate=GATED)
    for one in first("ListApprovals", page_size=1000).approvals:
        first("WithdrawApproval", approval=one.id)
    expected = [
        asked(first, "UpdateTenant", tenant="acme", etag="*", call_gate=OFF, display_name=f"n{number}")
        for number in range(20)
    ]
    more = made(first, "UpdateTenant", tenant="acme", etag="*", call_gate=OFF, display_name="one more")
    assert (more.reason, more.code.name) == ("APPROVALS_FULL", "RESOURCE_EXHAUSTED")
    assert "withdraw" in more.message
    found: list[str] = []
    token = ""
    while True:
        page = second("ListApprovals", page_size=7, page_token=token)
        found += [one.id for one in page.approvals]
        token = page.next_page_token
        if not token:
            break
    assert found == expected
    for one in expected:
        second("WithdrawApproval", approval=one)


def test_audit_records_are_kept_for_less_long_by_two(first: Caller, second: Caller) -> None:
    before = first("GetAuditRetention").audit_retention
    assert (before.second_person, before.HasField("agreed"), before.HasField("in_force")) == (True, False, False)
    fields = {"agreed": {"seconds": 30 * 86_400}, "etag": before.etag}
    approval = asked(first, "UpdateAuditRetention", **fields)
    [effect] = json.loads(second("GetApproval", approval=approval).approval.change)["effects"]
    assert (effect["danger"], effect["before"], effect["after"]) == (
        "retention",
        {"keep": "for ever"},
        {"keep": "for 30 days"},
    )
    second("ApproveChange", approval=approval)
    after = made(first, "UpdateAuditRetention", approval, **fields).audit_retention
    assert after.agreed.seconds == 30 * 86_400
    assert not after.HasField("in_force"), "the settings say for ever"
    longer = first("UpdateAuditRetention", agreed={"seconds": 60 * 86_400}, etag=after.etag)
    assert longer.audit_retention.agreed.seconds == 60 * 86_400
    assert first("UpdateAuditRetention", etag=after.etag).reason == "ETAG_MISMATCH"


def test_the_command_line_shows_all_of_it(lab: Lab, first: Caller, second: Caller) -> None:
    grants = [
        role_pb2.RoleGrant(role=role_pb2.ROLE_PLAYER, tenant="acme", methods=[method])
        for method in ("CheckPolicy", "KeyStatus", "Unwrap", "DecryptMedia")
    ]
    grants += [role_pb2.RoleGrant(role=role_pb2.ROLE_DATA, tenant="*")]
    approval = asked(first, "CreateServicePrincipal", id="spiffe://example.org/mole", grants=grants)
    whole = second("GetApproval", approval=approval).approval.change
    listed = command(lab, "admin", "approval", "list")
    assert whole in listed
    shown = command(lab, "admin", "approval", "show", approval)
    for part in (
        "player for acme (only DecryptMedia)",
        "data for *",
        '{"role": "data", "tenant": "*"}',
        "1 of 1 before",
    ):
        assert part in shown
    assert json.loads(command(lab, "--json", "admin", "approval", "show", approval))["change"] == whole
    kept = command(lab, "admin", "retention", "show")
    assert "two persons" in kept
    assert "for ever" in command(lab, "admin", "retention", "agree", "--forever")


def command(lab: Lab, *arguments: str) -> str:
    """What ``ownkey`` prints, as the second operator."""
    issued = lab.authority.issue("other-cli", uris=["spiffe://example.org/other-admin"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OWNKEY_")} | {
        "OWNKEY_ADDRESS": lab.address,
        "OWNKEY_CA_FILE": str(lab.authority.pem),
        "OWNKEY_CERTIFICATE_FILE": str(issued.pem),
        "OWNKEY_PRIVATE_KEY_FILE": str(issued.key),
    }
    done = subprocess.run(
        [OWNKEY, *arguments], text=True, capture_output=True, env=environment, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
