"""The printed policies, judged by what they do: on a fake of KMS that decides by them as AWS documents it.

What it decides by is in ``tests/support/fake_kms_policy.py``. The role of the customer's account has every permission
of IAM, unless a test takes it away: the worst that a key policy must withstand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from ownkey_server.keystores.aws.policies import (
    LONGEST_KEY_POLICY,
    Access,
    PolicyInvalid,
    PrincipalArn,
    account_root,
    key_policy,
    revoke_statement,
    role_arn,
    to_json,
)
from ownkey_server.keystores.aws.scopes import Scope
from support.fake_kms import ACCOUNT, FakeKms

ROOT = account_root(ACCOUNT)
ROLE = role_arn(ACCOUNT, "ownkey")
PROVIDER = "arn:aws:iam::444455556666:role/ownkey"
TENANT = {"ownkey:tenant": "acme"}
CALL = {**TENANT, "ownkey:asset-class": "phone_recording", "ownkey:asset-id": "call-7", "ownkey:hour": "2026-11-23T16"}
# What ownkey uses a key with, besides content (service/administration/enrolment.py, keystores/probe.py, branch keys).
OUR_OWN = [
    {**TENANT, "ownkey:probe": "describe"},
    {**TENANT, "ownkey:probe": "enrolment"},
    {**TENANT, "ownkey:probe": "verify"},
    {**TENANT, "ownkey:branch": "7", "ownkey:purpose": "branch-key"},
]
DENIED = "AccessDeniedException"
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
ENDPOINT = "vpce-0123456789abcdef0"


class Key:
    """A key with a policy, used as a principal."""

    def __init__(self, kms: FakeKms, policy: dict[str, Any] | None, principal: str) -> None:
        self.arn = kms.create_key()
        self.ours = kms.create_key()
        self._kms = kms
        kms.set_policy(self.arn, policy)
        self.client = self.as_who(principal)

    def as_who(self, principal: str) -> Any:
        key_id, secret = self._kms.user(principal)
        return boto3.client(
            "kms",
            region_name="eu-west-1",
            endpoint_url=self._kms.url,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
        )

    def wrap(self, context: Mapping[str, str]) -> bytes:
        """Wrapped by its holder, who may do everything."""
        blob: bytes = self.as_who(ROOT).encrypt(KeyId=self.arn, Plaintext=b"k", EncryptionContext=dict(context))[
            "CiphertextBlob"
        ]
        return blob

    def uses(self, context: Mapping[str, str]) -> dict[str, str]:
        """For each use of the key under a context, the code of the refusal, empty when it is served."""
        bound, blob = dict(context), self.wrap(context)
        other = self.as_who(ROOT).encrypt(KeyId=self.ours, Plaintext=b"k", EncryptionContext=bound)["CiphertextBlob"]
        client, key = self.client, self.arn
        return {
            "GenerateDataKey": code(client.generate_data_key, KeyId=key, KeySpec="AES_256", EncryptionContext=bound),
            "Decrypt": code(client.decrypt, KeyId=key, CiphertextBlob=blob, EncryptionContext=bound),
            "Encrypt": code(client.encrypt, KeyId=key, Plaintext=b"k", EncryptionContext=bound),
            "ReEncrypt from it": code(
                client.re_encrypt,
                CiphertextBlob=blob,
                SourceKeyId=key,
                SourceEncryptionContext=bound,
                DestinationKeyId=self.ours,
                DestinationEncryptionContext=bound,
            ),
            "ReEncrypt to it": code(
                client.re_encrypt,
                CiphertextBlob=other,
                SourceKeyId=self.ours,
                SourceEncryptionContext=bound,
                DestinationKeyId=key,
                DestinationEncryptionContext=bound,
            ),
        }


def code(work: Any, **arguments: Any) -> str:
    try:
        work(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def all_are(uses: Mapping[str, str], wanted: str) -> bool:
    return set(uses.values()) == {wanted}


@pytest.fixture(scope="module")
def kms() -> Iterator[FakeKms]:
    with FakeKms() as running:
        yield running


@pytest.fixture(autouse=True)
def iam(kms: FakeKms) -> Iterator[FakeKms]:
    """What IAM says of principals, and the way that they come by."""
    kms.identity_policies[ROLE] = EVERYTHING
    yield kms
    kms.identity_policies.clear()
    kms.came_through = ""


@pytest.fixture(params=[ROLE, PROVIDER], ids=["role-of-the-customer", "principal-of-the-provider"])
def principal(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def policy_of(principal: str, *revoked: str) -> dict[str, Any]:
    document = key_policy(Access("acme", ROOT, (principal,)), [Scope.parse(text) for text in revoked])
    parsed: dict[str, Any] = json.loads(to_json(document))
    return parsed


@pytest.mark.parametrize("context", [CALL, {**CALL, "ownkey:group": "finance", "site": "Köln"}, *OUR_OWN])
def test_ownkey_may_do_all_that_it_does_for_the_tenant(kms: FakeKms, principal: str, context: dict[str, str]) -> None:
    key = Key(kms, policy_of(principal), principal)
    assert all_are(key.uses(context), "")
    assert code(key.client.describe_key, KeyId=key.arn) == ""


@pytest.mark.parametrize(
    "context", [{}, {"site": "Köln"}, {**CALL, "ownkey:tenant": "umbrella"}, {"ownkey:probe": "describe"}]
)
def test_nothing_is_for_other_tenants_or_for_none(kms: FakeKms, principal: str, context: dict[str, str]) -> None:
    key = Key(kms, policy_of(principal), principal)
    assert all_are(key.uses(context), DENIED)


def test_one_side_of_a_re_encryption_is_not_enough(kms: FakeKms, principal: str) -> None:
    key = Key(kms, policy_of(principal), principal)
    for source, destination in ((CALL, {**CALL, "ownkey:tenant": "umbrella"}), (CALL, {})):
        refused = code(
            key.client.re_encrypt,
            CiphertextBlob=key.wrap(source),
            SourceKeyId=key.arn,
            SourceEncryptionContext=source,
            DestinationKeyId=key.arn,
            DestinationEncryptionContext=destination,
        )
        assert refused == DENIED


def test_ownkey_cannot_administer_and_the_customers_account_can(kms: FakeKms) -> None:
    key = Key(kms, policy_of(PROVIDER), PROVIDER)
    for work in (key.client.disable_key, key.client.schedule_key_deletion):
        assert code(work, KeyId=key.arn) == DENIED
    assert code(key.client.put_key_policy, KeyId=key.arn, Policy="{}") == DENIED
    assert code(key.client.get_key_policy, KeyId=key.arn) == DENIED
    assert code(key.as_who(ROOT).put_key_policy, KeyId=key.arn, Policy=json.dumps(policy_of(PROVIDER))) == ""
    stranger = key.as_who("arn:aws:iam::777788889999:role/ownkey")
    assert code(stranger.describe_key, KeyId=key.arn) == DENIED
    inspecting = Key(kms, json.loads(to_json(key_policy(Access("acme", ROOT, (ROLE,), inspects=True)))), ROLE)
    assert code(inspecting.client.get_key_policy, KeyId=inspecting.arn) == ""


@pytest.mark.parametrize(
    ("scope", "hit", "spared"),
    [
        ("class=phone_recording", [CALL], [{**CALL, "ownkey:asset-class": "meeting_recording"}]),
        ("group=finance", [{**CALL, "ownkey:group": "finance"}], [CALL, {**CALL, "ownkey:group": "sales"}]),
        ("asset=call-7", [CALL], [{**CALL, "ownkey:asset-id": "call-77"}]),
        ("hour=2026-11-23T16", [CALL], [{**CALL, "ownkey:hour": "2026-11-23T17"}]),
        (
            "hour=2026-11-23T*",
            [CALL, {**CALL, "ownkey:hour": "2026-11-23T00"}],
            [{**CALL, "ownkey:hour": "2026-11-24T16"}],
        ),
        ("hour=2026-11-*", [CALL], [{**CALL, "ownkey:hour": "2026-12-01T16"}]),
        (
            "class=phone_recording,group=finance",
            [{**CALL, "ownkey:group": "finance"}],
            [CALL, {**CALL, "ownkey:group": "finance", "ownkey:asset-class": "phone_mms"}],
        ),
    ],
)
def test_a_revoked_scope_is_denied_and_nothing_else_is(
    kms: FakeKms, principal: str, scope: str, hit: list[dict[str, str]], spared: list[dict[str, str]]
) -> None:
    key = Key(kms, policy_of(principal, scope), principal)
    for context in hit:
        assert all_are(key.uses(context), DENIED), context
    for context in (*spared, *OUR_OWN):
        assert all_are(key.uses(context), ""), context
    # Their own people, and Amazon's library in their hands, still open what was taken from ownkey.
    assert (
        code(key.as_who(ROOT).decrypt, KeyId=key.arn, CiphertextBlob=key.wrap(hit[0]), EncryptionContext=hit[0]) == ""
    )


def test_several_scopes_are_each_denied(kms: FakeKms) -> None:
    key = Key(kms, policy_of(ROLE, "asset=call-7", "group=finance", "asset=call-7"), ROLE)
    assert all_are(key.uses(CALL), DENIED)
    assert all_are(key.uses({**CALL, "ownkey:asset-id": "x", "ownkey:group": "finance"}), DENIED)
    assert all_are(key.uses({**CALL, "ownkey:asset-id": "x"}), "")


def test_a_revoke_statement_alone_goes_into_a_policy_that_is_there(kms: FakeKms) -> None:
    policy = policy_of(ROLE)
    policy["Statement"].append(revoke_statement([ROLE], Scope.parse("asset=call-7")))
    assert policy == policy_of(ROLE, "asset=call-7")


def test_the_key_policy_alone_lets_the_role_in_and_without_its_statements_nothing_does(kms: FakeKms) -> None:
    del kms.identity_policies[ROLE]  # as the template makes it
    key = Key(kms, policy_of(ROLE), ROLE)
    assert all_are(key.uses(CALL), "")
    default = policy_of(ROLE)
    default["Statement"] = [one for one in default["Statement"] if one["Sid"] == "CustomerAdministers"]
    kms.set_policy(key.arn, default)
    assert all_are(key.uses(CALL), DENIED)
    assert code(key.client.describe_key, KeyId=key.arn) == DENIED


def test_what_iam_allows_beside_the_key_policy_outlives_its_statements_but_not_the_denial_of_everything(
    kms: FakeKms,
) -> None:
    key = Key(kms, policy_of(ROLE, "all"), ROLE)
    for context in (CALL, *OUR_OWN):
        assert all_are(key.uses(context), DENIED), context
    default = policy_of(ROLE, "all")
    sids = {"CustomerAdministers", "OwnkeyRevokeAll"}
    default["Statement"] = [one for one in default["Statement"] if one["Sid"] in sids]
    kms.set_policy(key.arn, default)
    assert all_are(key.uses(CALL), DENIED)
    default["Statement"].pop()
    kms.set_policy(key.arn, default)
    assert all_are(key.uses(CALL), "")  # why the denial is there


def test_everything_is_denied_to_ownkey_and_to_nobody_else(kms: FakeKms, principal: str) -> None:
    key = Key(kms, policy_of(principal, "all"), principal)
    assert all_are(key.uses(CALL), DENIED)
    assert code(key.client.describe_key, KeyId=key.arn) == ""  # so that the cause can be told
    blob = key.wrap(CALL)
    assert code(key.as_who(ROOT).decrypt, KeyId=key.arn, CiphertextBlob=blob, EncryptionContext=CALL) == ""
    kms.set_policy(key.arn, policy_of(principal))
    assert all_are(key.uses(CALL), "")


def test_the_denial_of_everything_can_be_put_when_the_role_is_gone() -> None:
    """KMS takes no policy that names a principal which is not there; a condition on its ARN may."""
    statement = revoke_statement([ROLE, PROVIDER], Scope.parse("all"))
    assert statement["Principal"] == {"AWS": "*"}
    assert statement["Condition"] == {"ArnEquals": {"aws:PrincipalArn": [ROLE, PROVIDER]}}


def test_iam_gives_the_role_no_more_than_the_key_policy_does(kms: FakeKms) -> None:
    key = Key(kms, policy_of(ROLE), ROLE)
    assert code(key.client.get_key_policy, KeyId=key.arn) == DENIED
    assert code(key.client.disable_key, KeyId=key.arn) == DENIED
    assert code(key.client.put_key_policy, KeyId=key.arn, Policy="{}") == DENIED
    without = key.client.generate_data_key_without_plaintext
    assert code(without, KeyId=key.arn, KeySpec="AES_256", EncryptionContext=CALL) == DENIED


def test_only_callers_of_the_account_are_let_in(kms: FakeKms, principal: str) -> None:
    theirs = principal.split(":")[4]
    key = Key(kms, key_policy(Access("acme", ROOT, (principal,), caller_account=theirs)), principal)
    assert all_are(key.uses(CALL), "")
    key = Key(kms, key_policy(Access("acme", ROOT, (principal,), caller_account="777788889999")), principal)
    assert all_are(key.uses(CALL), DENIED)


def test_only_what_comes_through_the_endpoint_is_let_in(kms: FakeKms, principal: str) -> None:
    access = Access("acme", ROOT, (principal,), source_vpces=(ENDPOINT, "vpce-0123456789abcdef1"))
    key = Key(kms, key_policy(access), principal)
    for way, wanted in ((ENDPOINT, ""), ("vpce-0aaaaaaaaaaaaaaaa", DENIED), ("", DENIED)):
        kms.came_through = way
        assert all_are(key.uses(CALL), wanted), way
        assert code(key.client.describe_key, KeyId=key.arn) == wanted
    kms.came_through = ""
    assert code(key.as_who(ROOT).describe_key, KeyId=key.arn) == ""


def test_each_way_narrows_by_itself(kms: FakeKms) -> None:
    access = Access("acme", ROOT, (ROLE,), caller_account=ACCOUNT, source_vpces=(ENDPOINT,))
    key = Key(kms, key_policy(access), ROLE)
    assert all_are(key.uses(CALL), DENIED)
    kms.came_through = ENDPOINT
    assert all_are(key.uses(CALL), "")


def test_a_policy_is_always_printed_alike() -> None:
    scopes = [Scope.parse("asset=b"), Scope.parse("asset=a")]
    access = Access("acme", ROOT, (ROLE, PROVIDER))
    assert to_json(key_policy(access, scopes)) == to_json(key_policy(access, list(scopes)))
    sids = [one["Sid"] for one in key_policy(access, scopes)["Statement"]]
    assert len(set(sids)) == len(sids)
    assert sids[:5] == [
        "CustomerAdministers",
        "OwnkeyUses",
        "OwnkeyDescribes",
        "OwnkeyNothingOfOtherTenants",
        "OwnkeyNothingElse",
    ]


def test_a_policy_longer_than_kms_takes_is_refused() -> None:
    scopes = [Scope.parse(f"asset=call-{number}") for number in range(200)]
    with pytest.raises(PolicyInvalid, match=str(LONGEST_KEY_POLICY)):
        key_policy(Access("acme", ROOT, (ROLE,)), scopes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("*", "everybody"),
        ("444455556666", "whole account"),
        ("arn:aws:iam::444455556666:root", "whole account"),
        ("arn:aws:sts::444455556666:assumed-role/ownkey/session", "name its role"),
        ("arn:aws:iam::44445555666:role/ownkey", "is no role"),
        ("arn:aws:iam::444455556666:role/*", "is no role"),
        ('arn:aws:iam::444455556666:role/a"b', "is no role"),
    ],
)
def test_who_is_not_somebody_is_refused(text: str, says: str) -> None:
    with pytest.raises(PolicyInvalid, match=says.replace("*", r"\*")):
        PrincipalArn.parse(text)
