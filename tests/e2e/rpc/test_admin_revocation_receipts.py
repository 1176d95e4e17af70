"""A receipt says what the trail proves of a revocation, is checked by code that is not ours, and cannot be changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.exceptions import InvalidSignature

from interop import receipt_verifier
from ownkey.receipts import ReceiptInvalid, verify_receipt
from ownkey.v1 import asset_pb2, revocation_pb2
from ownkey.v1 import key_service_pb2 as pb
from support.admin import Admin
from support.receipts import receipt
from support.rpc import Rpc, asset

USER = "ann@example.com"


@pytest.fixture
def admin(rpc: Rpc) -> Admin:
    return Admin(rpc.channel)


@pytest.fixture
def pem(tmp_path: Path) -> bytes:
    return (tmp_path / "audit-signing.pem.pub").read_bytes()


async def use(rpc: Rpc, user: str = USER, **facts: object) -> None:
    await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset(user=user, **facts), with_plaintext=True))


async def trail(admin: Admin) -> list[bytes]:
    """Every record, as a line of an export."""
    found, token = [], ""
    while True:
        page = await admin("ListAuditRecords", page_size=1000, page_token=token)
        found += [
            one.json.encode()[:-1]
            + f',"hash":"{one.hash.hex()}","sequence":{one.sequence},"writer":{one.writer}}}\n'.encode()
            for one in page.records
        ]
        token = page.next_page_token
        if not token:
            return found


async def revoke(admin: Admin, **fields: object) -> str:
    scope = revocation_pb2.RevocationScope(users=[USER])
    answer = await admin("Revoke", tenant="acme", scope=scope, **fields)
    return str(answer.revocation.id)


async def test_it_says_when_it_took_effect_and_what_was_served_before(rpc: Rpc, admin: Admin, pem: bytes) -> None:
    await use(rpc, "bob@example.com", asset_id="bobs")
    await use(rpc, asset_id="first")
    await use(rpc, asset_id="last")
    await use(rpc, "bob@example.com", asset_id="bobs-later")
    stream = rpc.stub.EncryptMedia()
    started = pb.EncryptMediaStart(asset=asset(user=USER, asset_id="under-way"))
    await stream.write(pb.EncryptMediaRequest(start=started))
    await stream.read()
    one = await revoke(admin)
    file, said = await receipt(admin, revocation=one)
    told = (await admin("GetRevocationReceipt", tenant="acme", revocation=one)).receipt
    assert (told.complete, told.instances, told.unproved) == (True, 1, 0)
    assert (said["tenant"], said["revocation"]["id"], said["revocation"]["scope"]) == ("acme", one, {"users": [USER]})
    (instance,) = said["instances"]
    assert (instance["standing"], instance["streams_ended"], instance["served_after"]) == ("in_force", 1, 0)
    (last,) = instance["last_served"]
    assert (last["action"], last["key"]) == ("encrypt_media", "tenants/acme/keys/main")
    assert last["time"] < said["since"] <= instance["effect"]["time"] <= said["time"]
    assert receipt_verifier.check(file, pem) == said == verify_receipt(file, pem)
    receipt_verifier.check_against_trail(said, await trail(admin))

    await admin("Restore", tenant="acme", revocation=one)
    await use(rpc, asset_id="given-back")
    for _ in range(500):
        _, said = await receipt(admin, revocation=one)
        if "restored" in said["instances"][0]:
            break
    (instance,) = said["instances"]
    assert instance["restored"]["time"] >= said["revocation"]["restore_time"]
    assert (instance["served_after"], said["complete"]) == (0, True)


def changes(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The value with one field changed, for each field of it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from ((where, {**value, name: changed}) for where, changed in changes(inner, f"{path}.{name}"))
    elif isinstance(value, list):
        yield path, [*value, *value[:1]] if value else ["more"]
        for place, inner in enumerate(value):
            yield from (
                (where, [*value[:place], changed, *value[place + 1 :]])
                for where, changed in changes(inner, f"{path}[{place}]")
            )
    elif isinstance(value, bool):
        yield path, not value
    elif isinstance(value, int | float):
        yield path, value + 1
    else:
        yield path, f"{value}0"


async def test_whatever_is_changed_in_it_is_found(rpc: Rpc, admin: Admin, pem: bytes) -> None:
    await use(rpc)
    file, said = await receipt(admin, revocation=await revoke(admin))
    document = json.loads(file)
    changed = list(changes(said))
    assert {
        ".complete",
        ".instances[0].effect.time",
        ".instances[0].last_served[0].time",
        ".instances[0].standing",
    } <= {where for where, _ in changed}
    for where, other in changed:
        text = json.dumps(other, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        forged = json.dumps(document | {"description": text}).encode()
        with pytest.raises(ReceiptInvalid):
            verify_receipt(forged, pem)
        with pytest.raises(InvalidSignature):
            receipt_verifier.check(forged, pem)
        assert where
    signature = bytearray.fromhex(document["signature"])
    signature[7] ^= 1
    for damaged in (json.dumps(document | {"signature": signature.hex()}).encode(), b"{}", b"no receipt", b"[]"):
        with pytest.raises(ReceiptInvalid):
            verify_receipt(damaged, pem)


async def test_streams_that_are_let_finish_are_told_until_the_last_is_over(rpc: Rpc, admin: Admin) -> None:
    stream = rpc.stub.EncryptMedia()
    await stream.write(pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=asset(user=USER))))
    await stream.read()
    one = await revoke(admin, ending=revocation_pb2.REVOCATION_ENDING_DRAIN)
    _, said = await receipt(admin, revocation=one)
    (instance,) = said["instances"]
    assert (instance["streams_ended"], instance["streams_draining"], "drained" in instance) == (0, 1, False)
    await stream.write(pb.EncryptMediaRequest(chunk=bytes(400_000)))
    await stream.done_writing()
    size = 0
    while (answer := await stream.read()) is not grpc.aio.EOF:
        size += len(answer.chunk)
    assert size > 400_000
    for _ in range(500):
        _, said = await receipt(admin, revocation=one)
        if "drained" in said["instances"][0]:
            break
    assert said["instances"][0]["drained"]["sequence"] > said["instances"][0]["effect"]["sequence"]


async def test_a_key_taken_away_in_its_key_store_has_a_receipt_too(rpc: Rpc, admin: Admin, tmp_path: Path) -> None:
    chat = asset_pb2.ASSET_CLASS_TEAM_CHAT
    await use(rpc, asset_class=chat)  # by a branch key, which is a lease
    stream = rpc.stub.EncryptMedia()
    await stream.write(pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=asset())))
    await stream.read()
    _, before = await receipt(admin, key="main", complete=False)
    assert [one["standing"] for one in before["instances"]] == ["silent"]
    assert not before["complete"]
    (tmp_path / "keys" / "acme-main.disabled").touch()
    _, said = await receipt(admin, key="main")
    (instance,) = said["instances"]
    assert (said["key"], instance["replica"]) == ("tenants/acme/keys/main", "embedded")
    assert instance["cause"]
    assert (instance["streams_ended"], instance["leases_ended"]) == (1, 1)
    assert "served_after" not in instance
    assert {one["action"] for one in instance["last_served"]} <= {"generate_data_key", "encrypt_media"}


async def test_there_is_none_of_what_is_not_there(rpc: Rpc, admin: Admin) -> None:
    assert rpc
    for about in ({"revocation": "0" * 32}, {"key": "none"}):
        assert (await admin.fail("GetRevocationReceipt", tenant="acme", **about)).reason == "RESOURCE_NOT_FOUND"
    assert (await admin.fail("GetRevocationReceipt", tenant="acme")).reason == "INVALID_FIELD"
