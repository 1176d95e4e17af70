"""By whose credentials keys are used: each tenant's role, its external id, and how sessions are renewed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from ownkey_server.domain.errors import KeyMisconfigured, KeyRevoked, KeyUnreachable
from ownkey_server.keystores.aws import shares as aws_shares
from ownkey_server.keystores.aws.roles import SESSION_SECONDS, AssumedRole, RoleSession
from ownkey_server.keystores.aws.shares import Shares, TenantShare
from ownkey_server.keystores.bulkhead import Threads
from support.fake_kms import ACCOUNT, PROVIDER, FakeKms
from support.key_stores import CONTEXT, TIMEOUT

ROLE = f"arn:aws:iam::{ACCOUNT}:role/ownkey"
WITH_ROLE = {"role_name": "ownkey"}


def trust(external_id: str, *actions: str) -> dict[str, Any]:
    allow = {
        "Effect": "Allow",
        "Principal": {"AWS": PROVIDER},
        "Action": list(actions or ("sts:AssumeRole", "sts:TagSession")),
        "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
    }
    return {"Statement": [allow]}


async def test_a_tenants_key_is_used_by_its_role_with_its_external_id_and_tag(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    kms.create_role(ROLE, trust("ownkey-acme"))
    role = {"Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "kms:*"}
    role["Condition"] = {"StringEquals": {"aws:PrincipalTag/ownkey:tenant": "acme"}}
    kms.set_policy(key, {"Statement": [role]})
    made = await open_aws(**WITH_ROLE).for_tenant("acme").generate_data_key(key, CONTEXT, TIMEOUT)
    assumed, generated = list(kms.calls)
    assert generated.principal == f"arn:aws:sts::{ACCOUNT}:assumed-role/ownkey/ownkey-acme"
    assert generated.request_id == made.request_id
    assert generated.context == CONTEXT
    assert assumed.details["ExternalId"] == "ownkey-acme"
    assert assumed.details["DurationSeconds"] == str(SESSION_SECONDS)
    assert assumed.region == "eu-west-1"  # the regional STS


async def test_one_tenant_cannot_reach_anothers_key_by_naming_it(kms: FakeKms, open_aws) -> None:
    key, canary = kms.create_key(), kms.create_key("us-east-1")
    kms.create_role(ROLE, trust("ownkey-acme"))
    store = open_aws(**WITH_ROLE, canary_key=canary)
    await store.for_tenant("acme").generate_data_key(key, CONTEXT, TIMEOUT)
    with pytest.raises(KeyRevoked, match="denies us the role"):
        await store.for_tenant("mallory").generate_data_key(key, CONTEXT, TIMEOUT)


async def test_without_tags_the_trust_policy_need_not_allow_them(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    kms.create_role(ROLE, trust("corp:ownkey-acme", "sts:AssumeRole"))
    with pytest.raises(KeyMisconfigured, match="set canary_key"):
        await open_aws(**WITH_ROLE).for_tenant("acme").generate_data_key(key, CONTEXT, TIMEOUT)
    store = open_aws(**WITH_ROLE, session_tags=False, external_id_prefix="corp:ownkey")
    await store.for_tenant("acme").generate_data_key(key, CONTEXT, TIMEOUT)


async def test_the_providers_own_key_needs_no_role(kms: FakeKms, open_aws) -> None:
    await open_aws(**WITH_ROLE).generate_data_key(kms.create_key(), CONTEXT, TIMEOUT)
    assert [call.principal for call in kms.calls] == [PROVIDER]


async def test_a_session_is_asked_for_once_and_shared_by_the_tenants_calls(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    kms.create_role(ROLE, trust("ownkey-acme"))
    store = open_aws(**WITH_ROLE).for_tenant("acme")
    await asyncio.gather(*(store.generate_data_key(key, CONTEXT, TIMEOUT) for _ in range(20)))
    assert kms.counts["AssumeRole"] == 1
    assert kms.counts["GenerateDataKey"] == 20


async def test_a_session_that_aws_ended_is_asked_for_anew(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    kms.create_role(ROLE, trust("ownkey-acme"))
    store = open_aws(**WITH_ROLE).for_tenant("acme")
    await store.generate_data_key(key, CONTEXT, TIMEOUT)
    kms.expire_sessions()
    await store.generate_data_key(key, CONTEXT, TIMEOUT)
    assert kms.counts["AssumeRole"] == 2


async def test_our_own_ended_credentials_are_no_revocation(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    kms.fail("AssumeRole", "ExpiredToken")
    with pytest.raises(KeyMisconfigured, match="our own credentials"):
        await open_aws(**WITH_ROLE).for_tenant("acme").generate_data_key(key, CONTEXT, TIMEOUT)


async def test_an_outage_of_sts_is_an_outage(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    store = open_aws(**WITH_ROLE, sts_endpoint_url="http://127.0.0.1:1")
    with pytest.raises(KeyUnreachable):
        await store.for_tenant("acme").generate_data_key(key, CONTEXT, TIMEOUT)


@pytest.mark.parametrize(
    ("options", "environment", "cause"),
    [
        ({}, {"AWS_ACCESS_KEY_ID": ""}, "no AWS credentials"),
        ({"profile": "nobody"}, {}, "no such AWS profile"),
    ],
)
async def test_credentials_that_are_not_there_are_our_fault(
    kms: FakeKms, open_aws, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], environment, cause: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(KeyMisconfigured, match=cause):
        await open_aws(**options).generate_data_key(kms.create_key(), CONTEXT, TIMEOUT)


async def test_a_region_that_is_not_allowed_is_not_asked(kms: FakeKms, open_aws) -> None:
    key = kms.create_key("us-east-1")
    with pytest.raises(KeyMisconfigured, match="us-east-1 is not among the regions"):
        await open_aws(regions=("eu-west-1",)).generate_data_key(key, CONTEXT, TIMEOUT)
    assert not kms.calls


async def test_a_region_has_its_own_endpoint(kms: FakeKms, open_aws) -> None:
    with FakeKms() as other:
        key = other.create_key("us-east-1")
        await open_aws(endpoint_urls={"us-east-1": other.url}).generate_data_key(key, CONTEXT, TIMEOUT)
        assert other.counts["GenerateDataKey"] == 1


async def test_clients_are_as_many_as_regions_however_many_tenants(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    store = open_aws(**WITH_ROLE, external_id_prefix="ok")
    kms.create_role(ROLE, trust("ok-*") | {"Statement": [{"Effect": "Allow", "Action": "sts:*"}]})
    for number in range(50):
        await store.for_tenant(f"t{number}").generate_data_key(key, CONTEXT, TIMEOUT)
    assert kms.counts["AssumeRole"] == 50
    assert len(store._access._clients) == 2  # of KMS and of STS


async def test_of_too_many_tenants_those_longest_unused_are_forgotten() -> None:
    threads = Threads(4, "t")
    shares = Shares(lambda: TenantShare(threads, 2, 10.0, 1.0), most=100)
    busy = shares.get("busy")
    busy.rate.take()
    for number in range(1000):
        shares.get(f"t{number}")
    assert len(shares) == 100
    assert shares.get("busy") is busy  # what was taken is not forgotten
    assert aws_shares.MOST_TENANTS == 10_000
    threads.close()


# Sessions, on a clock of their own


class Sts:
    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0
        self.fails = False
        self.waiting: list[Callable[[], None]] = []

    def assume(self) -> dict[str, Any]:
        self.asked += 1
        if self.fails:
            raise EndpointConnectionError(endpoint_url="https://sts")
        until = self.now + 900
        return {"AccessKeyId": f"key-{self.asked}", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": until}

    def role(self) -> AssumedRole:
        return AssumedRole(self.assume, self.waiting.append, lambda: self.now)


def test_a_session_is_renewed_in_the_background_and_once() -> None:
    sts = Sts()
    role = sts.role()
    assert role.credentials().access_key == "key-1"
    sts.now += 599
    role.credentials()
    assert not sts.waiting
    sts.now += 2
    for _ in range(5):
        assert role.credentials().access_key == "key-1"
    [renew] = sts.waiting
    renew()
    assert role.credentials().access_key == "key-2"


def test_while_renewing_fails_the_old_session_serves_until_it_ends() -> None:
    sts = Sts()
    role = sts.role()
    role.credentials()
    sts.fails = True
    sts.now += 700
    for _ in range(3):
        assert role.credentials().access_key == "key-1"
    sts.waiting.pop()()
    role.credentials()
    assert not sts.waiting  # not at every call
    sts.now += 11
    role.credentials()
    sts.waiting.pop()()
    sts.now += 300
    with pytest.raises(EndpointConnectionError):
        role.credentials()
    sts.fails = False
    assert role.credentials().access_key.startswith("key-")


def test_refused_credentials_are_forgotten_and_newer_ones_kept() -> None:
    sts = Sts()
    role = sts.role()
    old = role.credentials()
    role.forget(old)
    new = role.credentials()
    role.forget(old)
    assert role.credentials() is new


@pytest.mark.parametrize("tenant", ["acme", "a" * 63, "t.1_x"])
def test_what_is_asked_for_is_what_sts_allows(tenant: str) -> None:
    session = RoleSession.of_tenant(
        tenant, partition="aws-us-gov", account=ACCOUNT, role_name="x/ownkey", prefix="p", tags=True
    )
    request = session.request()
    assert request["RoleArn"] == f"arn:aws-us-gov:iam::{ACCOUNT}:role/x/ownkey"
    assert request["ExternalId"] == f"p-{tenant}"
    assert len(request["RoleSessionName"]) <= 64
    assert request["Tags"] == [{"Key": "ownkey:tenant", "Value": tenant}]
