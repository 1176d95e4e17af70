"""Templates: linted as those who use them would, deployed on an emulator, and their policies the printed ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from cfnlint.api import ManualArgs, lint

from ownkey_server.keystores.aws.policies import Access, PolicyInvalid, account_root, key_policy, role_arn, trust_policy
from ownkey_server.keystores.aws.templates import (
    EVENTS,
    ROLE_EVENTS,
    Plan,
    cloudformation,
    cloudformation_replica,
    cloudformation_role_alarm,
    terraform,
)
from support import ministack

PROVIDER = "arn:aws:iam::444455556666:role/ownkey"
PLAN = Plan("acme", PROVIDER, "eu-west-1", ("us-east-1", "eu-central-1"), "ownkey", "ownkey-acme", "alias/ownkey-acme")
PLANS = [
    PLAN,
    replace(PLAN, email="keys@example.org"),
    replace(PLAN, role_name="service/ownkey", tenant="a" * 63, external_id="p:" + "a" * 63),
    replace(PLAN, replicas=()),
]


@pytest.mark.parametrize("plan", PLANS)
def test_cfn_lint_finds_nothing(plan: Plan) -> None:
    texts = [cloudformation(plan), *([cloudformation_replica(plan)] if plan.replicas else [])]
    for text in texts:
        for region in plan.regions:
            assert lint(text, config=ManualArgs(regions=[region], include_checks=["I"])) == [], text
        assert "@@" not in text
    alarm = cloudformation_role_alarm(plan)
    assert lint(alarm, config=ManualArgs(regions=["us-east-1"], include_checks=["I"])) == [], alarm
    assert "@@" not in alarm


@pytest.mark.parametrize("plan", PLANS)
def test_terraform_is_in_its_own_format(plan: Plan, tmp_path: Path) -> None:
    text = terraform(plan)
    assert "@@" not in text
    assert text.count("{") == text.count("}")
    assert text.count('resource "aws_kms_replica_key"') == len(plan.replicas)
    # One more of each for the role, wherever its alarm must be.
    assert text.count("  alias  =") == len(plan.replicas) + 1
    assert text.count('resource "aws_sns_topic" ') == len(plan.regions) + 1
    assert len(re.findall(r"prevent_destroy = true", text)) == len(plan.regions)
    tool = shutil.which("terraform")
    if tool:  # it parses, too; without it, the rest of this test is what is known
        (tmp_path / "main.tf").write_text(text, encoding="utf-8")
        command = [tool, "fmt", "-check", "-diff", "-no-color", "main.tf"]
        done = subprocess.run(
            command, cwd=tmp_path, env={"TF_CLI_CONFIG_FILE": "/dev/null"}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_both_formats_hold_the_policy_that_is_printed() -> None:
    access = Access("acme", "ROOT", ("ROLE",), inspects=True)
    for text, root, role in (
        (cloudformation(PLAN), '{"Fn::Sub":"arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}', "${Role.Arn}"),
        (terraform(PLAN), '"${local.root}"', "${aws_iam_role.ownkey.arn}"),
    ):
        packed = re.sub(r"\s+", "", text).replace(root, '"ROOT"')
        packed = packed.replace('{"Fn::Sub":' + f'"{role}"' + "}", '"ROLE"').replace(f'"{role}"', '"ROLE"')
        for statement in key_policy(access)["Statement"]:
            assert re.sub(r"\s+", "", json.dumps(statement)) in packed
        for statement in trust_policy(PROVIDER, "ownkey-acme", {"ownkey:tenant": "acme"})["Statement"]:
            assert re.sub(r"\s+", "", json.dumps(statement)) in packed
        for event in EVENTS:
            assert event in text


def test_no_template_gives_the_role_a_policy_of_iam() -> None:
    for text in (cloudformation(PLAN), terraform(PLAN)):
        assert "IAM::Policy" not in text
        assert "ManagedPolic" not in text
        assert "role_policy" not in text.replace("assume_role_policy", "")


def test_whatever_may_take_a_key_away_or_give_it_to_others_is_told() -> None:
    """Every operation of KMS that changes a key, by Amazon's own model of its API."""
    operations = boto3.client("kms", region_name="eu-west-1").meta.service_model.operation_names
    uses = ("Encrypt", "Decrypt", "ReEncrypt", "Generate", "Sign", "Verify", "Derive", "Encapsulate", "Decapsulate")
    reads = ("Describe", "Get", "List")
    # Names and labels of a key, keys that are not this one, and key stores, which have rules of their own.
    others = ("Alias", "CustomKeyStore", "Resource", "CreateKey", "UpdateKeyDescription")
    changes = {one for one in operations if not one.startswith((*uses, *reads)) and not one.endswith(others)}
    assert changes == set(EVENTS)


def test_the_roles_alarm_is_where_iam_is_heard_of() -> None:
    china = replace(PLAN, provider=PROVIDER.replace("arn:aws:", "arn:aws-cn:"), region="cn-north-1", replicas=())
    for plan, region in ((PLAN, "us-east-1"), (china, "cn-north-1")):
        assert f"--region {region}" in cloudformation_role_alarm(plan)
        assert f'alias  = "iam"\n  region = "{region}"' in terraform(plan)
    for text in (cloudformation_role_alarm(PLAN), terraform(PLAN)):
        for event in ROLE_EVENTS:
            assert event in text


def test_only_its_own_rules_may_tell_a_topic() -> None:
    for text in (cloudformation(PLAN), cloudformation_replica(PLAN), cloudformation_role_alarm(PLAN), terraform(PLAN)):
        assert text.count("sns:Publish") == text.count("aws:SourceArn") > 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"provider": "arn:aws:iam::444455556666:root"}, "whole account"),
        ({"provider": "arn:aws-iso:iam::444455556666:role/ownkey"}, "not known here"),
        ({"region": "europe"}, "no region"),
        ({"replicas": ("us-east-1", "us-east-1")}, "named twice"),
        ({"replicas": ("eu-west-1",)}, "named twice"),
        ({"role_name": 'a"b'}, "no role name"),
        ({"role_name": "a b/c"}, "no role path"),
        ({"alias": "ownkey"}, "no alias"),
        ({"alias": "alias/aws/kms"}, "no alias"),
        ({"external_id": "${x}"}, "no external id"),
        ({"email": 'a@b.c"\n'}, "no e-mail"),
    ],
)
def test_what_could_end_a_string_or_mean_another_thing_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyInvalid, match=says):
        replace(PLAN, **changes)


def test_what_a_stack_gives_is_named_as_the_next_one_takes_it() -> None:
    [parameter] = re.findall(r"^Parameters:\n  (\w+):", cloudformation_replica(PLAN), re.MULTILINE)
    [told] = re.findall(r'KeyArn:\n    Description: "(.*)"', cloudformation(PLAN))
    assert parameter in told
    assert "--key" not in told


@pytest.mark.parametrize(
    ("partition", "region"), [("aws", "eu-west-1"), ("aws-cn", "cn-north-1"), ("aws-us-gov", "us-gov-east-1")]
)
def test_provider_and_regions_are_of_one_partition(partition: str, region: str) -> None:
    """A role is assumed within its partition alone, and keys have their replicas there."""
    provider = f"arn:{partition}:iam::444455556666:role/ownkey"
    assert replace(PLAN, provider=provider, region=region, replicas=()).regions == (region,)
    for other in {"eu-west-1", "cn-north-1", "us-gov-east-1"} - {region}:
        with pytest.raises(PolicyInvalid, match="in partition"):
            replace(PLAN, provider=provider, region=region, replicas=(other,))


def test_no_replica_no_stack_of_a_replica() -> None:
    with pytest.raises(PolicyInvalid, match="no replica"):
        cloudformation_replica(replace(PLAN, replicas=()))


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ministack.server(tmp_path_factory.mktemp("ministack")) as endpoint:
        yield endpoint


def client(endpoint: str, service: str, region: str) -> Any:
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def deploy(endpoint: str, region: str, name: str, text: str, **parameters: str) -> dict[str, str]:
    """Deploy a stack; gives its outputs."""
    stacks = client(endpoint, "cloudformation", region)
    stacks.create_stack(
        StackName=name,
        TemplateBody=text,
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    deadline = time.monotonic() + 30
    while True:
        [stack] = stacks.describe_stacks(StackName=name)["Stacks"]
        if not stack["StackStatus"].endswith("IN_PROGRESS") or time.monotonic() > deadline:
            break
    events = stacks.describe_stack_events(StackName=name)["StackEvents"]
    assert stack["StackStatus"] == "CREATE_COMPLETE", events
    return {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}


def test_the_stack_makes_a_key_with_the_printed_policy_a_role_and_an_alarm(emulator: str) -> None:
    made = deploy(emulator, "eu-west-1", "ownkey-acme", cloudformation(replace(PLAN, email="keys@example.org")))
    kms = client(emulator, "kms", "eu-west-1")
    key = kms.describe_key(KeyId=made["KeyArn"])["KeyMetadata"]
    account = made["KeyArn"].split(":")[4]
    assert (key["MultiRegion"], key["KeySpec"], key["KeyUsage"]) == (True, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
    access = Access("acme", account_root(account), (role_arn(account, "ownkey"),), inspects=True)
    assert json.loads(kms.get_key_policy(KeyId=made["KeyArn"], PolicyName="default")["Policy"]) == key_policy(access)
    assert kms.describe_key(KeyId="alias/ownkey-acme")["KeyMetadata"]["Arn"] == made["KeyArn"]
    role = client(emulator, "iam", "eu-west-1").get_role(RoleName="ownkey")["Role"]
    assert role["Arn"] == made["RoleArn"]
    assert role["AssumeRolePolicyDocument"] == trust_policy(PROVIDER, "ownkey-acme", {"ownkey:tenant": "acme"})
    iam = client(emulator, "iam", "eu-west-1")
    assert iam.list_role_policies(RoleName="ownkey")["PolicyNames"] == []
    assert iam.list_attached_role_policies(RoleName="ownkey")["AttachedPolicies"] == []
    rules = {one["Name"]: one for one in client(emulator, "events", "eu-west-1").list_rules()["Rules"]}
    told = client(emulator, "sns", "eu-west-1").get_topic_attributes(TopicArn=made["AlarmTopic"])["Attributes"]
    [allowed] = json.loads(told["Policy"])["Statement"]
    arns = [rules[name]["Arn"] for name in ("ownkey-acme-changed", "ownkey-acme-gone")]
    assert allowed["Condition"] == {"ArnEquals": {"aws:SourceArn": arns}}
    for name in ("ownkey-acme-changed", "ownkey-acme-gone"):
        assert made["KeyArn"] in rules[name]["EventPattern"]


def test_the_stack_of_the_roles_alarm_hears_of_that_role(emulator: str) -> None:
    deploy(emulator, "us-east-1", "ownkey-acme-role", cloudformation_role_alarm(PLAN))
    rules = {one["Name"]: one for one in client(emulator, "events", "us-east-1").list_rules()["Rules"]}
    pattern = json.loads(rules["ownkey-acme-role"]["EventPattern"])
    assert pattern["detail"]["requestParameters"] == {"roleName": ["ownkey"]}
    assert set(pattern["detail"]["eventName"]) == set(ROLE_EVENTS)


def test_only_the_provider_with_the_tenants_external_id_gets_the_stacks_role(tmp_path: Path) -> None:
    """On an emulator that asks IAM: each caller may assume roles as far as they are concerned."""
    free = {"Effect": "Allow", "Action": ["sts:AssumeRole", "sts:TagSession"], "Resource": "*"}
    with ministack.server(tmp_path, auth=True) as endpoint:
        iam = client(endpoint, "iam", "eu-west-1")
        arns, keys = {}, {}
        for name in ("provider", "stranger"):
            arns[name] = iam.create_user(UserName=name)["User"]["Arn"]
            keys[name] = iam.create_access_key(UserName=name)["AccessKey"]
            policy = json.dumps({"Version": "2012-10-17", "Statement": [free]})
            iam.put_user_policy(UserName=name, PolicyName="roles", PolicyDocument=policy)
        text = cloudformation(replace(PLAN, provider=arns["provider"]))
        role = deploy(endpoint, "eu-west-1", "ownkey-acme", text)["RoleArn"]

        def assumes(who: str, **more: Any) -> str:
            sts = boto3.client(
                "sts",
                region_name="eu-west-1",
                endpoint_url=endpoint,
                aws_access_key_id=keys[who]["AccessKeyId"],
                aws_secret_access_key=keys[who]["SecretAccessKey"],
            )
            tags = [{"Key": "ownkey:tenant", "Value": "acme"}]
            try:
                sts.assume_role(RoleArn=role, RoleSessionName="ownkey-acme", Tags=tags, **more)
            except ClientError as error:
                return str(error.response["Error"]["Code"])
            return "assumed"

        assert assumes("provider", ExternalId="ownkey-acme") == "assumed"
        assert assumes("provider", ExternalId="ownkey-umbrella") == "AccessDenied"
        assert assumes("provider") == "AccessDenied"
        assert assumes("stranger", ExternalId="ownkey-acme") == "AccessDenied"
