"""Customer keys through gRPC, in more than one place, to their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from ownkey.v1 import customer_key_pb2, policy_pb2
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from support import server
from support.admin import Admin, connected

SECOND = '\n[key_stores.second]\nkind = "embedded"\ndirectory = "second"\n'


def place(reference: str, store: str = "embedded") -> customer_key_pb2.KeyPlace:
    return customer_key_pb2.KeyPlace(key_store=store, reference=reference)


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    async with server.in_process(tmp_path, extra=SECOND) as address, connected(address) as calls:
        await EmbeddedKeyStore("embedded", tmp_path / "keys").create("beta-main")
        await calls("CreateTenant", id="beta")
        yield calls


def copy_key(folder: Path, reference: str, target: str) -> None:
    (folder / target).mkdir(mode=0o700, exist_ok=True)
    for path in (folder / "keys").glob(f"{reference}*"):
        (folder / target / path.name).write_bytes(path.read_bytes())
        (folder / target / path.name).chmod(0o600)


async def test_a_replica_is_added_when_it_is_the_very_key_and_can_become_the_primary(
    admin: Admin, tmp_path: Path
) -> None:
    await admin("EnrolKey", tenant="beta", key="main", primary=place("beta-main"))
    copy_key(tmp_path, "beta-main", "second")
    two = (await admin("AddKeyReplica", tenant="beta", key="main", etag="*", replica=place("beta-main", "second"))).key
    assert [one.place.key_store for one in two.replicas] == ["embedded", "second"]
    assert all(one.HasField("verify_time") for one in two.replicas)
    failure = await admin.fail("RemoveKeyReplica", tenant="beta", key="main", etag=two.etag + "0", key_store="embedded")
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    one = (await admin("RemoveKeyReplica", tenant="beta", key="main", etag=two.etag, key_store="embedded")).key
    assert [found.place.key_store for found in one.replicas] == ["second"]
    failure = await admin.fail("RemoveKeyReplica", tenant="beta", key="main", etag="*", key_store="embedded")
    assert failure.reason == "RESOURCE_NOT_FOUND"


async def test_another_key_is_no_replica_and_nothing_is_added(admin: Admin, tmp_path: Path) -> None:
    enrolled = (await admin("EnrolKey", tenant="beta", key="main", primary=place("beta-main"))).key
    await EmbeddedKeyStore("second", tmp_path / "second").create("other")
    failure = await admin.fail("AddKeyReplica", tenant="beta", key="main", etag="*", replica=place("other", "second"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ENROLMENT_FAILED")
    assert "it is another key" in failure.message
    assert (await admin("GetKey", tenant="beta", key="main")).key == enrolled


async def test_the_id_of_a_removed_key_stays_taken_and_its_place_is_free(admin: Admin) -> None:
    await admin("EnrolKey", tenant="beta", key="main", primary=place("beta-main"))
    failure = await admin.fail("RemoveKey", tenant="beta", key="main", etag="*")
    assert (failure.reason, "retire it first" in failure.message) == ("RESOURCE_IN_USE", True)
    await admin("RetireKey", tenant="beta", key="main", etag="*")
    removed = (await admin("RemoveKey", tenant="beta", key="main", etag="*")).key
    assert (removed.lifecycle, len(removed.replicas)) == (customer_key_pb2.KEY_LIFECYCLE_REMOVED, 0)
    failure = await admin.fail("EnrolKey", tenant="beta", key="main", primary=place("beta-main"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "RESOURCE_EXISTS")
    assert "which is removed" in failure.message
    for method in ("ActivateKey", "RetireKey", "RemoveKey"):
        assert (await admin.fail(method, tenant="beta", key="main", etag="*")).reason == "RESOURCE_IN_USE"
    await admin("EnrolKey", tenant="beta", key="next", primary=place("beta-main"))
    assert [key.name for key in (await admin("ListKeys", tenant="beta")).keys] == [
        "tenants/beta/keys/main",
        "tenants/beta/keys/next",
    ]


async def test_a_key_that_another_tenant_has_is_not_enrolled_and_not_told_whose_it_is(admin: Admin) -> None:
    failure = await admin.fail("EnrolKey", tenant="beta", key="main", primary=place("acme-main"))
    assert failure.reason == "RESOURCE_IN_USE"
    assert "acme/" not in failure.message
    assert "is not free" in failure.message


async def test_a_retired_key_is_no_key_for_a_policy_and_a_policy_s_key_is_not_retired(admin: Admin) -> None:
    await admin("EnrolKey", tenant="beta", key="main", primary=place("beta-main"))
    policy = policy_pb2.Policy(default_use="key:main")
    for _ in range(20):
        # One of the two must lose, whichever comes first: else the policy in force would name a retired key.
        await admin("CreatePolicyVersion", tenant="beta", policy=policy_pb2.Policy(), activate=True, etag="*")
        await admin("ActivateKey", tenant="beta", key="main", etag="*")
        answers = await asyncio.gather(
            admin("CreatePolicyVersion", tenant="beta", policy=policy, activate=True, etag="*"),
            admin("RetireKey", tenant="beta", key="main", etag="*"),
            return_exceptions=True,
        )
        failed = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert len(failed) == 1
        assert failed[0].code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
