"""A key shows whose it is before it is enrolled: keys of AWS KMS on the fake, which decides by their policies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import (
    EnrolmentFailed,
    InvalidRequest,
    KeyStoreThrottled,
    KeyUnreachable,
    OwnkeyError,
    StoreMisconfigured,
)
from ownkey_server.domain.tenants import PROVIDER_KEY_NAME, Replica, key_name
from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.aws.policies import Access, account_root, key_policy, role_arn, trust_policy
from ownkey_server.keystores.aws.store import AwsKmsKeyStore
from ownkey_server.service.administration.enrolment import Enrolment
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.status_board import StatusBoard
from support.aws_subjects import dummy_credentials
from support.fake_kms import ACCOUNT, PROVIDER, FakeKms

KEY = key_name("acme", "main")
ROLE = role_arn(ACCOUNT, "ownkey")


class Site:
    """Key stores in AWS KMS, and the enrolment of keys in them."""

    def __init__(self, kms: FakeKms) -> None:
        self.kms = kms
        self._stores: list[AwsKmsKeyStore] = []

    def enrolment(self, **options: Any) -> Enrolment:
        url = self.kms.url
        store = AwsKmsKeyStore("aws", AwsKmsOptions(endpoint_url=url, sts_endpoint_url=url, **options))
        self._stores.append(store)
        board = StatusBoard(timedelta(seconds=60))
        return Enrolment(KeyRing({"aws": store}, board, system_clock, timedelta(seconds=5)))

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


@pytest.fixture(scope="module")
def kms() -> Iterator[FakeKms]:
    with FakeKms() as running, dummy_credentials():
        yield running


@pytest.fixture
async def site(kms: FakeKms) -> AsyncIterator[Site]:
    made = Site(kms)
    yield made
    await made.close()
    kms.heal()


def policy(principal: str, tenant: str = "acme") -> dict[str, Any]:
    return key_policy(Access(tenant, account_root(ACCOUNT), (principal,)))


def without_condition(principal: str) -> dict[str, Any]:
    made = policy(principal)
    made["Statement"] = [one for one in made["Statement"] if one["Sid"] != "OwnkeyNothingOfOtherTenants"]
    for one in made["Statement"]:
        one.pop("Condition", None)
    return made


def for_any_tenant_but_for_one(principal: str) -> dict[str, Any]:
    """Asks for a tenant, and not for which."""
    made = without_condition(principal)
    made["Statement"][1]["Condition"] = {"StringLike": {"kms:EncryptionContext:ownkey:tenant": "*"}}
    return made


@pytest.mark.parametrize("has_canary", [True, False])
async def test_a_key_that_refuses_others_is_its_tenants(site: Site, has_canary: bool) -> None:
    canary = site.kms.create_key() if has_canary else None
    place = Replica("aws", site.kms.create_key(policy=policy(PROVIDER)))
    await site.enrolment(canary_key=canary).prove(KEY, place)


@pytest.mark.parametrize(
    ("made", "whose"), [(without_condition, "another tenant"), (for_any_tenant_but_for_one, "another tenant")]
)
async def test_a_key_that_serves_others_is_nobodys_without_a_role(site: Site, made: Any, whose: str) -> None:
    place = Replica("aws", site.kms.create_key(policy=made(PROVIDER)))
    with pytest.raises(EnrolmentFailed, match=f"a context of {whose} too.*key-policy"):
        await site.enrolment().prove(KEY, place)


async def test_a_key_that_needs_no_tenant_is_nobodys_without_a_role(site: Site) -> None:
    made = without_condition(PROVIDER)
    condition = {"StringEqualsIfExists": {"kms:EncryptionContext:ownkey:tenant": "acme"}}
    made["Statement"][1]["Condition"] = condition
    with pytest.raises(EnrolmentFailed, match="a context of no tenant too"):
        await site.enrolment().prove(KEY, Replica("aws", site.kms.create_key(policy=made)))


async def test_a_replica_shows_it_too_for_its_policy_is_its_own(site: Site) -> None:
    arn = site.kms.create_key(policy=policy(PROVIDER), multi_region=True)
    replica = site.kms.replicate(arn, "us-east-1")
    site.kms.set_policy(replica, without_condition(PROVIDER))
    enrolment = site.enrolment()
    with pytest.raises(EnrolmentFailed, match=r"aws/us-east-1.*a context of another tenant too"):
        await enrolment.prove_replica(KEY, Replica("aws", arn), Replica("aws", replica))
    site.kms.set_policy(replica, policy(PROVIDER))
    await enrolment.prove_replica(KEY, Replica("aws", arn), Replica("aws", replica))


async def test_it_need_not_where_the_settings_say_so_or_a_role_of_the_tenants_is_used(site: Site) -> None:
    place = Replica("aws", site.kms.create_key(policy=without_condition(PROVIDER)))
    await site.enrolment(require_tenant_context=False).prove(KEY, place)
    site.kms.create_role(ROLE, trust_policy(PROVIDER, "ownkey-acme", {"ownkey:tenant": "acme"}))
    place = Replica("aws", site.kms.create_key(policy=without_condition(ROLE)))
    await site.enrolment(role_name="ownkey").prove(KEY, place)


async def test_the_providers_own_key_is_no_tenants(site: Site) -> None:
    place = Replica("aws", site.kms.create_key(policy=without_condition(PROVIDER)))
    await site.enrolment().prove(PROVIDER_KEY_NAME, place)


OURS = "User: us is not authorized to perform: kms:GenerateDataKey on resource: it "


@pytest.mark.parametrize(
    ("code", "message", "told"),
    [
        ("ThrottlingException", "", KeyStoreThrottled),
        ("KMSInternalException", "", KeyUnreachable),
        ("ExpiredTokenException", "", StoreMisconfigured),
        ("UnrecognizedClientException", "", StoreMisconfigured),
        ("DisabledException", "", EnrolmentFailed),
        ("NotFoundException", "", EnrolmentFailed),
        (
            "AccessDeniedException",
            OURS + "because no VPC endpoint policy allows the kms:GenerateDataKey action",
            EnrolmentFailed,
        ),
        ("AccessDeniedException", OURS + "with an explicit deny in an identity-based policy", EnrolmentFailed),
        ("AccessDeniedException", OURS + "with an explicit deny in a service control policy", EnrolmentFailed),
    ],
)
@pytest.mark.parametrize("has_canary", [True, False])
async def test_what_is_not_known_is_no_proof(
    site: Site, code: str, message: str, told: type[OwnkeyError], has_canary: bool
) -> None:
    """Every wrap but that of the tenant's own context fails, and not by the key's policy."""
    arn = site.kms.create_key(policy=policy(PROVIDER))
    enrolment = site.enrolment(canary_key=site.kms.create_key() if has_canary else None)
    await enrolment.prove(KEY, Replica("aws", arn))
    with pytest.MonkeyPatch.context() as patch:
        after_the_first(site, patch, lambda: site.kms.fail("GenerateDataKey", code, message, key=arn))
        with pytest.raises(told, match=r"not known whether it refuses a context of another tenant.*try again"):
            await enrolment.prove(KEY, Replica("aws", arn))


@pytest.mark.parametrize("policy_of", ["", " because no resource-based policy allows the kms:GenerateDataKey action"])
async def test_a_key_that_ends_in_the_middle_shows_nothing(site: Site, policy_of: str) -> None:
    """All is denied after the first use: a policy that went away refuses every context, and not others' alone."""
    arn = site.kms.create_key(policy=without_condition(PROVIDER))
    enrolment = site.enrolment()
    with pytest.MonkeyPatch.context() as patch:
        denied = OURS.rstrip() + policy_of
        after_the_first(site, patch, lambda: site.kms.fail("*", "AccessDeniedException", denied, key=arn))
        with pytest.raises(
            EnrolmentFailed, match="it worked before it was asked to refuse other contexts, and not after"
        ):
            await enrolment.prove(KEY, Replica("aws", arn))


def after_the_first(site: Site, patch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """Do something once, when the key has been used both ways in the tenant's own context."""
    opened = site.kms.counts["Decrypt"]
    answered = site.kms.answer
    done = False

    def answer(head: bytes, body: bytes) -> tuple[int, str, bytes, str]:
        nonlocal done
        if not done and site.kms.counts["Decrypt"] > opened:
            done = True
            then()
        return answered(head, body)

    patch.setattr(site.kms, "answer", answer)


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("alias/acme", "a key is named by its ARN"),
        ("arn:aws:kms:eu-west-1:111122223333:alias/acme", "this is the ARN of an alias"),
        ("arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", "us-east-1 is not among"),
    ],
)
async def test_what_cannot_be_a_key_s_name_is_a_mistake_of_the_request(
    site: Site, reference: str, complaint: str
) -> None:
    enrolment = site.enrolment(regions=("eu-west-1",))
    with pytest.raises(InvalidRequest, match=f"^primary.reference: .*{complaint}"):
        enrolment.require_possible("primary", Replica("aws", reference))
    enrolment.require_possible("primary", Replica("aws", site.kms.create_key()))


async def test_our_own_expired_credentials_are_no_fault_of_the_key(site: Site) -> None:
    place = Replica("aws", site.kms.create_key(policy=policy(PROVIDER)))
    enrolment = site.enrolment()
    await enrolment.prove(KEY, place)
    site.kms.fail("GenerateDataKey", "ExpiredTokenException")
    with pytest.raises(StoreMisconfigured, match="AWS refuses our own credentials: renew them"):
        await enrolment.prove(KEY, place)
