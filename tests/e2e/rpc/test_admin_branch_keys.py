from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from ownkey.container import branch_id_of, unwrap_with_branch_key
from ownkey.v1 import asset_pb2, branch_key_pb2, customer_key_pb2, key_state_pb2, policy_pb2
from ownkey.wrapped_key import WrappedKey
from ownkey_server import main, settings
from ownkey_server.composition import core
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.keystores.first_uses import FirstUses
from support import server
from support.admin import Admin
from support.branches import CountedStore
from support.key_stores import until
from support.rpc import Failure, Rpc, asset, connected, pb

CHAT = asset_pb2.ASSET_CLASS_TEAM_CHAT
VOICEMAIL = asset_pb2.ASSET_CLASS_PHONE_VOICEMAIL
LEASE_OF_CALLS = 10.0
MAIN, FINANCE = "tenants/acme/keys/main", "tenants/acme/keys/finance"


def generate(**facts: object) -> pb.GenerateDataKeyRequest:
    return pb.GenerateDataKeyRequest(asset=asset(**({"asset_class": CHAT} | facts)), with_plaintext=True)


def unwrap(made: pb.GenerateDataKeyResponse, **facts: object) -> pb.UnwrapRequest:
    return pb.UnwrapRequest(
        asset=asset(**({"asset_class": CHAT} | facts)),
        wrapped_key=made.wrapped_key,
        encryption_context=made.encryption_context,
    )


@pytest.fixture
def admin(rpc: Rpc) -> Admin:
    return Admin(rpc.channel)


@pytest.fixture
async def short(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[CountedStore]
) -> AsyncIterator[Rpc]:
    """A server whose branch keys are leased for a second, or as a test says, and whose probes come too late to help."""
    lease = getattr(request, "param", 1)
    path = server.write_settings(tmp_path)
    text = path.read_text(encoding="utf-8").replace("[keys]\n", f"[keys]\nbranch_lease_seconds = {lease}\n")
    text = text.replace("probe_interval_seconds = 0.2 ", "probe_interval_seconds = 600 ")
    path.write_text(text, encoding="utf-8")
    open_them = core.open_key_stores

    def open_counted(loaded: settings.Settings, uses: FirstUses | None = None) -> dict[str, CountedStore]:
        stores = {name: CountedStore(store) for name, store in open_them(loaded, uses).items()}  # type: ignore[arg-type]
        counted.extend(stores.values())
        return stores

    # The keys are made by the first start, which takes them for what they are.
    async with main.running_server(settings.load(path)):
        pass
    monkeypatch.setattr(core, "open_key_stores", open_counted)
    async with main.running_server(settings.load(path)) as running, connected(running.address) as calls:
        yield calls


@pytest.fixture
def counted() -> list[CountedStore]:
    """The key stores of ``short``, with every call that they got."""
    return []


async def test_small_things_are_wrapped_by_a_branch_key_and_open_again(rpc: Rpc) -> None:
    made = [await rpc.stub.GenerateDataKey(generate(asset_id=f"chat-{number}")) for number in range(3)]
    entries = [WrappedKey.from_bytes(one.wrapped_key).encrypted_data_keys[0] for one in made]
    assert len({branch_id_of(entry) for entry in entries}) == 1
    assert len({one.plaintext for one in made}) == 3
    for number, one in enumerate(made):
        opened = await rpc.stub.Unwrap(unwrap(one, asset_id=f"chat-{number}"))
        assert (opened.plaintext, opened.key) == (one.plaintext, MAIN)
    recording = await rpc.stub.GenerateDataKey(generate(asset_class=asset_pb2.ASSET_CLASS_PHONE_RECORDING))
    assert branch_id_of(WrappedKey.from_bytes(recording.wrapped_key).encrypted_data_keys[0]) is None
    failure = await rpc.fail("Unwrap", unwrap(made[0], asset_id="chat-1"))
    assert failure.reason == "ASSET_MISMATCH"


async def test_streams_of_media_work_the_same(rpc: Rpc) -> None:
    content = bytes(range(256)) * 1000
    sealed = await rpc.encrypt(content, asset_class=VOICEMAIL)
    opened = await rpc.decrypt(sealed, asset_class=VOICEMAIL)
    assert opened.data == content


async def test_what_the_provider_s_key_serves_has_a_branch_key_for_each_tenant(rpc: Rpc, admin: Admin) -> None:
    made = await rpc.stub.GenerateDataKey(generate(origin=2))
    assert made.key == "provider/keys/main"
    assert (await rpc.stub.Unwrap(unwrap(made, origin=2))).plaintext == made.plaintext
    listed = await admin("ListBranchKeys", tenant="acme", key="provider_key")
    (branch,) = listed.branch_keys
    assert (branch.tenant, branch.key) == ("acme", "provider/keys/main")


async def test_a_policy_chooses_for_each_class_and_content_opens_whichever_way(rpc: Rpc, admin: Admin) -> None:
    before = await rpc.stub.GenerateDataKey(generate())
    direct = policy_pb2.AssetClassWrapping(asset_class=CHAT, wrapping=policy_pb2.WRAPPING_DIRECT)
    policy = policy_pb2.Policy(default_use="key:main", wrapping=[direct], outage_grace_seconds=30)
    version = await admin("CreatePolicyVersion", tenant="acme", policy=policy, activate=True, etag="*")
    assert version.policy_version.policy == policy
    after = await rpc.stub.GenerateDataKey(generate())
    assert branch_id_of(WrappedKey.from_bytes(after.wrapped_key).encrypted_data_keys[0]) is None
    check = await rpc.stub.CheckPolicy(pb.CheckPolicyRequest(asset=asset(asset_class=CHAT)))
    assert check.explanation.endswith("key 'main' protects it, directly")
    for one in (before, after):
        assert (await rpc.stub.Unwrap(unwrap(one))).plaintext == one.plaintext
    policy.wrapping.append(direct)
    with pytest.raises(grpc.aio.AioRpcError, match="more than once"):
        await admin("CreatePolicyVersion", tenant="acme", policy=policy)


async def test_after_the_customer_disables_the_key_nothing_is_served_beyond_the_lease(
    short: Rpc, tmp_path: Path
) -> None:
    made = await short.stub.GenerateDataKey(generate())
    await short.stub.Unwrap(unwrap(made))
    disabled = tmp_path / "keys" / "acme-main.disabled"
    disabled.touch()
    at, served = time.monotonic(), 0.0

    async def refused() -> bool:
        nonlocal served
        try:
            await short.stub.Unwrap(unwrap(made))
        except grpc.aio.AioRpcError as error:
            return Failure.of(error).reason == "KEY_REVOKED"
        served = time.monotonic() - at
        return False

    await until(refused)
    # What was asked in time may be answered a moment later: the answer's way is not the lease's.
    assert served < 1 + 0.5
    disabled.unlink()
    assert (await short.stub.Unwrap(unwrap(made))).plaintext == made.plaintext


async def test_branch_keys_move_to_another_key_and_open_with_the_old_one_gone(
    rpc: Rpc, admin: Admin, tmp_path: Path
) -> None:
    chats = [await rpc.stub.GenerateDataKey(generate())]
    for _ in range(3):
        rotated = await admin("RotateBranchKey", tenant="acme", key="main")
        assert rotated.branch_key.state == branch_key_pb2.BRANCH_KEY_STATE_ACTIVE
        chats.append(await rpc.stub.GenerateDataKey(generate()))
        entry = WrappedKey.from_bytes(chats[-1].wrapped_key).encrypted_data_keys[0]
        assert branch_id_of(entry) == rotated.branch_key.id
    sealed = await rpc.encrypt(b"hello", asset_class=VOICEMAIL)
    policy = policy_pb2.Policy(default_use="key:finance")
    await admin("CreatePolicyVersion", tenant="acme", policy=policy, activate=True, etag="*")
    await admin("RetireKey", tenant="acme", key="main", etag="*")
    with pytest.raises(grpc.aio.AioRpcError, match=r"4 branch keys are wrapped under it.*rewrap --tenant acme"):
        await admin("RemoveKey", tenant="acme", key="main", etag="*")
    move = {"tenant": "acme", "from_key": "main", "to_key": "finance", "max_count": 3}
    answer = await admin("RewrapBranchKeys", **move)
    assert (answer.rewrapped, answer.remaining) == (3, 1)
    answer = await admin("RewrapBranchKeys", **move)
    assert (answer.rewrapped, answer.remaining) == (1, 0)
    assert (await admin("RewrapBranchKeys", **move)).rewrapped == 0
    await admin("RemoveKey", tenant="acme", key="main", etag="*")
    (tmp_path / "keys" / "acme-main.key").unlink()
    for one in chats:
        opened = await rpc.stub.Unwrap(unwrap(one))
        assert (opened.plaintext, opened.key) == (one.plaintext, FINANCE)
    assert (await rpc.decrypt(sealed, asset_class=VOICEMAIL)).data == b"hello"
    # From now on, the new key's holder decides.
    (tmp_path / "keys" / "acme-finance.disabled").touch()
    status = pb.KeyStatusRequest(tenant="acme", key="finance")

    async def revoked() -> bool:
        return (await rpc.stub.KeyStatus(status)).keys[0].state == key_state_pb2.KEY_STATE_REVOKED

    await until(revoked)
    assert (await rpc.fail("Unwrap", unwrap(chats[0]))).reason == "KEY_REVOKED"


async def test_a_key_can_be_given_up_with_its_branch_keys(rpc: Rpc, admin: Admin) -> None:
    made = await rpc.stub.GenerateDataKey(generate())
    await admin(
        "CreatePolicyVersion",
        tenant="acme",
        policy=policy_pb2.Policy(default_use="key:finance"),
        activate=True,
        etag="*",
    )
    await admin("RetireKey", tenant="acme", key="main", etag="*")
    assert (await rpc.stub.Unwrap(unwrap(made))).plaintext == made.plaintext
    removed = await admin("RemoveKey", tenant="acme", key="main", etag="*", abandon_branch_keys=True)
    assert removed.key.lifecycle == customer_key_pb2.KEY_LIFECYCLE_REMOVED
    assert (await rpc.fail("Unwrap", unwrap(made))).reason == "KEY_NOT_FOUND"


async def test_a_customer_leaves_with_its_key_and_its_branch_keys_alone(rpc: Rpc, admin: Admin, tmp_path: Path) -> None:
    made = await rpc.stub.GenerateDataKey(generate())
    (branch,) = (await admin("ListBranchKeys", tenant="acme")).branch_keys
    (kept,) = WrappedKey.from_bytes(branch.wrapped_key).encrypted_data_keys
    store = EmbeddedKeyStore("mine", tmp_path / "keys")
    opened = await store.unwrap("acme-main", kept, dict(branch.encryption_context), 5.0)
    (entry,) = WrappedKey.from_bytes(made.wrapped_key).encrypted_data_keys
    assert branch_id_of(entry) == branch.id
    assert unwrap_with_branch_key(opened.plaintext.reveal(), entry, made.encryption_context) == made.plaintext


async def test_no_branch_key_in_clear_is_in_the_database_or_the_log(
    rpc: Rpc, admin: Admin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await rpc.stub.GenerateDataKey(generate())
    (branch,) = (await admin("ListBranchKeys", tenant="acme")).branch_keys
    (kept,) = WrappedKey.from_bytes(branch.wrapped_key).encrypted_data_keys
    store = EmbeddedKeyStore("mine", tmp_path / "keys")
    secret = bytes((await store.unwrap("acme-main", kept, dict(branch.encryption_context), 5.0)).plaintext.reveal())
    for path in tmp_path.glob("ownkey.db*"):
        raw = path.read_bytes()
        assert secret not in raw
        assert secret.hex().encode() not in raw
    assert secret.hex() not in caplog.text


async def test_a_tenant_s_branch_keys_are_not_deleted_with_it_in_silence(
    rpc: Rpc, admin: Admin, tmp_path: Path
) -> None:
    def kept_of(tenant: str) -> int:
        with sqlite3.connect(tmp_path / "ownkey.db") as database:
            (count,) = database.execute("select count(*) from branch_keys where tenant = ?", (tenant,)).fetchone()
        database.close()
        return int(count)

    made = await admin("CreateTenant", id="beta", display_name="Beta")
    policy = policy_pb2.Policy(default_use="provider_key")
    await admin("CreatePolicyVersion", tenant="beta", policy=policy, activate=True, etag=made.tenant.etag)
    chat = generate(tenant="beta")
    assert (await rpc.stub.GenerateDataKey(chat, timeout=20)).key == "provider/keys/main"
    assert kept_of("beta") == 1
    refused = await admin.fail("DeleteTenant", tenant="beta", etag="*")
    assert refused.reason == "RESOURCE_IN_USE"
    assert kept_of("beta") == 1
    await admin("DeleteTenant", tenant="beta", etag="*", abandon_branch_keys=True)
    assert kept_of("beta") == 0
    records = (await admin("ListAuditRecords", tenant="beta")).records
    assert json.loads(records[-1].json)["detail"]["deleted_branch_keys"] == 1


async def test_they_do_not_move_to_a_key_that_wraps_nothing_and_how_it_would_is_said(rpc: Rpc, admin: Admin) -> None:
    await rpc.stub.GenerateDataKey(generate())
    policy = policy_pb2.Policy(default_use="key:main")
    await admin("CreatePolicyVersion", tenant="acme", policy=policy, activate=True, etag="*")
    await admin("RetireKey", tenant="acme", key="finance", etag="*")
    failure = await admin.fail("RewrapBranchKeys", tenant="acme", from_key="main", to_key="finance")
    assert (failure.reason, failure.metadata) == ("RESOURCE_IN_USE", {"resource": FINANCE})
    assert "it is retired" in failure.message
    assert "ownkey admin key activate finance --tenant acme" in failure.message
    record = (await admin("ListAuditRecords", tenant="acme")).records[-1]
    assert (record.action, record.result, record.reason) == ("admin.rewrap_branch_key", "refused", "RESOURCE_IN_USE")


async def test_every_act_is_in_the_trail(rpc: Rpc, admin: Admin, tmp_path: Path) -> None:
    await rpc.stub.GenerateDataKey(generate())
    await admin("RotateBranchKey", tenant="acme", key="main")
    await admin("RewrapBranchKeys", tenant="acme", from_key="main", to_key="finance")
    with pytest.raises(grpc.aio.AioRpcError):
        await admin("RotateBranchKey", tenant="acme", key="nothing")
    with sqlite3.connect(tmp_path / "ownkey.db") as database:
        bodies = [body.decode() for (body,) in database.execute("select body from audit_records")]
    database.close()
    for action, count in (("make_branch_key", 1), ("admin.rotate_branch_key", 1), ("admin.rewrap_branch_key", 2)):
        assert sum(f'"action":"{action}"' in body for body in bodies) == count, action
    for body in (json.loads(body) for body in bodies if '"admin.rewrap_branch_key"' in body):
        calls = [(call["operation"], call["result"]) for call in body["detail"]["key_store_calls"]]
        assert calls == [("unwrap", "ok"), ("wrap", "ok"), ("unwrap", "ok")]


@pytest.mark.parametrize("short", [LEASE_OF_CALLS], indirect=True)
async def test_ten_thousand_data_keys_cost_the_key_store_a_call_a_lease(
    short: Rpc, counted: list[CountedStore]
) -> None:
    at_first = len(counted[0].calls)
    began, made, least = time.monotonic(), 0, LEASE_OF_CALLS
    # In whole leases: renewing is a little ahead, by at most a tenth, which makes no further call in nine of them.
    while made < 10_000 or time.monotonic() - began < least:
        await asyncio.gather(*(short.stub.GenerateDataKey(generate()) for _ in range(50)))
        made += 50
        if made < 10_000:
            least = LEASE_OF_CALLS * (1 + (time.monotonic() - began) // LEASE_OF_CALLS)
    calls = counted[0].calls[at_first:]
    elapsed = time.monotonic() - began
    assert 2 <= len(calls) <= 1 + elapsed / LEASE_OF_CALLS
    assert calls.count("generate_data_key") == 1
