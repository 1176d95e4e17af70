"""What a second person agrees to is shown whole, is what is done, and counts only while that person may agree."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ownkey_server.domain.approvals import MAX_CHANGE_BYTES, Danger
from ownkey_server.domain.assets import AssetClass
from ownkey_server.domain.audit import Caller
from ownkey_server.domain.call_gates import GateMode
from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import (
    ApprovalInvalid,
    ApprovalRequired,
    InvalidRequest,
    ResourceNotFound,
    TooManyWaiting,
)
from ownkey_server.domain.revocations import Ending, Scope
from ownkey_server.domain.roles import EVERYWHERE, Grant, Permit, Role
from ownkey_server.domain.tenants import PROVIDER_KEY_NAME, KeyLifecycle, Replica
from ownkey_server.service.administration.desk import Act, SecondPerson
from ownkey_server.service.administration.revocations import Revocations
from ownkey_server.storage.approvals import MAX_OF_PRINCIPAL, MAX_OF_TENANT
from ownkey_server.storage.database import Database
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.records import ApprovalRecord
from ownkey_server.storage.registry import PROVIDER, Change
from support.office import Office

ALL = Permit(None)
GATED = CallGateTable(mode=GateMode.REFUSE, countries=["US"])
OFF = CallGateTable()
OPERATOR = Grant(Role.OPERATOR, EVERYWHERE)
PATIENCE = timedelta(days=1)


class Hours:
    """The present time, which a test can move on."""

    def __init__(self) -> None:
        self.later = timedelta()

    def __call__(self) -> datetime:
        return system_clock() + self.later


@pytest.fixture
def hours() -> Hours:
    return Hours()


@pytest.fixture
async def office(database: Database, tmp_path: Path, hours: Hours) -> AsyncIterator[Office]:
    """Every danger takes two persons; ann, bob and cy are operators, bob by the registry alone."""
    with ThreadPoolExecutor(4) as executor:
        second = SecondPerson(frozenset(Danger), PATIENCE)
        made = Office(database, tmp_path / "keys", executor, second_person=second, operators=["ann", "cy"], clock=hours)
        await made.make("provider")
        with database.writing() as connection:
            change = Change(connection, system_clock())
            place = Replica("one", "provider")
            change.insert_key(PROVIDER_KEY_NAME, PROVIDER, KeyLifecycle.ACTIVE, [place], system_clock())
            change.insert_principal("bob", "", [OPERATOR])
            for tenant in ("acme", "globex"):
                change.insert_tenant(tenant, tenant, system_clock(), GATED)
        await made.directory.start()
        await made.audit.start()
        yield made
        await made.audit.close()
        for store in made.stores.values():
            await store.close()


def act(who: str, method: str, what: object = "", approval: str = "", reason: str = "a test") -> Act:
    """An act; ``what`` stands for all that its request says."""
    return Act(Caller(who), who, reason, method, repr((method, what, reason)).encode(), approval)


async def switch_off(office: Office, tenant: str = "acme", approval: str = "", who: str = "ann") -> object:
    """Switch a tenant's call gate off."""
    return await office.tenants.update(act(who, "UpdateTenant", tenant, approval), tenant, "*", None, OFF)


async def asked(coroutine: Any) -> str:
    """The approval that a change waits for."""
    with pytest.raises(ApprovalRequired) as caught:
        await coroutine
    return str(caught.value.approval)


async def waiting(office: Office) -> list[ApprovalRecord]:
    return await office.approvals.list("", ALL)


async def agreed(office: Office, approval: str, by: str = "bob") -> None:
    await office.approvals.approve(act(by, "ApproveChange", approval), approval, ALL)


def effects(record: ApprovalRecord) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(record.change)["effects"]
    return found


async def test_every_grant_is_shown_with_all_that_limits_it(office: Office) -> None:
    grants = [
        *(Grant(Role.PLAYER, "acme", methods=frozenset({one})) for one in ("KeyStatus", "CheckPolicy", "Unwrap")),
        Grant(Role.AUDITOR, "acme"),
        Grant(Role.RECORDER, "acme", frozenset({AssetClass.PHONE_VOICEMAIL}), frozenset({"GenerateDataKey"})),
        Grant(Role.DATA, EVERYWHERE),
    ]
    await asked(office.principals.create(act("ann", "CreateServicePrincipal"), "mole", "Mole", grants))
    [found] = await waiting(office)
    [effect] = effects(found)
    assert (effect["danger"], effect["resource"], effect["before"]) == ("grant_role", "servicePrincipals/mole", {})
    assert effect["after"]["display_name"] == "Mole"
    assert effect["after"]["grants"][4] == {
        "role": "recorder",
        "tenant": "acme",
        "asset_classes": ["phone_voicemail"],
        "methods": ["GenerateDataKey"],
    }
    assert effect["after"]["grants"][5] == {"role": "data", "tenant": "*"}
    assert found.summary.endswith("recorder for acme (of phone_voicemail; only GenerateDataKey); data for *")
    [record] = [one for one in office.trail.records if one.action == "admin.request_approval"]
    assert record.detail["change"] == json.loads(found.change)


async def test_gates_and_keys_are_shown_before_and_after(office: Office) -> None:
    await asked(switch_off(office))
    [found] = await waiting(office)
    [effect] = effects(found)
    assert effect["before"]["call_gate"]["mode"] == "refuse"
    assert effect["before"]["call_gate"]["countries"] == ["US"]
    assert effect["after"]["call_gate"]["mode"] == "allow"
    assert (found.author, found.reason) == ("ann", "a test")


async def test_what_cannot_be_shown_whole_is_refused(office: Office) -> None:
    numbers = [f"{number:015}" for number in range(MAX_CHANGE_BYTES // 16)]
    more = GATED.model_copy(update={"emergency_numbers": numbers})
    with pytest.raises(InvalidRequest, match=r"call_gate.*second person can be shown.*262144: split it"):
        await office.tenants.update(act("ann", "UpdateTenant"), "acme", "*", None, more)
    assert await waiting(office) == []


async def test_a_document_that_would_switch_off_more_than_was_approved_does_not(office: Office) -> None:
    await switch_off_by_two(office, "globex")
    document = (await office.configuration.export()).replace('mode = "refuse"', 'mode = "off"')
    apply = act("ann", "ApplyTenants", document)
    first = await asked(office.configuration.apply(apply, document, dry_run=False))
    [effect] = effects((await waiting(office))[0])
    assert effect["resource"] == "tenants/acme"
    await agreed(office, first)
    await office.tenants.update(act("cy", "UpdateTenant"), "globex", "*", None, GATED)
    by_first = replace(apply, approval=first)
    with pytest.raises(ApprovalRequired, match="has changed since it was approved") as caught:
        await office.configuration.apply(by_first, document, dry_run=False)
    assert (await office.tenants.get("globex")).call_gate.mode is GateMode.REFUSE
    [fresh] = await waiting(office)
    assert fresh.id == caught.value.approval != first
    assert [one["resource"] for one in effects(fresh)] == ["tenants/acme", "tenants/globex"]
    assert fresh.approved_by == ""
    record = [one for one in office.trail.records if one.action == "admin.request_approval"][-1]
    assert record.detail["instead_of"] == first
    await agreed(office, fresh.id)
    assert (await office.configuration.apply(replace(apply, approval=fresh.id), document, dry_run=False)).applied
    assert await waiting(office) == []
    done = [one for one in office.trail.records if one.action == "admin.apply_tenants"][-1]
    assert done.detail["approved_by"] == "bob"


async def switch_off_by_two(office: Office, tenant: str) -> None:
    approval = await asked(switch_off(office, tenant))
    await agreed(office, approval)
    await switch_off(office, tenant, approval)


async def test_a_gate_that_was_changed_meanwhile_is_approved_anew(office: Office) -> None:
    approval = await asked(switch_off(office))
    await agreed(office, approval)
    stricter = CallGateTable(mode=GateMode.REFUSE, countries=["US"], directions=GATED.directions[:2])
    await office.tenants.update(act("bob", "UpdateTenant", 1), "globex", "*", "another", None)
    await switch_gate_by_two(office, stricter)
    with pytest.raises(ApprovalRequired, match="has changed"):
        await switch_off(office, approval=approval)
    assert (await office.tenants.get("acme")).call_gate.mode is GateMode.REFUSE


async def switch_gate_by_two(office: Office, gate: CallGateTable) -> None:
    approval = await asked(office.tenants.update(act("cy", "UpdateTenant", 7), "acme", "*", None, gate))
    await agreed(office, approval)
    await office.tenants.update(act("cy", "UpdateTenant", 7, approval), "acme", "*", None, gate)


async def test_a_key_that_is_elsewhere_by_now_is_not_removed(office: Office) -> None:
    await office.keys.enrol(act("ann", "EnrolKey"), "acme", "main", await office.make("main"))
    await office.keys.add_replica(act("ann", "AddKeyReplica"), "acme", "main", "*", office.copy("main", "one", "two"))
    await office.keys.retire(act("ann", "RetireKey"), "acme", "main", "*")
    approval = await asked(office.keys.remove(act("ann", "RemoveKey"), "acme", "main", "*"))
    [effect] = effects((await waiting(office))[0])
    assert [one["key_store"] for one in effect["before"]["replicas"]] == ["one", "two"]
    assert effect["after"] == {"lifecycle": "removed", "replicas": [], "branch_keys": 0}
    await agreed(office, approval)
    await office.keys.remove_replica(act("cy", "RemoveKeyReplica"), "acme", "main", "*", "two")
    with pytest.raises(ApprovalRequired, match="has changed"):
        await office.keys.remove(act("ann", "RemoveKey", approval=approval), "acme", "main", "*")
    assert (await office.keys.get("acme", "main")).lifecycle is KeyLifecycle.RETIRED


async def test_a_principal_who_holds_something_else_by_now_is_granted_nothing(office: Office) -> None:
    approval = await asked(office.principals.create(act("ann", "CreateServicePrincipal"), "dan", "", [OPERATOR]))
    await agreed(office, approval)
    await office.principals.create(act("ann", "CreateServicePrincipal", approval=approval), "dan", "", [OPERATOR])
    both = [OPERATOR, Grant(Role.AUDITOR, EVERYWHERE)]
    update = act("ann", "UpdateServicePrincipal")
    approval = await asked(office.principals.update(update, "dan", "*", "", both))
    await agreed(office, approval)
    await office.principals.update(act("cy", "UpdateServicePrincipal", 1), "dan", "*", "", [])
    with pytest.raises(ApprovalRequired, match="has changed"):
        await office.principals.update(replace(update, approval=approval), "dan", "*", "", both)
    assert (await office.principals.get("dan")).grants == ()


async def test_who_may_not_approve_any_more_has_not_approved(office: Office) -> None:
    approval = await asked(switch_off(office))
    await agreed(office, approval)
    await office.principals.update(act("cy", "UpdateServicePrincipal"), "bob", "*", "", [])
    with pytest.raises(ApprovalInvalid, match="approved by bob, who may not do so any more"):
        await switch_off(office, approval=approval)
    await office.principals.delete(act("cy", "DeleteServicePrincipal"), "bob", "*")
    with pytest.raises(ApprovalInvalid, match="may not do so any more"):
        await switch_off(office, approval=approval)
    await agreed(office, approval, by="cy")
    await switch_off(office, approval=approval)


async def test_an_approver_is_not_made_one_by_what_was_approved(office: Office) -> None:
    """Who was removed after agreeing to come back does not count by coming back."""
    more = [OPERATOR, Grant(Role.AUDITOR, EVERYWHERE)]
    approval = await asked(office.principals.update(act("ann", "UpdateServicePrincipal"), "bob", "*", "", more))
    await agreed(office, approval)
    await office.principals.update(act("cy", "UpdateServicePrincipal", 1), "bob", "*", "", [])
    fresh = await asked(
        office.principals.update(act("ann", "UpdateServicePrincipal", approval=approval), "bob", "*", "", more)
    )
    with pytest.raises(ResourceNotFound):
        await agreed(office, fresh)


async def test_another_reason_or_author_is_another_request(office: Office) -> None:
    approval = await asked(switch_off(office))
    await agreed(office, approval)
    other = act("ann", "UpdateTenant", "acme", approval, reason="something else")
    with pytest.raises(ApprovalInvalid, match="another request"):
        await office.tenants.update(other, "acme", "*", None, OFF)


async def test_refused_approvals_are_in_the_trail(office: Office, hours: Hours) -> None:
    approval = await asked(switch_off(office))
    with pytest.raises(ApprovalInvalid, match="your own"):
        await agreed(office, approval, by="ann")
    with pytest.raises(ResourceNotFound):
        await agreed(office, "0123")
    with pytest.raises(ResourceNotFound):
        await agreed(office, approval, by="nobody")
    globex = Permit(frozenset({"globex"}))
    with pytest.raises(ResourceNotFound):
        await office.approvals.approve(act("cy", "ApproveChange"), approval, globex)
    with pytest.raises(ResourceNotFound):
        await office.approvals.withdraw(act("cy", "WithdrawApproval"), approval, globex)
    hours.later = 2 * PATIENCE
    with pytest.raises(ResourceNotFound):
        await agreed(office, approval)
    found = [
        (one.action, one.reason, one.tenant, one.caller.principal)
        for one in office.refusals.records
        if one.action in ("admin.approve_change", "admin.withdraw_approval")
    ]
    assert found == [
        ("admin.approve_change", "APPROVAL_INVALID", "acme", "ann"),
        ("admin.approve_change", "RESOURCE_NOT_FOUND", "", "bob"),
        ("admin.approve_change", "PERMISSION_DENIED", "acme", "nobody"),
        ("admin.approve_change", "PERMISSION_DENIED", "acme", "cy"),
        ("admin.withdraw_approval", "PERMISSION_DENIED", "acme", "cy"),
        ("admin.approve_change", "APPROVAL_INVALID", "", "bob"),
    ]


async def test_one_caller_and_one_tenant_fill_no_list_of_another(office: Office) -> None:
    for number in range(MAX_OF_PRINCIPAL):
        await asked(switch_off_named(office, "acme", number))
    with pytest.raises(TooManyWaiting, match="20 changes of yours wait already"):
        await switch_off_named(office, "acme", MAX_OF_PRINCIPAL)
    with pytest.raises(TooManyWaiting):
        await switch_off_named(office, "globex", 0)
    for number in range(MAX_OF_PRINCIPAL, MAX_OF_TENANT):
        await asked(switch_off_named(office, "acme", number, who=f"x{number // MAX_OF_PRINCIPAL}"))
    with pytest.raises(TooManyWaiting, match="100 changes of acme wait already"):
        await switch_off_named(office, "acme", 0, who="bob")
    approval = await asked(switch_off_named(office, "globex", 0, who="bob"))
    globex = Permit(frozenset({"globex"}))
    assert [one.id for one in await office.approvals.list("", globex)] == [approval]
    assert [one.id for one in await office.approvals.list("globex", ALL)] == [approval]
    assert await office.approvals.list("acme", globex) == []
    await agreed(office, approval, by="cy")


async def switch_off_named(office: Office, tenant: str, number: int, who: str = "ann") -> object:
    return await office.tenants.update(act(who, "UpdateTenant", (tenant, number)), tenant, "*", f"n{number}", OFF)


async def test_what_waits_comes_in_pages(office: Office) -> None:
    expected = [await asked(switch_off_named(office, "acme", number)) for number in range(7)]
    found: list[str] = []
    after = (0, "")
    while page := await office.approvals.list("", ALL, after, 3):
        found += [one.id for one in page]
        last = page[-1]
        after = (int(last.create_time.timestamp() * 1_000_000 + 0.5), last.id)
    assert found == expected


async def test_what_was_taken_back_alone_is_given_back_by_two(office: Office) -> None:
    revocations = Revocations(office.desk)
    scope = Scope(users=frozenset({"ann"}))
    one = await revocations.revoke(act("ann", "Revoke"), "acme", scope, Ending.CUT, everything=False)
    approval = await asked(revocations.restore(act("ann", "Restore", one.id), "acme", one.id))
    [effect] = effects((await waiting(office))[0])
    assert (effect["danger"], effect["resource"]) == ("restore", f"tenants/acme/revocations/{one.id}")
    assert effect["before"] == {"in_force": True, "scope": '{"users": ["ann"]}'}
    assert (await revocations.get("acme", one.id)).in_force
    await agreed(office, approval)
    assert not (await revocations.restore(act("ann", "Restore", one.id, approval), "acme", one.id)).in_force
    assert office.trail.records[-1].detail["approved_by"] == "bob"
