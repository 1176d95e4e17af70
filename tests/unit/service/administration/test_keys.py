from __future__ import annotations

import asyncio

import pytest

from ownkey_server.domain.errors import (
    EnrolmentFailed,
    EtagMismatch,
    InvalidRequest,
    KeyMisconfigured,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    OperationUnsupported,
    OwnkeyError,
    ResourceExists,
    ResourceInUse,
    ResourceNotFound,
    StoreMisconfigured,
)
from ownkey_server.domain.tenants import KeyLifecycle, Replica, key_name
from ownkey_server.keystores.base import GeneratedDataKey
from ownkey_server.service.administration.desk import Done
from ownkey_server.storage.documents import PolicyTable
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.registry import Change
from support.office import Office

GATE = CallGateTable()


@pytest.fixture
async def acme(office: Office) -> Office:
    await office.tenants.create(office.act, "acme", "Acme", None, GATE)
    return office


async def test_a_key_that_works_is_active_at_once(acme: Office) -> None:
    key = await acme.keys.enrol(acme.act, "acme", "main", await acme.make("acme-main"))
    assert (key.lifecycle, key.replicas[0].place) == (KeyLifecycle.ACTIVE, Replica("one", "acme-main"))
    assert key.replicas[0].verify_time is not None
    assert (await acme.directory.tenant("acme")).keys["main"].lifecycle.wraps
    assert acme.actions() == ["create_tenant", "enrol_key"]


@pytest.mark.parametrize(
    ("place", "cause"),
    [
        (Replica("one", "no-such-key"), "key 'no-such-key' of key store 'one' cannot be used: it is misconfigured"),
    ],
)
async def test_a_key_that_does_not_work_is_not_added_and_the_reason_is_told_and_recorded(
    acme: Office, place: Replica, cause: str
) -> None:
    with pytest.raises(EnrolmentFailed, match=cause):
        await acme.keys.enrol(acme.act, "acme", "main", place)
    assert await acme.keys.list("acme") == []
    [refusal] = acme.refusals.records
    assert (refusal.action, refusal.reason) == ("admin.enrol_key", "ENROLMENT_FAILED")
    assert cause in refusal.detail["error"]


async def test_a_key_store_that_is_not_in_the_settings_is_a_mistake_of_the_request(acme: Office) -> None:
    cause = "the settings have no such key store; they have: one, three, two"
    with pytest.raises(InvalidRequest, match=rf"^primary\.key_store: {cause}"):
        await acme.keys.enrol(acme.act, "acme", "main", Replica("seven", "acme-main"))
    [refusal] = acme.refusals.records
    assert (refusal.action, refusal.reason) == ("admin.enrol_key", "INVALID_FIELD")
    assert await acme.keys.list("acme") == []
    await acme.keys.enrol(acme.act, "acme", "main", await acme.make("acme-main"))
    with pytest.raises(InvalidRequest, match=r"^replica\.key_store"):
        await acme.keys.add_replica(acme.act, "acme", "main", "*", Replica("seven", "acme-main"))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (KeyUnreachable, KeyUnreachable),
        (KeyStoreThrottled, KeyStoreThrottled),
        (StoreMisconfigured, StoreMisconfigured),
        (KeyMisconfigured, EnrolmentFailed),
        (OperationUnsupported, EnrolmentFailed),
    ],
)
async def test_what_is_no_fault_of_the_key_is_told_as_what_it_is(
    acme: Office, monkeypatch: pytest.MonkeyPatch, fault: type[KeyStoreError], told: type[OwnkeyError]
) -> None:
    place = await acme.make("acme-main")
    await acme.keys.enrol(acme.act, "acme", "main", place)
    same = acme.copy("acme-main", "one", "three")

    async def fails(*_: object) -> GeneratedDataKey:
        raise fault("three", "acme-main", "as the test says")

    monkeypatch.setattr(acme.stores["three"], "generate_data_key", fails)
    for refused in (
        acme.keys.enrol(acme.act, "acme", "other", Replica("three", "x")),
        acme.keys.add_replica(acme.act, "acme", "main", "*", same),
    ):
        with pytest.raises(told):
            await refused
        assert acme.refusals.records[-1].reason == told.reason
    monkeypatch.undo()
    await acme.keys.add_replica(acme.act, "acme", "main", "*", same)
    monkeypatch.setattr(acme.stores["three"], "generate_data_key", fails)
    with pytest.raises(told):
        await acme.keys.activate(acme.act, "acme", "main", "*")


async def test_a_key_that_was_disabled_is_not_added(acme: Office) -> None:
    place = await acme.make("acme-main")
    await acme.stores["one"].disable("acme-main")
    with pytest.raises(EnrolmentFailed, match="it is revoked"):
        await acme.keys.enrol(acme.act, "acme", "main", place)


async def test_a_key_of_another_tenant_cannot_be_taken_nor_learned_of(acme: Office) -> None:
    await acme.tenants.create(acme.act, "umbrella", "", None, GATE)
    place = await acme.make("acme-main")
    await acme.keys.enrol(acme.act, "acme", "main", place)
    with pytest.raises(ResourceInUse, match="is not free") as caught:
        await acme.keys.enrol(acme.act, "umbrella", "main", place)
    assert "acme/" not in str(caught.value)
    with pytest.raises(ResourceInUse, match="provider/keys/main"):
        await acme.keys.enrol(acme.act, "acme", "mine", Replica("one", "provider"))


async def test_a_wrapped_key_can_always_tell_which_key_made_it(acme: Office) -> None:
    await acme.keys.enrol(acme.act, "acme", "main", await acme.make("shared-name"))
    with pytest.raises(ResourceInUse, match="would not tell which made it"):
        await acme.keys.enrol(acme.act, "acme", "other", await acme.make("shared-name", "two"))


async def test_a_replica_is_the_same_key_or_it_is_refused(acme: Office) -> None:
    key = await acme.keys.enrol(acme.act, "acme", "main", await acme.make("acme-main"))
    another = await acme.make("acme-main", "two")
    with pytest.raises(EnrolmentFailed, match="it is another key"):
        await acme.keys.add_replica(acme.act, "acme", "main", key.stamp.etag, another)
    same = acme.copy("acme-main", "one", "three")
    grown = await acme.keys.add_replica(acme.act, "acme", "main", key.stamp.etag, same)
    assert [one.place.store for one in grown.replicas] == ["one", "three"]
    with pytest.raises(EtagMismatch):
        await acme.keys.remove_replica(acme.act, "acme", "main", key.stamp.etag, "one")
    shrunk = await acme.keys.remove_replica(acme.act, "acme", "main", grown.stamp.etag, "one")
    assert [one.place.store for one in shrunk.replicas] == ["three"]
    with pytest.raises(ResourceInUse, match="only replica"):
        await acme.keys.remove_replica(acme.act, "acme", "main", "*", "three")
    with pytest.raises(ResourceNotFound, match="replicas/one: there is none of that name; there are: three"):
        await acme.keys.remove_replica(acme.act, "acme", "main", "*", "one")


async def test_a_place_is_named_by_store_and_region_and_by_the_store_alone_where_that_is_enough(acme: Office) -> None:
    arn = "arn:aws:kms:{}:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
    ireland, virginia = (Replica("aws", arn.format(region)) for region in ("eu-west-1", "us-east-1"))
    places = [ireland, virginia, Replica("one", "acme-main")]

    def untried(change: Change) -> Done:
        return Done(change.insert_key(key_name("acme", "main"), "acme", KeyLifecycle.ACTIVE, places, None), {})

    await acme.desk.change(acme.act, "enrol_key", "acme", key_name("acme", "main"), untried)
    with pytest.raises(ResourceNotFound, match="there are: aws/eu-west-1, aws/us-east-1, one"):
        await acme.keys.remove_replica(acme.act, "acme", "main", "*", "aws")
    left = await acme.keys.remove_replica(acme.act, "acme", "main", "*", "aws/eu-west-1")
    assert [one.place for one in left.replicas] == [virginia, Replica("one", "acme-main")]
    left = await acme.keys.remove_replica(acme.act, "acme", "main", "*", "aws")
    assert [one.place.name for one in left.replicas] == ["one"]


async def test_a_key_goes_from_active_to_retired_to_removed_and_its_id_stays_taken(acme: Office) -> None:
    place = await acme.make("acme-main")
    await acme.keys.enrol(acme.act, "acme", "main", place)
    await acme.policies.create(acme.act, "acme", PolicyTable(default="key:main"), etag="*", put_in_force=True)
    with pytest.raises(ResourceInUse, match="the default of the policy in force names it"):
        await acme.keys.retire(acme.act, "acme", "main", "*")
    await acme.policies.create(acme.act, "acme", PolicyTable(), etag="*", put_in_force=True)
    with pytest.raises(ResourceInUse, match="it is active: retire it first"):
        await acme.keys.remove(acme.act, "acme", "main", "*")
    retired = await acme.keys.retire(acme.act, "acme", "main", "*")
    assert retired.lifecycle is KeyLifecycle.RETIRED
    with pytest.raises(ResourceInUse, match="key 'main' is retired"):
        await acme.policies.put_in_force(acme.act, "acme", 1, "*")
    assert (await acme.keys.activate(acme.act, "acme", "main", "*")).lifecycle is KeyLifecycle.ACTIVE
    await acme.keys.retire(acme.act, "acme", "main", "*")
    removed = await acme.keys.remove(acme.act, "acme", "main", "*")
    assert (removed.lifecycle, removed.replicas) == (KeyLifecycle.REMOVED, ())
    assert (await acme.directory.tenant("acme")).keys == {}
    with pytest.raises(ResourceExists, match="which is removed"):
        await acme.keys.enrol(acme.act, "acme", "main", place)
    for act in (acme.keys.activate, acme.keys.retire, acme.keys.remove):
        with pytest.raises(ResourceInUse, match="it was removed"):
            await act(acme.act, "acme", "main", "*")
    assert (await acme.keys.enrol(acme.act, "acme", "again", place)).lifecycle is KeyLifecycle.ACTIVE


async def test_a_key_that_stopped_working_is_not_activated_again(acme: Office) -> None:
    await acme.keys.enrol(acme.act, "acme", "main", await acme.make("acme-main"))
    await acme.keys.retire(acme.act, "acme", "main", "*")
    await acme.stores["one"].disable("acme-main")
    with pytest.raises(EnrolmentFailed, match="it is revoked"):
        await acme.keys.activate(acme.act, "acme", "main", "*")
    assert (await acme.keys.get("acme", "main")).lifecycle is KeyLifecycle.RETIRED


async def test_a_tenant_is_deleted_only_when_nothing_depends_on_it(acme: Office) -> None:
    await acme.keys.enrol(acme.act, "acme", "main", await acme.make("acme-main"))
    await acme.groups.create(acme.act, "acme", "finance", ["frida"])
    with pytest.raises(ResourceInUse, match="it has keys: main"):
        await acme.tenants.delete(acme.act, "acme", "*")
    await acme.keys.retire(acme.act, "acme", "main", "*")
    await acme.keys.remove(acme.act, "acme", "main", "*")
    with pytest.raises(ResourceInUse, match="it has groups: finance"):
        await acme.tenants.delete(acme.act, "acme", "*")
    await acme.groups.delete(acme.act, "acme", "finance", "*")
    await acme.tenants.delete(acme.act, "acme", "*")
    with pytest.raises(ResourceNotFound):
        await acme.tenants.get("acme")


async def test_of_administrators_at_once_one_changes_it_and_the_others_are_told(acme: Office) -> None:
    for turn in range(20):
        before = await acme.tenants.get("acme")
        names = [f"{turn}-{number}" for number in range(4)]
        answers = await asyncio.gather(
            *(acme.tenants.update(acme.act, "acme", before.stamp.etag, name, None) for name in names),
            return_exceptions=True,
        )
        done = [name for name, answer in zip(names, answers, strict=True) if not isinstance(answer, EtagMismatch)]
        assert len(done) == 1
        assert (await acme.tenants.get("acme")).display_name == done[0]
