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
from ownkey_server.keystores.aws.store import AwsKmsKeyStore
from support.aws_subjects import client, dummy_credentials, ministack_server
from support.key_stores import CONTEXT, TIMEOUT

CUSTOMER, PROVIDER = "111122223333", "999988887777"
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

    def trust(self, *statements: dict[str, Any]) -> str:
        return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


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
        use = _allow(["kms:GenerateDataKey", "kms:Decrypt", "kms:Encrypt"], Resource=key)
        document = {"Version": "2012-10-17", "Statement": [use]}
        customer_iam.put_role_policy(RoleName="ownkey", PolicyName="use", PolicyDocument=json.dumps(document))
        yield accounts
        customer_iam.delete_role_policy(RoleName="ownkey", PolicyName="use")
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
        read_timeout=10.0,
    )
    opened = AwsKmsKeyStore("aws", options)
    yield opened
    await opened.close()


async def test_the_tenants_role_opens_and_wraps_in_the_customers_account(
    accounts: Accounts, store: AwsKmsKeyStore
) -> None:
    acme = store.for_tenant("acme")
    made = await acme.generate_data_key(accounts.key, CONTEXT, TIMEOUT)
    opened = await acme.unwrap(accounts.key, made.wrapped, CONTEXT, TIMEOUT)
    assert opened.plaintext.reveal() == made.plaintext.reveal()


async def test_another_tenants_external_id_does_not_open_the_role(accounts: Accounts, store: AwsKmsKeyStore) -> None:
    with pytest.raises(KeyRevoked, match="denies us the role"):
        await store.for_tenant("mallory").generate_data_key(accounts.key, CONTEXT, TIMEOUT)


async def test_a_key_policy_that_denies_the_role_is_a_revocation(accounts: Accounts, store: AwsKmsKeyStore) -> None:
    acme = store.for_tenant("acme")
    await acme.generate_data_key(accounts.key, CONTEXT, TIMEOUT)
    root = _allow("kms:*", Principal={"AWS": f"arn:aws:iam::{CUSTOMER}:root"}, Resource="*")
    deny = {
        "Effect": "Deny",
        "Principal": {"AWS": f"arn:aws:iam::{CUSTOMER}:role/ownkey"},
        "Action": ["kms:GenerateDataKey", "kms:Decrypt"],
        "Resource": "*",
    }
    accounts.customer_kms.put_key_policy(KeyId=accounts.key, PolicyName="default", Policy=accounts.trust(root, deny))
    with pytest.raises(KeyRevoked, match="denies us the key"):
        await acme.generate_data_key(accounts.key, CONTEXT, TIMEOUT)


async def test_a_fault_of_our_own_is_never_a_revocation(accounts: Accounts, store: AwsKmsKeyStore) -> None:
    nothing = json.dumps({"Version": "2012-10-17", "Statement": [_allow("s3:*", Resource="*")]})
    accounts.provider_iam.put_user_policy(UserName="ownkey", PolicyName="use", PolicyDocument=nothing)
    with pytest.raises(KeyMisconfigured, match="mend our own credentials"):
        await store.for_tenant("acme").generate_data_key(accounts.key, CONTEXT, TIMEOUT)


async def test_a_wrong_secret_is_our_own_fault(
    accounts: Accounts, store: AwsKmsKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-it")
    with pytest.raises(KeyMisconfigured, match="signature"):
        await store.for_tenant("acme").generate_data_key(accounts.key, CONTEXT, TIMEOUT)
