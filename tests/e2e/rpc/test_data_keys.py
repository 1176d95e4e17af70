from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest

from ownkey.v1 import key_state_pb2
from ownkey.wrapped_key import WrappedKey
from support import server
from support.key_stores import until
from support.rpc import Rpc, asset, connected, pb


async def test_a_data_key_opens_again_for_its_asset_alone(rpc: Rpc) -> None:
    made = await rpc.stub.GenerateDataKey(
        pb.GenerateDataKeyRequest(asset=asset(), extra_context={"purpose": "test"}, with_plaintext=True)
    )
    assert (made.key, made.decision, made.rule) == ("tenants/acme/keys/main", pb.POLICY_DECISION_ALLOW, "default")
    assert len(made.plaintext) == 32
    assert 50 < made.lease_expire_time.seconds - time.time() < 70
    context = dict(made.encryption_context)
    assert context.pop("ownkey:hour")
    assert context == {
        "ownkey:tenant": "acme",
        "ownkey:asset-class": "phone_recording",
        "ownkey:asset-id": "call-1",
        "purpose": "test",
    }
    wrapped = WrappedKey.from_bytes(made.wrapped_key)
    assert (wrapped.key, wrapped.encrypted_data_keys[0].provider_id) == (made.key, "ownkey-embedded")

    def request(**changes: object) -> pb.UnwrapRequest:
        fields = {"asset": asset(), "wrapped_key": made.wrapped_key, "encryption_context": made.encryption_context}
        return pb.UnwrapRequest(**(fields | changes))  # type: ignore[arg-type]

    assert (await rpc.stub.Unwrap(request())).plaintext == made.plaintext
    for other in ({"asset_id": "call-2"}, {"asset_class": 6}, {"group": "finance"}):
        failure = await rpc.fail("Unwrap", request(asset=asset(**other)))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ASSET_MISMATCH")
    # Consistent facts and context, of another asset: the wrapped key itself says no.
    lie = dict(made.encryption_context) | {"ownkey:asset-id": "call-2"}
    failure = await rpc.fail("Unwrap", request(asset=asset(asset_id="call-2"), encryption_context=lie))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CIPHERTEXT_INVALID")
    for missing in ("purpose", "ownkey:hour"):
        less = {key: value for key, value in made.encryption_context.items() if key != missing}
        assert (await rpc.fail("Unwrap", request(encryption_context=less))).reason == "CIPHERTEXT_INVALID"


async def test_the_plaintext_comes_only_when_asked_for(rpc: Rpc) -> None:
    made = await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset()))
    assert (made.plaintext, len(made.wrapped_key) > 60) == (b"", True)


@pytest.mark.parametrize(
    ("facts", "key", "decision", "rule"),
    [
        ({"user": "frida@acme.example"}, "tenants/acme/keys/finance", pb.POLICY_DECISION_ALLOW, "finance"),
        ({"group": "finance"}, "tenants/acme/keys/finance", pb.POLICY_DECISION_ALLOW, "finance"),
        ({"origin": 2}, "provider/keys/main", pb.POLICY_DECISION_PROVIDER_KEY, "uploads"),
        ({}, "tenants/acme/keys/main", pb.POLICY_DECISION_ALLOW, "default"),
    ],
)
async def test_what_check_policy_says_is_what_generate_data_key_does(
    rpc: Rpc, facts: dict[str, object], key: str, decision: int, rule: str
) -> None:
    check = await rpc.stub.CheckPolicy(pb.CheckPolicyRequest(asset=asset(**facts)))
    made = await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset(**facts)))
    assert (check.key, check.decision, check.rule) == (key, decision, rule)
    assert (made.key, made.decision, made.rule) == (key, decision, rule)
    assert rule in check.explanation or rule == "default"
    opened = await rpc.stub.Unwrap(
        pb.UnwrapRequest(asset=asset(**facts), wrapped_key=made.wrapped_key, encryption_context=made.encryption_context)
    )
    assert opened.key == key


async def test_content_from_before_enrolment_is_left_to_the_provider(rpc: Rpc) -> None:
    request = pb.GenerateDataKeyRequest(asset=asset())
    request.asset.create_time.FromJsonString("2025-12-31T23:59:59Z")
    made = await rpc.stub.GenerateDataKey(request)
    assert (made.key, made.rule) == ("provider/keys/main", "before-enrolment")


async def test_what_policy_denies_is_neither_protected_nor_opened(rpc: Rpc) -> None:
    denied = asset(asset_class=8)
    failure = await rpc.fail("GenerateDataKey", pb.GenerateDataKeyRequest(asset=denied))
    assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "POLICY_DENIED")
    assert failure.metadata == {"tenant": "acme", "rule": "no-mms"}
    check = await rpc.stub.CheckPolicy(pb.CheckPolicyRequest(asset=denied))
    assert (check.decision, check.key, check.key_state) == (pb.POLICY_DECISION_DENY, "", 0)
    made = await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset()))
    request = pb.UnwrapRequest(asset=denied, wrapped_key=made.wrapped_key, encryption_context=made.encryption_context)
    assert (await rpc.fail("Unwrap", request)).reason == "POLICY_DENIED"


async def test_a_disabled_key_fails_as_revoked_and_no_other_is_used(rpc: Rpc, tmp_path: Path) -> None:
    made = await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset()))
    (tmp_path / "keys" / "acme-main.disabled").touch()
    unwrap = pb.UnwrapRequest(asset=asset(), wrapped_key=made.wrapped_key, encryption_context=made.encryption_context)
    for method, request in (("GenerateDataKey", pb.GenerateDataKeyRequest(asset=asset())), ("Unwrap", unwrap)):
        failure = await rpc.fail(method, request)
        assert (failure.code, failure.reason, failure.retry) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "KEY_REVOKED",
            False,
        )
        assert failure.metadata == {"key": "acme-main", "replica": "embedded"}
    other = await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset(group="finance")))
    assert other.key == "tenants/acme/keys/finance"
    (tmp_path / "keys" / "acme-main.disabled").unlink()
    assert (await rpc.stub.Unwrap(unwrap)).key == "tenants/acme/keys/main"


async def test_a_key_that_is_gone_is_an_outage_with_a_time_to_retry(rpc: Rpc, tmp_path: Path) -> None:
    await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset()))
    key = tmp_path / "keys" / "acme-main.key"
    key.rename(key.with_suffix(".away"))
    failure = await rpc.fail("GenerateDataKey", pb.GenerateDataKeyRequest(asset=asset()))
    assert (failure.code, failure.reason, failure.retry) == (grpc.StatusCode.UNAVAILABLE, "KEY_UNREACHABLE", True)

    async def told() -> bool:
        # One failure alone is no outage yet: a probe looks for itself.
        key = (await rpc.stub.KeyStatus(pb.KeyStatusRequest(tenant="acme", key="main"))).keys[0]
        assert key.state in (key_state_pb2.KEY_STATE_AVAILABLE, key_state_pb2.KEY_STATE_UNREACHABLE)
        assert key.replicas[0].replica == "embedded"
        return key.state == key_state_pb2.KEY_STATE_UNREACHABLE

    await until(told)


async def test_one_tenant_cannot_open_another_s_key(rpc: Rpc) -> None:
    made = await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset()))
    stranger = asset(tenant="globex")
    request = pb.UnwrapRequest(asset=stranger, wrapped_key=made.wrapped_key, encryption_context=made.encryption_context)
    failure = await rpc.fail("Unwrap", request)
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "TENANT_NOT_FOUND")


async def test_leaving_the_group_out_gets_nobody_around_a_rule_for_it(tmp_path: Path) -> None:
    async with server.in_process(tmp_path / "before") as address, connected(address) as before:
        sealed = await before.encrypt(b"finance secret", group="finance")
    tenants = (tmp_path / "before" / "tenants.toml").read_text(encoding="utf-8")
    denied = tenants.replace('use = "key:finance"', 'use = "deny"')
    (tmp_path / "after").mkdir()
    (tmp_path / "before" / "keys").rename(tmp_path / "after" / "keys")
    async with server.in_process(tmp_path / "after", tenants=denied) as address, connected(address) as after:
        for facts in ({}, {"user": "someone@acme.example"}, {"group": "finance"}):
            opened = await after.decrypt(sealed, **facts)
            assert (opened.data, opened.failure and opened.failure.reason) == (b"", "POLICY_DENIED")
