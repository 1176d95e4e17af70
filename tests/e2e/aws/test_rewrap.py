"""Rewrap between two keys of AWS KMS: KMS does it alone, and whatever it refuses is told of the key at fault."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ownkey.v1 import key_service_pb2 as pb
from ownkey.v1 import policy_pb2
from support import server
from support.admin import Admin
from support.fake_kms import FakeKms
from support.regions import FIRST, SECOND, STORE
from support.rpc import Rpc, asset, connected

OLD, NEW = "tenants/acme/keys/old", "tenants/acme/keys/new"
TENANTS = """
[provider_key]
key_store = "embedded"
reference = "provider"

[[tenants]]
id = "acme"
enrolled_at = 2026-01-01T00:00:00Z
policy = {{ default = "key:old" }}
keys = [
    {{ id = "old", key_store = "aws", reference = "{old}", replicas = [{{ key_store = "aws", reference = "{too}" }}] }},
    {{ id = "new", key_store = "aws", reference = "{new}" }},
    {{ id = "far", key_store = "aws", reference = "{far}" }},
]
"""


@dataclass
class Office:
    """A server with three keys in KMS, and a data key that the first has wrapped."""

    kms: FakeKms
    arns: dict[str, str]
    rpc: Rpc
    made: pb.GenerateDataKeyResponse

    @property
    def request(self) -> pb.RewrapRequest:
        return pb.RewrapRequest(
            asset=asset(), wrapped_key=self.made.wrapped_key, encryption_context=self.made.encryption_context
        )

    async def choose(self, key: str) -> None:
        policy = policy_pb2.Policy(default_use=f"key:{key}")
        admin = Admin(self.rpc.channel)
        await admin("CreatePolicyVersion", tenant="acme", policy=policy, activate=True, etag="*")

    def asked(self) -> list[str]:
        """What KMS was asked for the asset, in order."""
        return [one.operation for one in self.kms.calls if "ownkey:asset-id" in one.context]


@pytest.fixture
async def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Office]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "dummy")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "dummy")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with FakeKms() as kms:
        old = kms.create_key(FIRST, multi_region=True)
        arns = {"old": old, "too": kms.replicate(old, SECOND), "new": kms.create_key(FIRST)}
        arns["far"] = kms.create_key(SECOND)
        store = STORE.format(first=FIRST, first_url=kms.url, second=SECOND, second_url=kms.url, sts_url=kms.url)
        with server.process(tmp_path, tenants=TENANTS.format(**arns), extra=store) as running:
            async with connected(running.address) as rpc:
                request = pb.GenerateDataKeyRequest(asset=asset(), with_plaintext=True)
                yield Office(kms, arns, rpc, await rpc.stub.GenerateDataKey(request))


async def opened(office: Office, wrapped_key: bytes) -> pb.UnwrapResponse:
    request = pb.UnwrapRequest(
        asset=asset(), wrapped_key=wrapped_key, encryption_context=office.made.encryption_context
    )
    return await office.rpc.stub.Unwrap(request)


async def test_kms_moves_it_alone(office: Office) -> None:
    await office.choose("new")
    moved = await office.rpc.stub.Rewrap(office.request)
    assert (moved.key, moved.rewrapped) == (NEW, True)
    assert office.asked() == ["GenerateDataKey", "ReEncrypt"]
    records = (await Admin(office.rpc.channel)("ListAuditRecords", tenant="acme")).records
    (record,) = [one for one in records if one.action == "rewrap"]
    (call,) = [one for one in office.kms.calls if one.operation == "ReEncrypt"]
    assert call.request_id in str(record)
    office.kms.schedule_deletion(office.arns["old"])
    answer = await opened(office, moved.wrapped_key)
    assert (answer.key, answer.plaintext) == (NEW, office.made.plaintext)


async def test_where_kms_cannot_it_is_opened_and_wrapped(office: Office) -> None:
    await office.choose("far")
    moved = await office.rpc.stub.Rewrap(office.request)
    assert office.asked() == ["GenerateDataKey", "Decrypt", "Encrypt"]
    assert (await opened(office, moved.wrapped_key)).plaintext == office.made.plaintext


@pytest.mark.parametrize("at_fault", ["old", "new"])
async def test_a_revoked_key_is_named_and_nothing_goes_around_it(office: Office, at_fault: str) -> None:
    await office.choose("new")
    office.kms.disable(office.arns[at_fault])
    failure = await office.rpc.fail("Rewrap", office.request)
    assert (failure.reason, failure.metadata["key"]) == ("KEY_REVOKED", office.arns[at_fault])
    status = await office.rpc.stub.KeyStatus(pb.KeyStatusRequest(tenant="acme"))
    states = {one.key.rpartition("/")[2]: one.state for one in status.keys}
    other = {"old": "new", "new": "old"}[at_fault]
    assert (states[at_fault], states[other]) == (3, 1)


async def test_a_related_key_elsewhere_does_not_open_what_its_primary_refuses(office: Office) -> None:
    office.kms.disable(office.arns["old"])
    await office.choose("far")
    assert (await office.rpc.fail("Rewrap", office.request)).reason == "KEY_REVOKED"
    assert "ReEncrypt" not in office.asked()
