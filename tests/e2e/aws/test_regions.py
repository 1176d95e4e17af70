from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from ownkey.v1 import asset_pb2
from ownkey.v1 import key_service_pb2 as pb
from support.fault_proxy import Fault
from support.regions import FIRST, SECOND, Regions, states, until_states
from support.rpc import Rpc, asset

DEADLINE = 4.0
ANSWERS = {Fault.THROTTLE}  # a place that says that it is busy is not out of order

_number = itertools.count()


def fresh_asset() -> str:
    return f"call-{next(_number)}"


async def generate(rpc: Rpc, asset_id: str, **options: object) -> pb.GenerateDataKeyResponse:
    request = pb.GenerateDataKeyRequest(asset=asset(asset_id=asset_id), with_plaintext=True)
    return await rpc.stub.GenerateDataKey(request, **({"timeout": DEADLINE} | options))


def opening(asset_id: str, made: pb.GenerateDataKeyResponse) -> pb.UnwrapRequest:
    return pb.UnwrapRequest(
        asset=asset(asset_id=asset_id), wrapped_key=made.wrapped_key, encryption_context=made.encryption_context
    )


async def unwrap(rpc: Rpc, asset_id: str, made: pb.GenerateDataKeyResponse) -> bytes:
    return (await rpc.stub.Unwrap(opening(asset_id, made), timeout=DEADLINE)).plaintext


async def test_in_order_the_first_region_serves(rpc: Rpc, regions: Regions) -> None:
    one = fresh_asset()
    made = await generate(rpc, one)
    assert await unwrap(rpc, one, made) == made.plaintext
    assert regions.served("Decrypt", FIRST, one) == 1
    assert regions.served("Decrypt", SECOND, one) == 0


@pytest.mark.parametrize("fault", Fault)
async def test_what_one_region_wrapped_the_other_opens_while_the_first_is_cut_off(
    rpc: Rpc, regions: Regions, fault: Fault
) -> None:
    one, two = fresh_asset(), fresh_asset()
    made = await generate(rpc, one)
    assert regions.served("GenerateDataKey", FIRST, one) == 1

    regions.proxies[FIRST].fault = fault
    for _ in range(5):  # until the first is passed over, and then
        began = time.monotonic()
        assert await unwrap(rpc, one, made) == made.plaintext
        assert time.monotonic() - began < DEADLINE
    meanwhile = await generate(rpc, two)
    assert regions.served("Decrypt", SECOND, one) == 5
    assert regions.served("GenerateDataKey", SECOND, two) == 1
    expected = {"": "DEGRADED", "aws/" + FIRST: "UNREACHABLE", "aws/" + SECOND: "AVAILABLE"}
    if fault in ANSWERS:
        assert await states(rpc) == dict.fromkeys(expected, "AVAILABLE")
    else:
        await until_states(rpc, lambda now: now == expected)  # a second look confirms it

    regions.proxies[FIRST].fault = None
    await until_states(rpc, lambda now: now[""] == "AVAILABLE")
    before = regions.served("Decrypt", FIRST, two)
    assert await unwrap(rpc, two, meanwhile) == meanwhile.plaintext
    assert regions.served("Decrypt", FIRST, two) == before + 1


async def test_with_both_regions_cut_off_the_key_is_unreachable_and_never_revoked(rpc: Rpc, regions: Regions) -> None:
    one = fresh_asset()
    made = await generate(rpc, one)
    for proxy in regions.proxies.values():
        proxy.fault = Fault.REFUSE
    for _ in range(8):
        failure = await rpc.fail("Unwrap", opening(one, made))
        assert failure.reason == "KEY_UNREACHABLE"
        assert failure.retry
    found = await until_states(rpc, lambda now: set(now.values()) == {"UNREACHABLE"})
    assert "REVOKED" not in found.values()
    for proxy in regions.proxies.values():
        proxy.fault = None
    await until_states(rpc, lambda now: now[""] == "AVAILABLE")
    assert await unwrap(rpc, one, made) == made.plaintext


async def test_disabling_the_first_region_s_key_revokes_it_and_says_so_of_that_region_alone(
    rpc: Rpc, regions: Regions
) -> None:
    one = fresh_asset()
    made = await generate(rpc, one)
    regions.kms.disable(regions.arns[FIRST])
    assert (await rpc.fail("Unwrap", opening(one, made))).reason == "KEY_REVOKED"
    found = await states(rpc)
    assert found == {"": "REVOKED", "aws/" + FIRST: "REVOKED", "aws/" + SECOND: "AVAILABLE"}


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.RESET, Fault.ERROR_500, Fault.THROTTLE])
async def test_an_outage_is_no_way_around_a_revocation(rpc: Rpc, regions: Regions, fault: Fault) -> None:
    one = fresh_asset()
    made = await generate(rpc, one)
    regions.kms.disable(regions.arns[FIRST])
    assert (await rpc.fail("Unwrap", opening(one, made))).reason == "KEY_REVOKED"
    regions.proxies[FIRST].fault = fault
    for _ in range(5):
        failure = await rpc.fail("Unwrap", opening(one, made))
        assert failure.reason == ("KEY_STORE_THROTTLED" if fault in ANSWERS else "KEY_UNREACHABLE")
        assert "taken away" in failure.message
    assert regions.served("Decrypt", SECOND, one) == 0
    regions.proxies[FIRST].fault = None
    regions.kms.enable(regions.arns[FIRST])
    await until_states(rpc, lambda now: now[""] == "AVAILABLE")
    assert await unwrap(rpc, one, made) == made.plaintext


async def test_disabling_the_second_region_s_key_does_not_revoke_the_first(rpc: Rpc, regions: Regions) -> None:
    regions.kms.disable(regions.arns[SECOND])
    found = await until_states(rpc, lambda now: now["aws/" + SECOND] == "REVOKED")
    assert (found[""], found["aws/" + FIRST]) == ("DEGRADED", "AVAILABLE")
    one = fresh_asset()
    made = await generate(rpc, one)
    assert await unwrap(rpc, one, made) == made.plaintext


def denying(asset_class: str) -> dict[str, Any]:
    """A key policy that takes back one class, as its holder would write it."""
    everything = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"}
    condition = {"StringEquals": {"kms:EncryptionContext:ownkey:asset-class": asset_class}}
    denial = everything | {"Effect": "Deny", "Condition": condition}
    return {"Version": "2012-10-17", "Statement": [everything, denial]}


async def test_one_class_taken_back_is_refused_and_the_key_stays_available(rpc: Rpc, regions: Regions) -> None:
    recording, voicemail = fresh_asset(), fresh_asset()
    made = await generate(rpc, recording)
    regions.kms.set_policy(regions.arns[FIRST], denying("phone_recording"))
    for _ in range(3):
        assert (await rpc.fail("Unwrap", opening(recording, made))).reason == "KEY_REVOKED"
        request = pb.GenerateDataKeyRequest(asset=asset(asset_id=recording))
        assert (await rpc.fail("GenerateDataKey", request)).reason == "KEY_REVOKED"
    other = asset(asset_id=voicemail, asset_class=asset_pb2.ASSET_CLASS_PHONE_VOICEMAIL)
    await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=other), timeout=DEADLINE)
    assert set((await states(rpc)).values()) == {"AVAILABLE"}
    assert regions.served("Decrypt", SECOND, recording) == 0
    assert regions.served("GenerateDataKey", SECOND, recording) == 0
