"""Access to a customer's account, judged by an emulator that is not ours: trust policy, external id, key policy.

Ministack with AUTH verifies signatures and evaluates policies; the customer and the provider are two accounts of it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ownkey_server.domain.errors import KeyMisconfigured, KeyRevoked
from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.aws.policies import TENANT_CONDITION, Access, account_root, key_policy
from ownkey_server.keystores.aws.scopes import Scope
from ownkey_server.keystores.aws.store import AwsKmsKeyStore
from ownkey_server.keystores.base import KeyStore
from support.aws_subjects import client, dummy_credentials, ministack_server
from support.key_stores import CONTEXT, TIMEOUT

CUSTOMER, PROVIDER = "111122223333", "999988887777"
ROLE = f"arn:aws:iam::{CUSTOMER}:role/ownkey"
TENANTS = {**CONTEXT, "ownkey:tenant": "acme"}
USER = f"arn:aws:iam::{PROVIDER}:user/ownkey"


@dataclass
class Accounts:
    """A customer's account with a key and a role, and the provider's with a user and a canary key."""

    url: str
    key: str
    canary: str
    customer_kms: Any
    customer_iam: Any
    provider_iam: Any

    def put(self, policy: dict[str, Any]) -> None:
        """The customer puts a policy on their key."""
        self.customer_kms.put_key_policy(KeyId=self.key, PolicyName="default", Policy=json.dumps(policy))

    def give_iam_policy(self) -> None:
        """Somebody in the customer's account gives the role a policy of IAM, which no template does."""
        use = _allow(["kms:GenerateDataKey", "kms:Decrypt", "kms:Encrypt"], Resource=self.key)
        document = {"Version": "2012-10-17", "Statement": [use]}
        self.customer_iam.put_role_policy(RoleName="ownkey", PolicyName="use", PolicyDocument=json.dumps(document))

    def trust(self, *statements: dict[str, Any]) -> str:
        return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def printed(*revoked: str, **more: Any) -> dict[str, Any]:
    """The key policy that `ownkey aws key-policy` prints, but for two things that ministack does not do as AWS does.

    It knows no condition on the context, and aws:PrincipalArn is the session's there, which in AWS is the role's.
    """
    access = Access("acme", account_root(CUSTOMER), (ROLE,), **more)
    policy = key_policy(access, [Scope.parse(text) for text in revoked])
    kept = [one for one in policy["Statement"] if one["Sid"] != "OwnkeyNothingOfOtherTenants"]
    for one in kept:
        one.get("Condition", {}).get("StringEquals", {}).pop(TENANT_CONDITION, None)
        if "ArnEquals" in one.get("Condition", {}):
            assert one["Condition"]["ArnEquals"] == {"aws:PrincipalArn": ROLE}
            one["Condition"]["ArnEquals"] = {"aws:PrincipalArn": f"arn:aws:sts::{CUSTOMER}:assumed-role/ownkey/*"}
    return {**policy, "Statement": [{**one, "Condition": _filled(one)} if _filled(one) else _bare(one) for one in kept]}


def _filled(statement: dict[str, Any]) -> dict[str, Any]:
    return {operator: pairs for operator, pairs in statement.get("Condition", {}).items() if pairs}


def _bare(statement: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in statement.items() if name != "Condition"}


def _allow(action: object, **more: object) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, **more}


@pytest.fixture(scope="module")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ministack_server(tmp_path_factory.mktemp("ministack"), AUTH="true") as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def accounts(ministack: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Accounts]:
    with dummy_credentials():
        # An account's id is its root's access key.
        made = [client(service, ministack, access_key=account, secret="test") for service, account in _CLIENTS]
        customer_kms, customer_iam, provider_kms, provider_iam = made
        provider_iam.create_user(UserName="ownkey")
        document = {"Version": "2012-10-17", "Statement": [_allow(["sts:*", "kms:*"], Resource="*")]}
        provider_iam.put_user_policy(UserName="ownkey", PolicyName="use", PolicyDocument=json.dumps(document))
        access = provider_iam.create_access_key(UserName="ownkey")["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access["SecretAccessKey"])
        key = customer_kms.create_key()["KeyMetadata"]["Arn"]
        canary = provider_kms.create_key()["KeyMetadata"]["Arn"]
        accounts = Accounts(ministack, key, canary, customer_kms, customer_iam, provider_iam)
        condition = {"StringEquals": {"sts:ExternalId": "ownkey-acme"}}
        trust = _allow(["sts:AssumeRole", "sts:TagSession"], Principal={"AWS": USER}, Condition=condition)
        customer_iam.create_role(RoleName="ownkey", AssumeRolePolicyDocument=accounts.trust(trust))
        condition = {"StringEquals": {"sts:ExternalId": "ownkey-provider.canary"}}
        trust = _allow(["sts:AssumeRole", "sts:TagSession"], Principal={"AWS": USER}, Condition=condition)
        provider_iam.create_role(RoleName="ownkey-canary", AssumeRolePolicyDocument=accounts.trust(trust))
        accounts.put(printed())
        yield accounts
        provider_iam.delete_role(RoleName="ownkey-canary")
        for name in customer_iam.list_role_policies(RoleName="ownkey")["PolicyNames"]:
            customer_iam.delete_role_policy(RoleName="ownkey", PolicyName=name)
        customer_iam.delete_role(RoleName="ownkey")
        provider_iam.delete_access_key(UserName="ownkey", AccessKeyId=access["AccessKeyId"])
        provider_iam.delete_user_policy(UserName="ownkey", PolicyName="use")
        provider_iam.delete_user(UserName="ownkey")
        for one in made:
            one.close()


_CLIENTS = (("kms", CUSTOMER), ("iam", CUSTOMER), ("kms", PROVIDER), ("iam", PROVIDER))


@pytest.fixture
async def store(accounts: Accounts) -> AsyncIterator[AwsKmsKeyStore]:
    options = AwsKmsOptions(
        endpoint_url=accounts.url,
        sts_endpoint_url=accounts.url,
        role_name="ownkey",
        canary_key=accounts.canary,
        canary_role=f"arn:aws:iam::{PROVIDER}:role/ownkey-canary",
        read_timeout=10.0,
    )
    opened = AwsKmsKeyStore("aws", options)
    yield opened
    await opened.close()


async def test_the_tenants_role_opens_and_wraps_in_the_customers_account(
    accounts: Accounts, store: AwsKmsKeyStore
) -> None:
    acme = store.for_tenant("acme")
    made = await acme.generate_data_key(accounts.key, TENANTS, TIMEOUT)
    opened = await acme.unwrap(accounts.key, made.wrapped, TENANTS, TIMEOUT)
    assert opened.plaintext.reveal() == made.plaintext.reveal()


async def test_another_tenants_external_id_does_not_open_the_role(accounts: Accounts, store: AwsKmsKeyStore) -> None:
    with pytest.raises(KeyMisconfigured, match="denies us the role"):
        await store.for_tenant("mallory").generate_data_key(accounts.key, CONTEXT, TIMEOUT)


async def test_without_its_statements_in_the_key_policy_the_role_is_denied(
    accounts: Accounts, store: AwsKmsKeyStore
) -> None:
    acme = store.for_tenant("acme")
    await _use(acme, accounts.key)
    policy = printed()
    policy["Statement"] = [one for one in policy["Statement"] if one["Sid"] == "CustomerAdministers"]
    accounts.put(policy)
    with pytest.raises(KeyRevoked, match="denies us the key"):
        await acme.generate_data_key(accounts.key, TENANTS, TIMEOUT)


async def test_a_denial_of_everything_holds_beside_a_policy_of_iam_that_allows(
    accounts: Accounts, store: AwsKmsKeyStore
) -> None:
    acme = store.for_tenant("acme")
    accounts.give_iam_policy()
    policy = printed("all")
    policy["Statement"] = [one for one in policy["Statement"] if one["Sid"] == "CustomerAdministers"]
    accounts.put(policy)
    await _use(acme, accounts.key)
    made = await acme.generate_data_key(accounts.key, TENANTS, TIMEOUT)  # why statements that are gone are not enough
    accounts.put(printed("all"))
    with pytest.raises(KeyRevoked, match="denies us the key"):
        await acme.generate_data_key(accounts.key, TENANTS, TIMEOUT)
    with pytest.raises(KeyRevoked, match="denies us the key"):
        await acme.unwrap(accounts.key, made.wrapped, TENANTS, TIMEOUT)


async def test_who_comes_by_no_endpoint_of_theirs_is_denied_beside_a_policy_of_iam_that_allows(
    accounts: Accounts, store: AwsKmsKeyStore
) -> None:
    accounts.give_iam_policy()
    accounts.put(printed())
    await _use(store.for_tenant("acme"), accounts.key)
    accounts.put(printed(source_vpces=("vpce-0123456789abcdef0",)))
    with pytest.raises(KeyRevoked, match="denies us the key"):
        await store.for_tenant("acme").generate_data_key(accounts.key, TENANTS, TIMEOUT)


async def test_a_trust_that_is_withdrawn_is_a_revocation(accounts: Accounts, store: AwsKmsKeyStore) -> None:
    await _use(store.for_tenant("acme"), accounts.key)
    nobody = accounts.trust(_allow("sts:AssumeRole", Principal={"AWS": f"arn:aws:iam::{CUSTOMER}:root"}))
    accounts.customer_iam.update_assume_role_policy(RoleName="ownkey", PolicyDocument=nobody)
    with pytest.raises(KeyRevoked, match="denies us the role"):
        await _anew(store, accounts.key)


async def test_a_fault_of_our_own_is_never_a_revocation(accounts: Accounts, store: AwsKmsKeyStore) -> None:
    await _use(store.for_tenant("acme"), accounts.key)
    nothing = json.dumps({"Version": "2012-10-17", "Statement": [_allow("s3:*", Resource="*")]})
    accounts.provider_iam.put_user_policy(UserName="ownkey", PolicyName="use", PolicyDocument=nothing)
    with pytest.raises(KeyMisconfigured, match="denies us the role"):
        await _anew(store, accounts.key)


async def _use(store: KeyStore, key: str) -> None:
    made = await store.generate_data_key(key, TENANTS, TIMEOUT)
    await store.unwrap(key, made.wrapped, TENANTS, TIMEOUT)


async def _anew(store: AwsKmsKeyStore, key: str) -> None:
    """Use a key by a session that must be asked for: the store has forgotten the one it had."""
    store._parts.shares.get("acme").roles._roles.clear()
    await store.for_tenant("acme").generate_data_key(key, TENANTS, TIMEOUT)


async def test_a_wrong_secret_is_our_own_fault(
    accounts: Accounts, store: AwsKmsKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-it")
    with pytest.raises(KeyMisconfigured, match="signature"):
        await store.for_tenant("acme").generate_data_key(accounts.key, CONTEXT, TIMEOUT)
