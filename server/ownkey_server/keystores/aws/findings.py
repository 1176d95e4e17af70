"""What a check of a customer's key found, and what a key policy says about us. No network here."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar

from ownkey_server.keystores.aws.policies import TENANT_CONDITION

_NARROWING = (
    "kms:calleraccount",
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalorgid",
    "aws:sourceaccount",
)


class Outcome(StrEnum):
    """How a check ended. Only a failure keeps a key from being used."""

    PASS = "pass"  # noqa: S105 - an outcome
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one place.

    Attributes:
        place: The region, or what was given in place of an ARN.
        check: What was looked at.
        seen: What was seen.
        advice: What to do; empty when nothing is to be done.
    """

    place: str
    check: str
    outcome: Outcome
    seen: str
    advice: str = ""


T = TypeVar("T")
# Findings on the way, and what those who come after need to know.
Telling: TypeAlias = Generator[Finding, None, T]


def read_policy(place: str, policy: object, *, account: str, principal: str | None, tenant: str) -> Iterator[Finding]:
    """What a key policy promises, read by its statements.

    Args:
        place: The region whose policy it is.
        policy: The document, whatever it holds: AWS has judged its form.
        account: The account of the key.
        principal: ARN of the role or user that we are to the key; None when that is not known.
        tenant: Whose contexts must be asked for; empty for any.
    """
    told = _list(policy.get("Statement", [])) if isinstance(policy, Mapping) else []
    statements = [one for one in told if isinstance(one, Mapping)]
    yield _administered(place, statements, account)
    yield _everybody(place, statements)
    if principal is not None:
        yield _named(place, statements, principal)
        yield _conditioned(place, statements, principal, tenant)


def _administered(place: str, statements: Sequence[Mapping[str, Any]], account: str) -> Finding:
    for one in statements:
        if (
            one.get("Effect") == "Allow"
            and _covers(one, "kms:PutKeyPolicy")
            and not one.get("Condition")
            and any(_is_account(who, account) for who in _principals(one))
        ):
            return Finding(place, "policy: administration", Outcome.PASS, "the account's root can change the policy")
    return Finding(
        place,
        "policy: administration",
        Outcome.WARN,
        "no statement lets the account's root change the policy: when its administrators go, nobody can",
        "keep the statement CustomerAdministers of `ownkey aws key-policy`",
    )


def _everybody(place: str, statements: Sequence[Mapping[str, Any]]) -> Finding:
    check = "policy: no wildcard"
    outcome, seen = Outcome.PASS, "nobody is let in as *"
    for one in statements:
        if one.get("Effect") != "Allow" or not ("*" in _principals(one) or "NotPrincipal" in one):
            continue
        names = [name.lower() for operator in _mapping(one.get("Condition")) for name in _pairs(one, operator)]
        if not any(name in _NARROWING for name in names):
            return Finding(
                place,
                check,
                Outcome.FAIL,
                f"statement {one.get('Sid', '(no Sid)')!r} lets everybody in",
                "name the principals, as `ownkey aws key-policy` does",
            )
        outcome, seen = Outcome.WARN, f"statement {one.get('Sid', '(no Sid)')!r} lets in * under a condition"
    return Finding(place, check, outcome, seen, "name the principals" if outcome is Outcome.WARN else "")


def _named(place: str, statements: Sequence[Mapping[str, Any]], principal: str) -> Finding:
    if any(
        one.get("Effect") == "Allow" and _covers(one, "kms:Decrypt") and principal in _principals(one)
        for one in statements
    ):
        return Finding(place, "policy: names ownkey", Outcome.PASS, f"{principal} is let in by name")
    return Finding(
        place,
        "policy: names ownkey",
        Outcome.WARN,
        f"no statement lets {principal} in by name; what lets it in is wider, or IAM's",
        "put the policy that `ownkey aws key-policy` prints",
    )


def _conditioned(place: str, statements: Sequence[Mapping[str, Any]], principal: str, tenant: str) -> Finding:
    check = "policy: tenant's context"
    allowing = [
        one
        for one in statements
        if one.get("Effect") == "Allow" and _covers(one, "kms:Decrypt") and principal in _principals(one)
    ]
    denied_outside = any(
        one.get("Effect") == "Deny"
        and _covers(one, "kms:Decrypt")
        and {principal, "*"} & set(_principals(one))
        and _asks(one, "StringNotEquals", tenant)
        for one in statements
    )
    if denied_outside or (allowing and all(_asks(one, "StringEquals", tenant) for one in allowing)):
        asked = f"ownkey:tenant = {tenant}" if tenant else "ownkey:tenant"
        told = (
            f"it denies us whatever is not {asked}" if denied_outside else f"what lets us in by name asks for {asked}"
        )
        return Finding(place, check, Outcome.PASS, f"the document says that {told}")
    return Finding(
        place,
        check,
        Outcome.WARN,
        f"the document has no condition that ties our use to ownkey:tenant = {tenant or 'TENANT'}",
        "put the policy that `ownkey aws key-policy` prints",
    )


def _asks(statement: Mapping[str, Any], operator: str, tenant: str) -> bool:
    pairs = {name.lower(): value for name, value in _pairs(statement, operator).items()}
    values = _list(pairs.get(TENANT_CONDITION.lower(), []))
    return values == [tenant] if tenant else bool(values)


def _covers(statement: Mapping[str, Any], action: str) -> bool:
    if "NotAction" in statement:
        return not any(_like(action, str(one)) for one in _list(statement["NotAction"]))
    return any(_like(action, str(one)) for one in _list(statement.get("Action", [])))


def _like(action: str, pattern: str) -> bool:
    form = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch(form, action, re.IGNORECASE) is not None


def _principals(statement: Mapping[str, Any]) -> list[str]:
    named = statement.get("Principal", [])
    if isinstance(named, Mapping):
        named = named.get("AWS", [])
    return [str(one) for one in _list(named)]


def _is_account(principal: str, account: str) -> bool:
    return principal == account or re.fullmatch(rf"arn:aws[a-z-]*:iam::{account}:root", principal) is not None


def _pairs(statement: Mapping[str, Any], operator: str) -> Mapping[str, Any]:
    return _mapping(_mapping(statement.get("Condition")).get(operator))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
