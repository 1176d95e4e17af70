"""Branch keys are moved, given up and made anew: by two persons where that is set, and with all of it in the trail."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.approvals import Danger
from ownkey_server.domain.audit import AuditRecord, Caller
from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import ApprovalInvalid, ApprovalRequired, KeyUnreachable, ResourceInUse
from ownkey_server.domain.roles import EVERYWHERE, Permit
from ownkey_server.domain.tenants import PROVIDER_KEY_NAME, KeyLifecycle, Replica
from ownkey_server.keystores.base import GeneratedDataKey, UnwrappedDataKey
from ownkey_server.service.administration.branch_keys import PROVIDER_KEY, Moved
from ownkey_server.service.administration.desk import Act, SecondPerson
from ownkey_server.storage import branch_keys as kept
from ownkey_server.storage.database import Database
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.records import ApprovalRecord
from ownkey_server.storage.registry import PROVIDER, Change
from support.office import Office

ALL = Permit(None)
MAIN, NEXT = "tenants/acme/keys/main", "tenants/acme/keys/next"


@pytest.fixture
async def office(database: Database, tmp_path: Path) -> AsyncIterator[Office]:
    """Every danger takes two persons; ann and bob are operators; acme has two keys."""
    with ThreadPoolExecutor(4) as executor:
        second = SecondPerson(frozenset(Danger))
        made = Office(database, tmp_path / "keys", executor, second_person=second, operators=["ann", "bob"])
        await made.make("provider")
        with database.writing() as connection:
            change = Change(connection, system_clock())
            place = Replica("one", "provider")
            change.insert_key(PROVIDER_KEY_NAME, PROVIDER, KeyLifecycle.ACTIVE, [place], system_clock())
            change.insert_tenant("acme", "acme", system_clock(), CallGateTable())
        await made.directory.start()
        await made.audit.start()
        for key in ("main", "next"):
            await made.keys.enrol(act("EnrolKey", key), "acme", key, await made.make(key))
        yield made
        await made.audit.close()
        for store in made.stores.values():
            await store.close()


def act(method: str, what: object = "", who: str = "ann") -> Act:
    """An act; ``what`` stands for all that its request says."""
    return Act(Caller(who), who, "a test", method, repr((method, what)).encode())


async def rotated(office: Office, key: str = "main") -> str:
    """Id of a new branch key under a key of acme's."""
    return (await office.branch_keys.rotate(act("RotateBranchKey", key), "acme", key)).id


async def move(office: Office, approval: str = "", most: int = 20) -> Moved:
    made = replace(act("RewrapBranchKeys", most), approval=approval)
    return await office.branch_keys.rewrap(made, "acme", "main", "next", most)


async def asked(coroutine: Any) -> str:
    """The approval that a change waits for."""
    with pytest.raises(ApprovalRequired) as caught:
        await coroutine
    return str(caught.value.approval)


async def agreed(office: Office, approval: str) -> ApprovalRecord:
    """Bob has agreed."""
    await office.approvals.approve(act("ApproveChange", approval, "bob"), approval, ALL)
    return await office.approvals.get(approval, ALL)


async def keys_of(office: Office) -> Mapping[str, str]:
    return {one.id: one.key for one in await office.branch_keys.list("acme", "", "", 100)}


def calls_of(records: list[AuditRecord], action: str) -> list[list[tuple[str, str]]]:
    found = [one.detail.get("key_store_calls", []) for one in records if one.action == action]
    return [[(call["replica"], call["result"]) for call in calls] for calls in found]


async def test_nobody_moves_branch_keys_to_a_key_of_their_own_alone(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    branches = sorted([await rotated(office), await rotated(office)])
    opened = 0

    async def counted(*_: object) -> UnwrappedDataKey:
        nonlocal opened
        opened += 1
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(office.stores["one"], "unwrap", counted)
        approval = await asked(move(office))
        with pytest.raises(ApprovalInvalid, match="not approved yet"):
            await move(office, approval)
        assert opened == 0, "no key is used before a second person has agreed"
    assert set((await keys_of(office)).values()) == {MAIN}
    waiting = await agreed(office, approval)
    place = [{"key_store": "one", "reference": "main"}]
    other = [{"key_store": "one", "reference": "next"}]
    [effect] = json.loads(waiting.change)["effects"]
    assert effect == {
        "danger": "move_branch_keys",
        "resource": MAIN,
        "before": {"key": MAIN, "replicas": place, "branch_keys": branches},
        "after": {"key": NEXT, "replicas": other, "branch_keys": branches},
    }
    assert await move(office, approval) == Moved(2, 0)
    assert await keys_of(office) == dict.fromkeys(branches, NEXT)
    [told] = [one for one in office.trail.records if one.action == "admin.rewrap_branch_keys"]
    assert (told.detail["approved_by"], told.detail["branch_keys"]) == ("bob", branches)
    assert await move(office, approval) == Moved(0, 0), "where nothing is moved there is nothing to agree to"
    await rotated(office)
    with pytest.raises(ApprovalInvalid):
        await move(office, approval)


async def test_what_is_moved_is_what_was_agreed_to(office: Office) -> None:
    first = await rotated(office)
    approval = await asked(move(office))
    await agreed(office, approval)
    second = await rotated(office)
    with pytest.raises(ApprovalRequired, match="has changed") as caught:
        await move(office, approval)
    approval = caught.value.approval
    await agreed(office, approval)
    place = office.copy("next", "one", "two")
    await office.keys.add_replica(act("AddKeyReplica"), "acme", "next", "*", place)
    with pytest.raises(ApprovalRequired, match="has changed") as caught:
        await move(office, approval)
    assert await keys_of(office) == {first: MAIN, second: MAIN}
    await agreed(office, caught.value.approval)
    assert await move(office, caught.value.approval) == Moved(2, 0)


async def test_one_agreement_is_for_one_call(office: Office) -> None:
    for _ in range(2):
        await rotated(office)
    approval = await asked(move(office, most=1))
    waiting = await agreed(office, approval)
    assert waiting.summary.startswith(f"move 1 of 2 branch keys to {NEXT}")
    assert await move(office, approval, most=1) == Moved(1, 1)
    await asked(move(office, most=1))


async def test_a_tenant_with_branch_keys_is_deleted_by_two(office: Office) -> None:
    await rotated(office)
    await office.branch_keys.rotate(act("RotateBranchKey", "provider"), "acme", PROVIDER_KEY)
    for key in ("main", "next"):
        await office.keys.retire(act("RetireKey", key), "acme", key, "*")
        remove = act("RemoveKey", key)
        approval = await asked(office.keys.remove(remove, "acme", key, "*", abandon_branch_keys=True))
        await agreed(office, approval)
        by_two = replace(remove, approval=approval)
        await office.keys.remove(by_two, "acme", key, "*", abandon_branch_keys=True)
    delete = act("DeleteTenant")
    approval = await asked(office.tenants.delete(delete, "acme", "*", abandon_branch_keys=True))
    waiting = await agreed(office, approval)
    [effect] = json.loads(waiting.change)["effects"]
    assert effect == {
        "danger": "remove_key",
        "resource": "tenants/acme",
        "before": {"branch_keys": 2, "under_provider_key": 1},
        "after": {"branch_keys": 0, "under_provider_key": 0},
    }
    assert len(await keys_of(office)) == 2
    await office.tenants.delete(replace(delete, approval=approval), "acme", "*", abandon_branch_keys=True)
    [told] = [one for one in office.trail.records if one.action == "admin.delete_tenant"]
    assert (told.detail["approved_by"], told.detail["deleted_branch_keys"]) == ("bob", 2)


async def test_a_tenant_without_branch_keys_is_deleted_by_one(office: Office) -> None:
    await office.tenants.create(act("CreateTenant"), "empty", "Empty", None, CallGateTable())
    await office.tenants.delete(act("DeleteTenant"), "empty", "*", abandon_branch_keys=True)
    assert EVERYWHERE not in [one.id for one in await office.tenants.list("", 10)]


async def test_a_key_that_was_retired_meanwhile_gets_no_new_branch_key(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = office.stores["one"].generate_data_key

    async def retired_meanwhile(reference: str, context: Mapping[str, str], timeout: float) -> GeneratedDataKey:
        made = await generate(reference, context, timeout)
        await office.keys.retire(act("RetireKey"), "acme", "main", "*")
        return made

    monkeypatch.setattr(office.stores["one"], "generate_data_key", retired_meanwhile)
    with pytest.raises(ResourceInUse, match="retired or removed meanwhile"):
        await rotated(office)
    assert await keys_of(office) == {}
    [told] = [one for one in office.refusals.records if one.action == "admin.rotate_branch_key"]
    assert told.detail["replica"] == "one", "the key was used all the same"


async def test_every_place_that_was_asked_for_a_new_branch_key_is_in_the_trail(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = office.copy("main", "one", "two")
    await office.keys.add_replica(act("AddKeyReplica"), "acme", "main", "*", place)

    async def away(reference: str, *_: object) -> GeneratedDataKey:
        raise KeyUnreachable("one", reference, "as the test says")

    monkeypatch.setattr(office.stores["one"], "generate_data_key", away)
    await rotated(office)
    both = [("one", "KEY_UNREACHABLE"), ("two", "ok")]
    assert calls_of(office.trail.records, "admin.rotate_branch_key") == [both]

    def in_the_way(*_: object) -> object:
        raise ResourceInUse(MAIN, "as the test says")

    monkeypatch.setattr(kept, "add", in_the_way)
    with pytest.raises(ResourceInUse):
        await rotated(office)
    [refused] = calls_of(office.refusals.records, "admin.rotate_branch_key")
    assert refused[-1] == ("two", "ok")
    assert refused[0][0] == "one"


async def test_what_was_opened_and_not_moved_is_in_the_trail_too(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rotated(office)
    approval = await asked(move(office))
    await agreed(office, approval)
    unwrap = office.stores["one"].unwrap

    async def retired_meanwhile(
        reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> UnwrappedDataKey:
        opened = await unwrap(reference, wrapped, context, timeout)
        if reference == "next":
            await office.keys.retire(act("RetireKey"), "acme", "next", "*")
        return opened

    monkeypatch.setattr(office.stores["one"], "unwrap", retired_meanwhile)
    with pytest.raises(ResourceInUse, match="retired or removed meanwhile"):
        await move(office, approval)
    assert set((await keys_of(office)).values()) == {MAIN}
    [refused] = calls_of(office.refusals.records, "admin.rewrap_branch_key")
    assert refused == [("one", "ok")] * 3
