"""The key store in AWS KMS beyond the contract: what AWS shows of a call, its bounds, and moving within KMS."""

from __future__ import annotations

import asyncio
import base64
import logging
import os

import pytest

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    OperationUnsupported,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.keystores.base import KeyStore, ReWrapper, TenantScoped
from ownkey_server.keystores.budget import RateBudget
from support.aws_subjects import client, use
from support.fake_kms import FakeKms
from support.key_stores import CONTEXT, TIMEOUT, until

OTHER = {**CONTEXT, "ownkey:asset-id": "call-8"}


# Calls


async def test_a_call_stands_in_the_customers_log_with_its_context_and_the_id_we_record(kms: FakeKms, open_aws) -> None:
    key, store = kms.create_key(), open_aws().for_tenant("acme")
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    opened = await store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)
    generate, decrypt = kms.calls
    assert (generate.operation, generate.context, generate.request_id) == ("GenerateDataKey", CONTEXT, made.request_id)
    assert (decrypt.operation, decrypt.context, decrypt.request_id) == ("Decrypt", CONTEXT, opened.request_id)
    assert decrypt.key == key  # never whatever key the ciphertext names
    wrapped = await store.wrap(key, SecretBytes(bytes(32)), CONTEXT, TIMEOUT)
    assert (kms.calls[-1].operation, kms.calls[-1].request_id) == ("Encrypt", wrapped.request_id)
    kms.fail("Decrypt", "DisabledException")
    with pytest.raises(KeyStoreError) as caught:
        await store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)
    assert kms.calls[-1].request_id == caught.value.request_id != ""


async def test_a_data_key_that_comes_when_its_caller_has_gone_is_wiped_and_its_use_can_be_found(
    kms: FakeKms, open_aws, caplog: pytest.LogCaptureFixture
) -> None:
    key, store = kms.create_key(), open_aws()
    await store.generate_data_key(key, CONTEXT, TIMEOUT)
    kms.latency[""] = 0.3
    caplog.set_level(logging.INFO)
    with pytest.raises((KeyStoreThrottled, KeyUnreachable)):
        await store.generate_data_key(key, CONTEXT, 0.1)
    async with asyncio.timeout(TIMEOUT):
        while "its data key was wiped" not in caplog.text:
            await asyncio.sleep(0.01)
    assert kms.calls[-1].request_id in caplog.text


async def test_what_is_stored_opens_by_amazons_client_alone(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    made = await open_aws().generate_data_key(key, CONTEXT, TIMEOUT)
    assert (made.wrapped.provider_id, made.wrapped.provider_info) == ("aws-kms", key.encode())
    amazon = client("kms", kms.url)
    answer = amazon.decrypt(KeyId=key, CiphertextBlob=made.wrapped.ciphertext, EncryptionContext=CONTEXT)
    assert answer["Plaintext"] == made.plaintext.reveal()
    amazon.close()


async def test_a_related_key_in_another_region_opens_it_with_a_state_of_its_own(kms: FakeKms, open_aws) -> None:
    key, store = kms.create_key("eu-west-1", multi_region=True), open_aws()
    replica = kms.replicate(key, "us-east-1")
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    kms.disable(key)
    assert store.recognizes(replica, made.wrapped)
    opened = await store.unwrap(replica, made.wrapped, CONTEXT, TIMEOUT)
    assert opened.plaintext.reveal() == made.plaintext.reveal()
    with pytest.raises(KeyRevoked, match="disabled"):
        await store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)


async def test_it_is_described_by_the_tenants_own_context(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    allow = {"Effect": "Allow", "Principal": "*", "Action": ["kms:GenerateDataKey", "kms:Decrypt"]}
    allow["Condition"] = {"StringEquals": {"kms:EncryptionContext:ownkey:tenant": "acme"}}
    kms.set_policy(key, {"Statement": [allow]})
    store = open_aws()
    assert (await store.for_tenant("acme").describe(key, TIMEOUT)).state is KeyState.AVAILABLE
    assert (await store.for_tenant("umbrella").describe(key, TIMEOUT)).state is KeyState.MISCONFIGURED
    assert kms.calls[0].context == {"ownkey:probe": "describe", "ownkey:tenant": "acme"}


@pytest.mark.parametrize("size", [0, 16, 31, 33])
async def test_what_is_no_data_key_is_not_given_out(kms: FakeKms, open_aws, size: int) -> None:
    key, amazon = kms.create_key(), client("kms", kms.url)
    plaintext = os.urandom(size) or b"x"
    blob = amazon.encrypt(KeyId=key, Plaintext=plaintext, EncryptionContext=CONTEXT)["CiphertextBlob"]
    amazon.close()
    with pytest.raises(CiphertextInvalid):
        await open_aws().unwrap(key, EncryptedDataKey("aws-kms", key.encode(), blob), CONTEXT, TIMEOUT)


async def test_what_is_too_long_for_kms_is_not_sent_there(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    for size in (0, 6145):
        with pytest.raises(CiphertextInvalid):
            await open_aws().unwrap(key, EncryptedDataKey("aws-kms", key.encode(), bytes(size)), CONTEXT, TIMEOUT)
    assert not kms.calls


@pytest.mark.parametrize("level", ["root", "botocore", "botocore.parsers", "botocore.endpoint", "botocore.auth"])
async def test_no_level_of_logging_makes_it_log_a_data_key(
    kms: FakeKms, open_aws, caplog: pytest.LogCaptureFixture, level: str
) -> None:
    key, store = kms.create_key(), open_aws()
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger=None if level == "root" else level)
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    mine = os.urandom(32)
    await store.wrap(key, SecretBytes(mine), CONTEXT, TIMEOUT)
    await store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)
    for secret in (mine, bytes(made.plaintext.reveal())):
        assert base64.b64encode(secret).decode() not in caplog.text
        assert repr(secret)[2:-1] not in caplog.text
    debug = [record.name for record in caplog.records if record.levelno < logging.INFO]
    assert debug
    assert not [name for name in debug if name.startswith("botocore")]


# Denials, and the canary key


async def test_many_denials_ask_the_canary_once_and_after_them(kms: FakeKms, open_aws) -> None:
    canary = kms.create_key()
    keys = [kms.create_key() for _ in range(6)]
    store = open_aws(canary_key=canary, read_timeout=30.0)
    for key in keys:
        await use(store.for_tenant("acme"), key)
        kms.set_policy(key, {"Statement": []})
    kms.calls.clear()
    kms.hang(canary)

    async def denied(key: str) -> None:
        with pytest.raises(KeyRevoked, match="its holder denies us the key"):
            await store.for_tenant("acme").generate_data_key(key, CONTEXT, TIMEOUT)

    async def all_were_denied() -> bool:
        return sum(call.error == "AccessDeniedException" for call in kms.calls) == len(keys)

    work = asyncio.gather(*(denied(key) for key in keys))
    await until(all_were_denied)
    kms.resume()
    await work
    asked = [number for number, call in enumerate(kms.calls) if call.key == canary]
    assert 1 <= len(asked) <= 2  # one for those before it, and one for those that came while it was asked
    assert all(call.error == "AccessDeniedException" for call in list(kms.calls)[: asked[0]])
    assert asked[0] >= 1


async def test_a_denial_is_not_excused_by_a_canary_that_worked_before_it(kms: FakeKms, open_aws) -> None:
    canary, other, key = kms.create_key(), kms.create_key(), kms.create_key()
    store = open_aws(canary_key=canary).for_tenant("acme")
    for one in (other, key):
        await use(store, one)
    kms.set_policy(other, {"Statement": []})
    with pytest.raises(KeyRevoked):
        await store.generate_data_key(other, CONTEXT, TIMEOUT)  # the canary works
    kms.fail("*", "AccessDeniedException")  # our own permission is gone, for every key
    with pytest.raises(KeyMisconfigured, match="canary key does not work either"):
        await store.generate_data_key(key, CONTEXT, TIMEOUT)


async def test_a_key_that_stays_denied_does_not_ask_the_canary_each_time(kms: FakeKms, open_aws) -> None:
    canary, key = kms.create_key(), kms.create_key()
    store = open_aws(canary_key=canary).for_tenant("acme")
    await use(store, key)
    kms.set_policy(key, {"Statement": []})
    for _ in range(20):
        with pytest.raises(KeyRevoked):
            await store.generate_data_key(key, CONTEXT, TIMEOUT)
    assert sum(call.key == canary for call in kms.calls) == 1
    kms.set_policy(key, None)
    await store.generate_data_key(key, CONTEXT, TIMEOUT)  # given back, it works at once


# Outages, deadlines, retries


@pytest.mark.parametrize("code", ["KMSInternalException", "ThrottlingException"])
async def test_one_failure_that_passes_is_not_seen(kms: FakeKms, open_aws, code: str) -> None:
    key, store = kms.create_key(), open_aws()
    kms.fail("GenerateDataKey", code, times=1)
    await store.generate_data_key(key, CONTEXT, TIMEOUT)
    assert kms.counts["GenerateDataKey"] == 2


async def test_background_work_does_not_insist_when_it_is_throttled(kms: FakeKms, open_aws) -> None:
    key, store = kms.create_key(), open_aws().for_tenant("acme", background=True)
    kms.fail("GenerateDataKey", "ThrottlingException", times=1)
    with pytest.raises(KeyStoreThrottled) as caught:
        await store.generate_data_key(key, CONTEXT, TIMEOUT)
    assert not caught.value.ours  # AWS has said so


async def test_while_everything_fails_nothing_is_tried_twice_for_long(kms: FakeKms, open_aws) -> None:
    key, store = kms.create_key(), open_aws()
    kms.fail("*", "KMSInternalException")
    for _ in range(60):
        with pytest.raises(KeyUnreachable):
            await store.generate_data_key(key, CONTEXT, TIMEOUT)
    assert kms.counts["GenerateDataKey"] == 60 + 20  # 100 tokens, 5 a retry


async def test_nothing_is_tried_again_for_a_caller_who_has_gone(kms: FakeKms, open_aws) -> None:
    key, store = kms.create_key(), open_aws()
    await store.generate_data_key(key, CONTEXT, TIMEOUT)
    kms.latency[""] = 0.15
    kms.fail("*", "KMSInternalException")
    with pytest.raises((KeyStoreThrottled, KeyUnreachable)):
        await store.generate_data_key(key, CONTEXT, 0.1)
    kms.heal()
    kms.latency.clear()
    await store.generate_data_key(key, CONTEXT, TIMEOUT)
    assert kms.counts["GenerateDataKey"] <= 3


async def test_a_region_that_hangs_holds_up_no_other_region_of_the_tenant(kms: FakeKms, open_aws) -> None:
    key = kms.create_key("eu-west-1", multi_region=True)
    replica, store = kms.replicate(key, "us-east-1"), open_aws(read_timeout=30.0).for_tenant("acme")
    await asyncio.gather(*(store.generate_data_key(one, CONTEXT, TIMEOUT) for one in (key, replica)))
    kms.hang("eu-west-1")
    hanging = [asyncio.ensure_future(store.generate_data_key(key, CONTEXT, 2.0)) for _ in range(20)]
    await asyncio.sleep(0)
    for _ in range(20):
        await store.generate_data_key(replica, CONTEXT, TIMEOUT)
    ended = await asyncio.gather(*hanging, return_exceptions=True)
    assert {type(one) for one in ended} <= {KeyUnreachable, KeyStoreThrottled}
    assert any(isinstance(one, KeyUnreachable) for one in ended)
    kms.resume()


async def test_several_tenants_that_hang_take_no_place_from_one_that_does_not(kms: FakeKms, open_aws) -> None:
    store = open_aws(threads=16, concurrency=8, read_timeout=30.0)
    bad, good = kms.create_key("eu-west-1"), kms.create_key("us-east-1")
    await store.for_tenant("good").generate_data_key(good, CONTEXT, TIMEOUT)
    kms.hang("eu-west-1")
    hanging = [
        asyncio.ensure_future(store.for_tenant(f"t{n}").generate_data_key(bad, CONTEXT, 1.0))
        for n in range(6)
        for _ in range(8)
    ]
    await asyncio.sleep(0)
    for _ in range(20):
        await store.for_tenant("good").generate_data_key(good, CONTEXT, TIMEOUT)
    kms.resume()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_those_who_wait_when_it_closes_are_told(kms: FakeKms, open_aws) -> None:
    key, store = kms.create_key(), open_aws(concurrency=1, threads=2)
    await store.generate_data_key(key, CONTEXT, TIMEOUT)
    kms.hang()
    calls = [asyncio.ensure_future(store.generate_data_key(key, CONTEXT, TIMEOUT)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await store.close()
    for call in calls[1:]:
        with pytest.raises(KeyUnreachable, match="the key store is closed"):
            await call
    kms.resume()
    await calls[0]
    with pytest.raises(KeyUnreachable, match="the key store is closed"):
        await store.for_tenant("acme").generate_data_key(key, CONTEXT, TIMEOUT)


async def test_a_tenant_has_so_many_calls_a_second_and_background_work_half_of_them(kms: FakeKms, open_aws) -> None:
    now = [0.0]
    key, store = kms.create_key(), open_aws(monotonic=lambda: now[0], calls_per_second=5.0)
    live, background = store.for_tenant("acme"), store.for_tenant("acme", background=True)

    async def refused(asked: KeyStore, count: int) -> int:
        work = [asked.generate_data_key(key, CONTEXT, TIMEOUT) for _ in range(count)]
        failed = [one for one in await asyncio.gather(*work, return_exceptions=True) if isinstance(one, Exception)]
        assert all(isinstance(one, KeyStoreThrottled) and one.ours and "no more calls" in one.cause for one in failed)
        return len(failed)

    assert await refused(background, 8) == 3
    assert await refused(live, 7) == 2
    assert await refused(store.for_tenant("umbrella"), 7) == 0
    now[0] += 0.2
    assert await refused(live, 2) == 1


async def test_what_is_asked_about_material_does_not_count(kms: FakeKms, open_aws) -> None:
    now = [0.0]
    key, store = kms.create_key(), open_aws(monotonic=lambda: now[0], calls_per_second=1.0)
    # A burst of two: one to wrap, one to open.
    assert (await store.for_tenant("acme").describe(key, TIMEOUT)).state is KeyState.AVAILABLE
    assert kms.counts["DescribeKey"] == 1


def test_a_rate_leaves_its_last_half_to_live_work() -> None:
    now = [0.0]
    budget = RateBudget(5.0, lambda: now[0])
    assert [budget.take(background=True) for _ in range(6)] == [True] * 5 + [False]
    assert [budget.take() for _ in range(6)] == [True] * 5 + [False]
    now[0] += 0.2
    assert not budget.take(background=True)
    assert budget.take()
    assert not budget.full
    now[0] += 10
    assert budget.full
    assert all(RateBudget(None).take(background=True) for _ in range(100))


# Imported key material


async def test_imported_material_is_followed_from_its_warning_to_its_return(
    kms: FakeKms, open_aws, caplog: pytest.LogCaptureFixture
) -> None:
    import time

    key, store = kms.create_key(origin="EXTERNAL"), open_aws()
    ends = time.time() + 13 * 86_400
    kms.import_material(key, valid_to=ends)
    described = await store.for_tenant("acme").describe(key, TIMEOUT)
    assert (described.state, described.cause) == (KeyState.AVAILABLE, "")
    assert described.note.startswith("imported key material, until 20")
    assert described.expires_at is not None
    assert abs(described.expires_at.timestamp() - ends) < 1
    await store.for_tenant("acme").describe(key, TIMEOUT)
    [warning] = [record for record in caplog.records if "expires" in record.message]
    assert key in warning.message
    assert kms.counts["DescribeKey"] == 1  # once a minute
    kms.delete_material(key)
    gone = await store.for_tenant("acme").describe(key, TIMEOUT)
    assert (gone.state, gone.cause) == (KeyState.REVOKED, "its imported key material was deleted")
    kms.import_material(key)
    assert (await store.for_tenant("acme").describe(key, TIMEOUT)).state is KeyState.AVAILABLE


async def test_a_key_without_imported_material_is_asked_about_once(kms: FakeKms, open_aws) -> None:
    key, store = kms.create_key(), open_aws()
    for _ in range(3):
        assert (await store.describe(key, TIMEOUT)).note == ""
    assert kms.counts["DescribeKey"] == 1


async def test_the_right_to_describe_is_not_needed(kms: FakeKms, open_aws) -> None:
    key, store = kms.create_key(), open_aws()
    kms.fail("DescribeKey", "AccessDeniedException")
    for _ in range(3):
        assert (await store.describe(key, TIMEOUT)).state is KeyState.AVAILABLE
    assert kms.counts["DescribeKey"] == 1


# Moving within KMS


async def test_a_data_key_moves_to_another_key_within_kms(kms: FakeKms, open_aws) -> None:
    key, target, store = kms.create_key(), kms.create_key(), open_aws()
    scoped = store.for_tenant("acme")
    assert isinstance(store, TenantScoped | ReWrapper)
    assert isinstance(scoped, ReWrapper)
    made = await scoped.generate_data_key(key, CONTEXT, TIMEOUT)
    moved = (await scoped.rewrap(key, made.wrapped, CONTEXT, target, OTHER, TIMEOUT)).entry
    assert moved.provider_info == target.encode()
    assert (await scoped.unwrap(target, moved, OTHER, TIMEOUT)).plaintext.reveal() == made.plaintext.reveal()
    assert [call.operation for call in kms.calls] == ["GenerateDataKey", "ReEncrypt", "Decrypt"]


async def test_what_cannot_move_within_kms_says_so(kms: FakeKms, open_aws) -> None:
    key, store = kms.create_key(), open_aws(role_name="ownkey")
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    for target in (kms.create_key("us-east-1"), kms.create_key(account="444455556666")):
        with pytest.raises(OperationUnsupported):
            await store.rewrap(key, made.wrapped, CONTEXT, target, OTHER, TIMEOUT)
    with pytest.raises(CiphertextInvalid):
        await store.rewrap(kms.create_key(), made.wrapped, CONTEXT, key, OTHER, TIMEOUT)


@pytest.mark.parametrize("at_fault", ["source", "target"])
async def test_an_error_of_moving_is_about_the_key_at_fault(kms: FakeKms, open_aws, at_fault: str) -> None:
    keys = {"source": kms.create_key(), "target": kms.create_key()}
    store = open_aws()
    made = await store.generate_data_key(keys["source"], CONTEXT, TIMEOUT)
    kms.disable(keys[at_fault])
    with pytest.raises(KeyRevoked) as caught:
        await store.rewrap(keys["source"], made.wrapped, CONTEXT, keys["target"], OTHER, TIMEOUT)
    assert caught.value.key == keys[at_fault]
