"""Policies for a customer's key in AWS KMS, with the least that ownkey needs: of the key, and of a role's trust.

Made as values, printed by :func:`to_json` always alike. The rules are those of the KMS Developer Guide ("Key policies
in AWS KMS", "Condition keys for AWS KMS") and the IAM User Guide ("Policy evaluation logic").

The role gets no policy of IAM. A key policy that names a role of its own account is enough, and the key policy is then
all that lets ownkey in: its holder takes back there what was given there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from ownkey_server.domain.encryption_context import TENANT
from ownkey_server.keystores.aws.scopes import CONTEXT_KEY, Scope

Statement: TypeAlias = dict[str, Any]
Document: TypeAlias = dict[str, Any]

TENANT_CONDITION = CONTEXT_KEY + TENANT
# ReEncrypt is authorized twice, as ReEncryptFrom with the source's context and as ReEncryptTo with the destination's:
# what stands on either permission here stands on both sides.
USE_ACTIONS = ("kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncrypt*")
DENIED_ACTIONS = ("kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*")
# A grant would let somebody else in, and this principal by another name.
EVERY_USE = (*DENIED_ACTIONS, "kms:CreateGrant")
INSPECT_ACTIONS = ("kms:DescribeKey", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus")
LONGEST_KEY_POLICY = 32 * 1024  # KMS Developer Guide, "Resource quotas"
_VERSION = "2012-10-17"
_ACCOUNT = re.compile(r"[0-9]{12}")
_PRINCIPAL = re.compile(
    r"arn:(?P<partition>aws[a-z-]{0,16}):iam::(?P<account>[0-9]{12}):(?:role|user)/[\w+=,.@/-]{1,576}", re.ASCII
)


class PolicyInvalid(ValueError):
    """A policy of these parts would not do what it promises. The message says which part, and what it must be."""


@dataclass(frozen=True, slots=True)
class PrincipalArn:
    """A role or user of IAM: somebody, never a whole account."""

    text: str
    partition: str
    account: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The principal that a text names.

        Raises:
            PolicyInvalid: It names none.
        """
        parts = _PRINCIPAL.fullmatch(text)
        if parts is None:
            hint = ""
            if ":sts:" in text and ":assumed-role/" in text:
                hint = "; this is a session: name its role"
            elif text == "*" or text.endswith(":root") or _ACCOUNT.fullmatch(text):
                hint = "; a whole account, or everybody, would be far more than is needed"
            raise PolicyInvalid(f"{text!r} is no role and no user, such as arn:aws:iam::111122223333:role/ownkey{hint}")
        return cls(text, parts["partition"], parts["account"])


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use a customer's key, for whom, and from where.

    Attributes:
        tenant: Id of the tenant whose contexts open the key.
        administrator: ARN of the root of the customer's account: it can change the policy, whatever else is lost.
        principals: ARNs of the roles and users that ownkey is to the key.
        caller_account: The only account that principals may be of; None for any.
        source_vpces: The only VPC endpoints that they may come through; empty for any way.
        inspects: Whether they may read the key's policy and rotation too, so that `ownkey aws verify` sees them.
    """

    tenant: str
    administrator: str
    principals: tuple[str, ...]
    caller_account: str | None = None
    source_vpces: tuple[str, ...] = ()
    inspects: bool = False


def account_root(account: str, partition: str = "aws") -> str:
    """ARN of an account's root.

    Raises:
        PolicyInvalid: It is no account.
    """
    return f"arn:{partition}:iam::{require_account(account)}:root"


def role_arn(account: str, role_name: str, partition: str = "aws") -> str:
    """ARN of a role; ``role_name`` may have a path before it.

    Raises:
        PolicyInvalid: It is no account, or no name.
    """
    return PrincipalArn.parse(f"arn:{partition}:iam::{require_account(account)}:role/{role_name.strip('/')}").text


def require_account(account: str) -> str:
    """The account, if it is one.

    Raises:
        PolicyInvalid: It is none.
    """
    if not _ACCOUNT.fullmatch(account):
        raise PolicyInvalid(f"{account!r} is no AWS account: 12 digits, such as 111122223333")
    return account


def key_policy(access: Access, revoked: Sequence[Scope] = ()) -> Document:
    """The policy of a customer's key.

    Raises:
        PolicyInvalid: It is longer than KMS takes.
    """
    inspects = INSPECT_ACTIONS if access.inspects else ("kms:DescribeKey",)
    statements = [
        {
            "Sid": "CustomerAdministers",
            "Effect": "Allow",
            "Principal": {"AWS": access.administrator},
            "Action": "kms:*",
            "Resource": "*",
        },
        _allow(access, "OwnkeyUses", USE_ACTIONS, {TENANT_CONDITION: access.tenant}),
        _allow(access, "OwnkeyDescribes", inspects, {}),
        # The first statement lets IAM's policies in the customer's account allow more. Not to ownkey: a Deny wins, and
        # StringNotEquals holds where the context says no tenant at all, or the call came through no endpoint.
        outside_tenant_statement(access.principals, access.tenant),
        _deny(access.principals, "OwnkeyNothingElse", {"NotAction": [*USE_ACTIONS, *inspects]}),
        *_elsewhere_statements(access),
        *(revoke_statement(access.principals, scope) for scope in dict.fromkeys(revoked)),
    ]
    document = {"Version": _VERSION, "Id": f"ownkey-{access.tenant}", "Statement": statements}
    length = len(to_json(document))
    if length > LONGEST_KEY_POLICY:
        raise PolicyInvalid(
            f"the policy would have {length} bytes, and AWS KMS takes {LONGEST_KEY_POLICY}: revoke by wider scopes"
        )
    return document


def outside_tenant_statement(principals: Sequence[str], tenant: str) -> Statement:
    """Denies what is not of the tenant, whatever else allows it."""
    return _deny(
        principals,
        "OwnkeyNothingOfOtherTenants",
        {"Action": list(DENIED_ACTIONS)},
        {"StringNotEquals": {TENANT_CONDITION: tenant}},
    )


def revoke_statement(principals: Sequence[str], scope: Scope) -> Statement:
    """Denies ownkey what is in a scope, and nothing else: probes and branch keys have none of its pairs.

    Everything is denied by the principals' ARNs rather than as principals. A principal in a policy means the one that
    there is: a role that is made anew under the same name would be another, and one that is gone cannot be put.
    """
    if scope.is_everything:
        return {
            "Sid": scope.sid,
            "Effect": "Deny",
            "Principal": {"AWS": "*"},
            "Action": list(EVERY_USE),
            "Resource": "*",
            "Condition": {"ArnEquals": {"aws:PrincipalArn": _one_or_more(principals)}},
        }
    return _deny(principals, scope.sid, {"Action": list(DENIED_ACTIONS)}, scope.conditions)


def trust_policy(principal: str, external_id: str, tags: Mapping[str, str] | None = None) -> Document:
    """Who may assume the customer's role: one principal, with this external id, tagging its session so.

    The external id stands on AssumeRole alone, and the tags on both: that is how IAM asks.
    """
    tagged = {f"aws:RequestTag/{name}": value for name, value in (tags or {}).items()}
    only = {"ForAllValues:StringEquals": {"aws:TagKeys": list(tags)}} if tags else {}
    return {
        "Version": _VERSION,
        "Statement": [
            {
                "Sid": "OwnkeyForThisTenant",
                "Effect": "Allow",
                "Principal": {"AWS": principal},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
            },
            {
                "Sid": "OwnkeyTagsItsSessions",
                "Effect": "Allow",
                "Principal": {"AWS": principal},
                "Action": "sts:TagSession",
                **({"Condition": {"StringEquals": tagged, **only}} if tagged else {}),
            },
        ],
    }


def to_json(document: Document | Sequence[Statement]) -> str:
    """As it is printed and put: indented, parts in the order in which one reads them."""
    return json.dumps(document, indent=2, ensure_ascii=True)


def _elsewhere_statements(access: Access) -> list[Statement]:
    """Deny all that comes from elsewhere, each way in a statement of its own: conditions of one must all hold."""
    return [
        _deny(access.principals, sid, {"Action": "kms:*"}, {"StringNotEquals": {name: value}})
        for sid, name, value in (
            ("OwnkeyOnlyFromItsAccount", "kms:CallerAccount", access.caller_account),
            ("OwnkeyOnlyThroughItsEndpoint", "aws:SourceVpce", _one_or_more(access.source_vpces)),
        )
        if value
    ]


def _allow(access: Access, sid: str, actions: Sequence[str], pairs: Mapping[str, str]) -> Statement:
    equal: dict[str, Any] = dict(pairs)
    if access.caller_account:
        equal["kms:CallerAccount"] = access.caller_account
    if access.source_vpces:
        equal["aws:SourceVpce"] = _one_or_more(access.source_vpces)
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"AWS": _one_or_more(access.principals)},
        "Action": _one_or_more(actions),
        "Resource": "*",
        **({"Condition": {"StringEquals": equal}} if equal else {}),
    }


def _deny(
    principals: Sequence[str], sid: str, actions: Statement, conditions: Mapping[str, Mapping[str, Any]] | None = None
) -> Statement:
    return {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": {"AWS": _one_or_more(principals)},
        **actions,
        "Resource": "*",
        **({"Condition": conditions} if conditions else {}),
    }


def _one_or_more(values: Sequence[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)
