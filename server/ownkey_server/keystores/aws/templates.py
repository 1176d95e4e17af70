"""Templates for a customer's account: a multi-Region key with its replicas, ownkey's role, and an alarm.

The text stands in ``templates/aws/``; policies come from :mod:`.policies`, the same that ``ownkey aws key-policy``
prints. What is put into a text was checked first, so that no value can end a string of YAML or HCL.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ownkey_server.domain.encryption_context import TENANT
from ownkey_server.keystores.aws.policies import (
    Access,
    Document,
    PolicyInvalid,
    PrincipalArn,
    key_policy,
    trust_policy,
)

REGION = re.compile(r"[a-z]{2}(?:-[a-z]{1,16}){1,3}-[0-9]{1,2}")
_ROLE = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)
_PATH = re.compile(r"/(?:[\w+=,.@-]+/){0,8}", re.ASCII)
_ALIAS = re.compile(r"alias/(?!aws/)[a-zA-Z0-9/_-]{1,249}")
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}", re.ASCII)
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.ASCII)
_LONGEST_NAME = 48
# Whatever may take the key away, give it to somebody, or bring it elsewhere. Reads are not among them.
EVENTS = (
    "CancelKeyDeletion",
    "CreateGrant",
    "DeleteImportedKeyMaterial",
    "DisableKey",
    "DisableKeyRotation",
    "EnableKey",
    "EnableKeyRotation",
    "ImportKeyMaterial",
    "PutKeyPolicy",
    "ReplicateKey",
    "RetireGrant",
    "RevokeGrant",
    "RotateKeyOnDemand",
    "ScheduleKeyDeletion",
    "UpdatePrimaryRegion",
)
# Whatever may let somebody else be ownkey, keep ownkey out, or let it do more than the key's policy says.
ROLE_EVENTS = (
    "AttachRolePolicy",
    "CreateRole",
    "DeleteRole",
    "DeleteRolePermissionsBoundary",
    "DeleteRolePolicy",
    "DetachRolePolicy",
    "PutRolePermissionsBoundary",
    "PutRolePolicy",
    "UpdateAssumeRolePolicy",
    "UpdateRole",
)
# Where EventBridge hears of IAM, in each partition.
IAM_REGIONS = {"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}


class _Text(string.Template):
    # `$` belongs to CloudFormation and Terraform.
    delimiter = "@@"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a template is to make.

    Attributes:
        tenant: Id of the tenant.
        provider: The provider's role or user, which assumes the customer's role.
        region: Of the primary key.
        replicas: Regions of the replicas, in order of preference.
        role_name: The role's name as ownkey's settings have it, with its path if it has one.
        external_id: What the provider shows to assume the role.
        alias: The keys' alias, in every region.
        email: Who is told of changes; None for nobody yet.

    Raises:
        PolicyInvalid: A part is none.
    """

    tenant: str
    provider: str
    region: str
    replicas: tuple[str, ...]
    role_name: str
    external_id: str
    alias: str
    email: str | None = None

    def __post_init__(self) -> None:
        partition = PrincipalArn.parse(self.provider).partition
        if partition not in IAM_REGIONS:
            raise PolicyInvalid(f"{self.provider!r} is of partition {partition!r}, which is not known here")
        for region in (self.region, *self.replicas):
            _require_region(region, partition)
        if len({self.region, *self.replicas}) != 1 + len(self.replicas):
            raise PolicyInvalid("a region is named twice: a multi-Region key has one place in each")
        path, _, name = self.role_name.strip("/").rpartition("/")
        for what, value, form in (
            ("role name, such as ownkey", name, _ROLE),
            ("role path, such as /service/", _slashes(path), _PATH),
            ("alias of a key, such as alias/ownkey-acme; alias/aws/ is Amazon's own", self.alias, _ALIAS),
            ("external id, such as ownkey-acme: letters, digits and _+=,.@:/-", self.external_id, _EXTERNAL_ID),
            ("e-mail address, such as keys@example.org", self.email or "a@b.c", _MAIL),
        ):
            if not form.fullmatch(value):
                raise PolicyInvalid(f"{value!r} is no {what}")

    @property
    def name(self) -> str:
        """What stacks, topics and rules are called: with what follows it, within the 64 characters of a rule's name."""
        tenant = self.tenant
        if len(tenant) > _LONGEST_NAME:
            tenant = f"{tenant[: _LONGEST_NAME - 9]}-{hashlib.sha256(tenant.encode()).hexdigest()[:8]}"
        return f"ownkey-{tenant}"

    @property
    def session_tags(self) -> dict[str, str]:
        """How ownkey tags its sessions of the role."""
        return {TENANT: self.tenant}

    @property
    def iam_region(self) -> str:
        """Where changes of the role are heard of."""
        return IAM_REGIONS[PrincipalArn.parse(self.provider).partition]

    @property
    def regions(self) -> tuple[str, ...]:
        """All of them, the primary's first."""
        return (self.region, *self.replicas)


def cloudformation(plan: Plan) -> str:
    """The stack of the primary key, with the role and the alarm."""
    root = "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"
    access = Access(plan.tenant, root, ("${Role.Arn}",), inspects=True)
    return _fill(
        "primary.yaml",
        plan,
        key_policy=_yaml(key_policy(access)),
        trust_policy=_yaml(trust_policy(plan.provider, plan.external_id, plan.session_tags)),
        alarm=_alarm_yaml(plan),
    )


def cloudformation_replica(plan: Plan) -> str:
    """The stack of a replica, the same for each of its regions.

    Raises:
        PolicyInvalid: The plan has no replica.
    """
    if not plan.replicas:
        raise PolicyInvalid("the plan has no replica")
    account = "arn:${AWS::Partition}:iam::${AWS::AccountId}"
    role = f"{account}:role/{plan.role_name.strip('/')}"
    access = Access(plan.tenant, f"{account}:root", (role,), inspects=True)
    return _fill(
        "replica.yaml",
        plan,
        key_policy=_yaml(key_policy(access)),
        alarm=_alarm_yaml(plan),
        replicas=", ".join(plan.replicas),
        replica_words=" ".join(plan.replicas),
    )


def cloudformation_role_alarm(plan: Plan) -> str:
    """The stack that tells of changes of the role, in :attr:`Plan.iam_region`."""
    topic = _topic_yaml(plan, f"{plan.name}-role-alarm", ("RoleChanged",))
    return _fill("role_alarm.yaml", plan, event_names=_list_yaml(ROLE_EVENTS, 12), topic=topic)


def terraform(plan: Plan) -> str:
    """Everything in one configuration, with a provider for each replica's region."""
    access = Access(plan.tenant, "${local.root}", ("${aws_iam_role.ownkey.arn}",), inspects=True)
    arns = ["aws_kms_key.primary.arn"]
    places = [_alarm_tf(plan, "primary", "aws_kms_key.primary")]
    for region in plan.replicas:
        place = region.replace("-", "_")
        arns.append(f"aws_kms_replica_key.{place}.arn")
        places.append(_fill("replica.tf", plan, place=place, region=region))
        places.append(_alarm_tf(plan, place, f"aws_kms_replica_key.{place}", f"\n  provider = aws.{place}\n"))
    topic = _topic_tf(plan, "role", f"{plan.name}-role-alarm", ("role_changed",), "\n  provider = aws.iam\n")
    places.append(_fill("role_alarm.tf", plan, topic=topic, event_names=_hcl(list(ROLE_EVENTS), 6)))
    return _fill(
        "primary.tf",
        plan,
        key_policy=_hcl(key_policy(access), 2),
        trust_policy=_hcl(trust_policy(plan.provider, plan.external_id, plan.session_tags), 2),
        event_names=_hcl(list(EVENTS), 2),
        alarm="".join(places),
        key_arns=f"[{', '.join(arns)}]",
    )


def _fill(name: str, plan: Plan, **parts: str) -> str:
    text = resources.files("ownkey_server").joinpath("templates", "aws", name).read_text(encoding="utf-8")
    path, _, role = plan.role_name.strip("/").rpartition("/")
    facts = {
        "tenant": plan.tenant,
        "name": plan.name,
        "region": plan.region,
        "alias": plan.alias,
        "role_name": role,
        "role_path": _slashes(path),
        "iam_region": plan.iam_region,
        "email": plan.email or "",
    }
    return _Text(text).substitute(facts | parts)


def _alarm_yaml(plan: Plan) -> str:
    topic = _topic_yaml(plan, f"{plan.name}-alarm", ("KeyChanged", "KeyGone"))
    return _fill("alarm.yaml", plan, event_names=_list_yaml(EVENTS, 12), topic=topic).rstrip("\n")


def _topic_yaml(plan: Plan, name: str, rules: Sequence[str]) -> str:
    subscription = ""
    if plan.email:
        subscription = f'      Subscription:\n        - Protocol: email\n          Endpoint: "{plan.email}"\n'
    arns = _list_yaml([f"!GetAtt {rule}.Arn" for rule in rules], 18)
    text = _fill("topic.yaml", plan, topic_name=name, rules=arns, subscription=subscription.rstrip("\n"))
    return text.rstrip("\n")


def _list_yaml(values: Sequence[str], indent: int) -> str:
    return textwrap.indent("\n".join(f"- {value}" for value in values), " " * indent)


def _alarm_tf(plan: Plan, place: str, key: str, provider: str = "") -> str:
    topic = _topic_tf(plan, place, f"{plan.name}-alarm", (f"{place}_changed", f"{place}_gone"), provider)
    return _fill("alarm.tf", plan, place=place, key=key, provider=provider, topic=topic)


def _topic_tf(plan: Plan, place: str, name: str, rules: Sequence[str], provider: str) -> str:
    subscription = _fill("subscription.tf", plan, place=place, provider=provider) if plan.email else ""
    arns = ", ".join(f"aws_cloudwatch_event_rule.{rule}.arn" for rule in rules)
    text = _fill(
        "topic.tf", plan, place=place, topic_name=name, rules=arns, provider=provider, subscription=subscription
    )
    return text.rstrip("\n")


def _require_region(region: str, partition: str) -> None:
    """A region with KMS, in the provider's partition: no role is assumed, and no key replicated, across partitions."""
    from ownkey_server.keystores.aws.regions import partition_of  # noqa: PLC0415 - botocore takes a while to load

    if not REGION.fullmatch(region):
        raise PolicyInvalid(f"{region!r} is no region, such as eu-west-1")
    its = partition_of(region)
    if its is None:
        raise PolicyInvalid(f"no region {region} of AWS KMS is known here: check it; a newer boto3 may know it")
    if its != partition:
        raise PolicyInvalid(
            f"{region} is in partition {its}, and the provider in {partition}: nothing crosses from one to another"
        )


def _slashes(path: str) -> str:
    return f"/{path}/" if path else "/"


def _yaml(document: Document) -> str:
    """JSON is YAML; what names another resource becomes ``Fn::Sub``."""
    return textwrap.indent(json.dumps(_with_references(document), indent=2), " " * 8)


def _with_references(value: Any) -> Any:
    match value:
        case dict():
            return {name: _with_references(part) for name, part in value.items()}
        case list():
            return [_with_references(part) for part in value]
        case str() if "${" in value:
            return {"Fn::Sub": value}
        case _:
            return value


def _hcl(value: object, indent: int) -> str:
    """JSON is an expression of HCL, and ``${`` in it is one of its references; spaced as ``terraform fmt`` does."""
    text = re.sub(r'^( *"[^"]*"):', r"\1 :", json.dumps(value, indent=2), flags=re.MULTILINE)
    return textwrap.indent(text, " " * indent).lstrip()
