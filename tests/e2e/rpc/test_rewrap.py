"""Rewrap: what moves, what stays, what is refused, and what the trail says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ownkey.container import branch_id_of
from ownkey.v1 import asset_pb2, policy_pb2
from ownkey.v1 import key_service_pb2 as pb
from ownkey.wrapped_key import WrappedKey
from support.admin import Admin
from support.rpc import Rpc, asset

MAIN, FINANCE, PROVIDER = "tenants/acme/keys/main", "tenants/acme/keys/finance", "provider/keys/main"
CHAT, RECORDING = asset_pb2.ASSET_CLASS_TEAM_CHAT, asset_pb2.ASSET_CLASS_PHONE_RECORDING


@pytest.fixture
def admin(rpc: Rpc) -> Admin:
    return Admin(rpc.channel)


async def made_for(rpc: Rpc, **facts: object) -> pb.GenerateDataKeyResponse:
    return await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset(**facts), with_plaintext=True))


def rewrap_of(made: pb.GenerateDataKeyResponse, **facts: object) -> pb.RewrapRequest:
    return pb.RewrapRequest(
        asset=asset(**facts), wrapped_key=made.wrapped_key, encryption_context=made.encryption_context
    )


async def plaintext_of(rpc: Rpc, wrapped_key: bytes, made: pb.GenerateDataKeyResponse, **facts: object) -> bytes:
    request = pb.UnwrapRequest(
        asset=asset(**facts), wrapped_key=wrapped_key, encryption_context=made.encryption_context
    )
    return (await rpc.stub.Unwrap(request)).plaintext


async def choose(admin: Admin, key: str, wrapping: int = policy_pb2.WRAPPING_UNSPECIFIED) -> None:
    ways = [policy_pb2.AssetClassWrapping(asset_class=one, wrapping=wrapping) for one in (CHAT, RECORDING) if wrapping]
    policy = policy_pb2.Policy(default_use=key, wrapping=ways)
    await admin("CreatePolicyVersion", tenant="acme", policy=policy, activate=True, etag="*")


def is_by_branch(wrapped_key: bytes) -> bool:
    (entry,) = WrappedKey.from_bytes(wrapped_key).encrypted_data_keys
    return branch_id_of(entry) is not None


@pytest.mark.parametrize("before", [policy_pb2.WRAPPING_DIRECT, policy_pb2.WRAPPING_BRANCH])
@pytest.mark.parametrize("after", [policy_pb2.WRAPPING_DIRECT, policy_pb2.WRAPPING_BRANCH])
async def test_it_moves_to_today_s_key_in_today_s_way_and_opens_with_the_old_one_gone(
    rpc: Rpc, admin: Admin, tmp_path: Path, before: int, after: int
) -> None:
    await choose(admin, "key:main", before)
    made = await made_for(rpc)
    assert is_by_branch(made.wrapped_key) == (before == policy_pb2.WRAPPING_BRANCH)
    await choose(admin, "key:finance", after)
    moved = await rpc.stub.Rewrap(rewrap_of(made))
    assert (moved.key, moved.decision, moved.rule, moved.rewrapped) == (
        FINANCE,
        pb.POLICY_DECISION_ALLOW,
        "default",
        True,
    )
    assert is_by_branch(moved.wrapped_key) == (after == policy_pb2.WRAPPING_BRANCH)
    assert made.plaintext not in moved.SerializeToString()
    (tmp_path / "keys" / "acme-main.key").unlink()
    assert await plaintext_of(rpc, moved.wrapped_key, made) == made.plaintext
    request = rewrap_of(made)
    request.wrapped_key = moved.wrapped_key
    again = await rpc.stub.Rewrap(request)
    assert (again.rewrapped, again.wrapped_key, again.key) == (False, moved.wrapped_key, FINANCE)


async def test_the_same_key_in_another_way_is_a_move_too(rpc: Rpc, admin: Admin) -> None:
    await choose(admin, "key:main", policy_pb2.WRAPPING_DIRECT)
    made = await made_for(rpc)
    await choose(admin, "key:main", policy_pb2.WRAPPING_BRANCH)
    moved = await rpc.stub.Rewrap(rewrap_of(made))
    assert moved.rewrapped
    assert is_by_branch(moved.wrapped_key)
    assert await plaintext_of(rpc, moved.wrapped_key, made) == made.plaintext


async def test_a_branch_key_that_was_rotated_is_left_behind_for_the_active_one(rpc: Rpc, admin: Admin) -> None:
    await choose(admin, "key:main", policy_pb2.WRAPPING_BRANCH)
    made = await made_for(rpc)
    assert not (await rpc.stub.Rewrap(rewrap_of(made))).rewrapped
    active = (await admin("RotateBranchKey", tenant="acme", key="main")).branch_key
    request = rewrap_of(made)
    moved = await rpc.stub.Rewrap(request)
    assert (moved.key, moved.rewrapped) == (MAIN, True)
    (entry,) = WrappedKey.from_bytes(moved.wrapped_key).encrypted_data_keys
    assert branch_id_of(entry) == active.id
    assert await plaintext_of(rpc, moved.wrapped_key, made) == made.plaintext
    request.wrapped_key = moved.wrapped_key
    again = await rpc.stub.Rewrap(request)
    assert (again.rewrapped, again.wrapped_key) == (False, moved.wrapped_key)


async def test_what_the_provider_s_key_wrapped_comes_under_the_customer_s(rpc: Rpc) -> None:
    old = asset()
    old.create_time.FromJsonString("2025-12-31T23:59:59Z")
    made = await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=old, with_plaintext=True))
    assert made.key == PROVIDER
    moved = await rpc.stub.Rewrap(rewrap_of(made))
    assert (moved.key, moved.rewrapped) == (MAIN, True)
    assert await plaintext_of(rpc, moved.wrapped_key, made) == made.plaintext


async def test_a_group_that_is_bound_to_content_decides_though_the_caller_leaves_it_out(rpc: Rpc) -> None:
    made = await made_for(rpc, group="finance")
    kept = await rpc.stub.Rewrap(rewrap_of(made))
    assert (kept.key, kept.rewrapped) == (FINANCE, False)


async def test_neither_a_revoked_old_key_nor_a_revoked_new_one_is_got_around(
    rpc: Rpc, admin: Admin, tmp_path: Path
) -> None:
    made = await made_for(rpc)
    await choose(admin, "key:finance")
    for reference in ("acme-main", "acme-finance"):
        disabled = tmp_path / "keys" / f"{reference}.disabled"
        disabled.touch()
        failure = await rpc.fail("Rewrap", rewrap_of(made))
        assert (failure.reason, failure.metadata["key"]) == ("KEY_REVOKED", reference)
        disabled.unlink()
    assert (await rpc.stub.Rewrap(rewrap_of(made))).rewrapped


async def test_wrong_facts_and_changed_bytes_move_nothing(rpc: Rpc, admin: Admin) -> None:
    made = await made_for(rpc)
    await choose(admin, "key:finance")
    other = rewrap_of(made, asset_id="another")
    assert (await rpc.fail("Rewrap", other)).reason == "ASSET_MISMATCH"
    stranger = rewrap_of(made)
    stranger.encryption_context["more"] = "x"
    assert (await rpc.fail("Rewrap", stranger)).reason == "CIPHERTEXT_INVALID"
    changed = rewrap_of(made)
    changed.wrapped_key = made.wrapped_key[:-1] + bytes([made.wrapped_key[-1] ^ 1])
    assert (await rpc.fail("Rewrap", changed)).reason == "CIPHERTEXT_INVALID"
    garbage = rewrap_of(made)
    garbage.wrapped_key = b"garbage"
    assert (await rpc.fail("Rewrap", garbage)).reason == "INVALID_FIELD"
    renamed = rewrap_of(made)
    renamed.wrapped_key = WrappedKey(FINANCE, WrappedKey.from_bytes(made.wrapped_key).encrypted_data_keys).to_bytes()
    assert (await rpc.fail("Rewrap", renamed)).reason == "KEY_NOT_FOUND"


async def test_the_trail_has_both_keys_and_no_plaintext(rpc: Rpc, admin: Admin) -> None:
    made = await made_for(rpc)
    await choose(admin, "key:finance")
    request = rewrap_of(made)
    request.request_id = "move-1"
    await rpc.stub.Rewrap(request)
    records = (await admin("ListAuditRecords", tenant="acme")).records
    (record,) = [one for one in records if one.action == "rewrap"]
    assert (record.key, record.request_id, record.result) == (FINANCE, "move-1", "ok")
    assert json.loads(record.json)["detail"]["from"] == {"key": MAIN, "replica": "embedded"}
    moved = rewrap_of(made)
    moved.wrapped_key = (await rpc.stub.Rewrap(request)).wrapped_key
    assert not (await rpc.stub.Rewrap(moved)).rewrapped
    last = (await admin("ListAuditRecords", tenant="acme")).records[-1]
    assert (last.action, json.loads(last.json)["detail"]) == ("rewrap", {"unchanged": True})
