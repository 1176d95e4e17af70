"""By whose credentials keys are used: each tenant's role, its external id, and how sessions are renewed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from ownkey_server.domain.errors import KeyMisconfigured, KeyRevoked, KeyUnreachable
from ownkey_server.domain.key_state import KeyState
from ownkey_server.keystores.aws import access as aws_access
from ownkey_server.keystores.aws import shares as aws_shares
from ownkey_server.keystores.aws.roles import SESSION_SECONDS
from ownkey_server.keystores.aws.shares import Shares, TenantShare
from ownkey_server.keystores.budget import RateBudget
from ownkey_server.keystores.bulkhead import Threads
from support.aws_subjects import use
from support.fake_kms import ACCOUNT, PROVIDER, FakeKms
from support.key_stores import CONTEXT, TIMEOUT, until

CANARY_ROLE = "arn:aws:iam::999988887777:role/ownkey-canary"
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
    key, canary = kms.create_key(), kms.create_key()
    kms.create_role(ROLE, trust("ownkey-acme"))
    kms.create_role(CANARY_ROLE, trust("ownkey-provider.canary"))
    store = open_aws(**WITH_ROLE, canary_key=canary, canary_role=CANARY_ROLE)
    await use(store.for_tenant("acme"), key)
    # Nothing was taken from who never had it: this is no revocation, whatever the canaries say.
    with pytest.raises(KeyMisconfigured, match="has not worked here yet"):
        await store.for_tenant("mallory").generate_data_key(key, CONTEXT, TIMEOUT)
    assert (await store.for_tenant("mallory").describe(key, TIMEOUT)).state is KeyState.MISCONFIGURED


async def test_a_trust_that_was_withdrawn_is_a_revocation_where_a_canary_role_proves_our_right(
    kms: FakeKms, open_aws
) -> None:
    key = kms.create_key()
    kms.create_role(ROLE, trust("ownkey-acme"))
    kms.create_role(CANARY_ROLE, trust("ownkey-provider.canary"))
    proven = open_aws(**WITH_ROLE, canary_role=CANARY_ROLE).for_tenant("acme")
    blind = open_aws(**WITH_ROLE, canary_key=kms.create_key()).for_tenant("acme")
    for store in (proven, blind):
        await use(store, key)
    kms.expire_sessions()
    kms.create_role(ROLE, {"Statement": []})
    with pytest.raises(KeyRevoked, match="denies us the role"):
        await proven.generate_data_key(key, CONTEXT, TIMEOUT)
    with pytest.raises(KeyMisconfigured, match="set canary_role"):
        await blind.generate_data_key(key, CONTEXT, TIMEOUT)  # a canary key says nothing of our right to assume roles


async def test_our_own_right_to_assume_roles_that_is_gone_is_no_revocation(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    kms.create_role(ROLE, trust("ownkey-acme"))
    kms.create_role(CANARY_ROLE, trust("ownkey-provider.canary"))
    store = open_aws(**WITH_ROLE, canary_role=CANARY_ROLE, canary_key=kms.create_key()).for_tenant("acme")
    await use(store, key)
    kms.expire_sessions()
    kms.fail("AssumeRole", "AccessDenied")
    with pytest.raises(KeyMisconfigured, match="our canary role too"):
        await store.generate_data_key(key, CONTEXT, TIMEOUT)


async def test_without_tags_the_trust_policy_need_not_allow_them(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    kms.create_role(ROLE, trust("corp:ownkey-acme", "sts:AssumeRole"))
    with pytest.raises(KeyMisconfigured, match="denies us the role"):
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


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        (":eu-west-1:", ":eu-nowhere-1:", "no region eu-nowhere-1 of AWS KMS is known here"),
        ("arn:aws:", "arn:aws-cn:", "eu-west-1 is in partition aws, not aws-cn"),
        ("arn:aws:", "arn:aws-x:", "eu-west-1 is in partition aws, not aws-x"),
    ],
)
async def test_a_region_that_is_none_is_told_and_not_asked(
    kms: FakeKms, open_aws, old: str, new: str, cause: str
) -> None:
    key = kms.create_key().replace(old, new)
    store = open_aws(**WITH_ROLE)
    for asked in (store, store.for_tenant("acme")):
        with pytest.raises(KeyMisconfigured, match=cause):
            await asked.generate_data_key(key, CONTEXT, TIMEOUT)
        described = await asked.describe(key, TIMEOUT)  # as when it is enrolled
        assert (described.state, cause in described.cause) == (KeyState.MISCONFIGURED, True)
    assert not store._access._clients


async def test_a_region_that_the_library_does_not_know_is_used_when_the_settings_name_it(
    kms: FakeKms, open_aws
) -> None:
    key = kms.create_key("eu-nowhere-1")
    await open_aws(regions=("eu-nowhere-1",)).generate_data_key(key, CONTEXT, TIMEOUT)


async def test_clients_are_never_more_than_so_many(kms: FakeKms, open_aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_access, "MOST_CLIENTS", 2)
    keys = [kms.create_key(region) for region in ("eu-west-1", "us-east-1", "eu-central-1")]
    store = open_aws()
    for key in keys * 2:
        await store.generate_data_key(key, CONTEXT, TIMEOUT)
        assert len(store._access._clients) <= 2


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
    shares = Shares(lambda: TenantShare(threads, 2, RateBudget(10.0, lambda: 0.0), 1.0), most=100)
    busy = shares.get("busy")
    busy.rate.take()
    for number in range(1000):
        shares.get(f"t{number}")
    assert len(shares) == 100
    assert shares.get("busy") is busy  # what was taken is not forgotten
    assert aws_shares.MOST_TENANTS == 10_000
    threads.close()


async def test_a_trust_that_was_withdrawn_ends_the_use_of_the_session_there_is(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    kms.create_role(ROLE, trust("ownkey-acme"))
    kms.create_role(CANARY_ROLE, trust("ownkey-provider.canary"))
    now = [time.time()]
    store = open_aws(lambda: now[0], **WITH_ROLE, canary_role=CANARY_ROLE).for_tenant("acme")
    await use(store, key)
    kms.create_role(ROLE, {"Statement": []})
    await use(store, key)  # AWS takes the session there is
    now[0] += 601

    async def refused() -> bool:
        try:
            await store.generate_data_key(key, CONTEXT, TIMEOUT)
        except KeyRevoked as error:
            return "denies us the role" in error.cause
        return False

    await until(refused)


async def test_a_refused_renewal_that_may_be_our_own_fault_leaves_the_session_in_use(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    kms.create_role(ROLE, trust("ownkey-acme"))
    now = [time.time()]
    store = open_aws(lambda: now[0], **WITH_ROLE, canary_role=CANARY_ROLE).for_tenant("acme")
    await use(store, key)
    kms.create_role(ROLE, {"Statement": []})
    now[0] += 601

    async def asked() -> bool:
        await use(store, key)
        return any(call.key == CANARY_ROLE for call in kms.calls)

    await until(asked)
    await use(store, key)
