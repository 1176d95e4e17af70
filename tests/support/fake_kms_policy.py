"""Policies as the fake decides by them: of keys, of identities, and of trust. A Deny wins, and silence denies.

From the IAM User Guide, "Policy evaluation logic" and "IAM JSON policy elements: Condition", and the KMS Developer
Guide, "Default key policy": a key policy that names a principal lets it in by itself, if both are of one account; one
that names the account's root lets IAM's policies of that account decide. Across accounts both must allow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

Facts = Mapping[str, str | Sequence[str]]


class Verdict(Enum):
    """What one policy says of a call."""

    SILENT = "silent"
    DENY = "deny"
    DELEGATE = "delegate"
    """It lets the account in, whose identity policies decide."""
    ALLOW = "allow"


def allows(policy: Mapping[str, Any], principal: str, action: str, facts: Facts) -> bool:
    """Whether a policy of a resource lets a principal do something; whoever an account is named by has IAM's word."""
    return verdict(policy, principal, action, facts) in {Verdict.ALLOW, Verdict.DELEGATE}


def allows_use(
    key_policy: Mapping[str, Any],
    owner: str,
    identity_policy: Mapping[str, Any] | None,
    principal: str,
    action: str,
    facts: Facts,
) -> bool:
    """Whether a principal may do something with a key.

    Args:
        owner: The account of the key.
        identity_policy: IAM's policy of the principal. None: it has none, which is nothing in the key's own account;
            one of another account is then taken to have there what it needs.
    """
    by_key = verdict(key_policy, principal, action, facts)
    if identity_policy is not None:
        by_identity = verdict(identity_policy, principal, action, facts, of_identity=True)
    else:
        at_home = account_of(principal) == owner and not principal.endswith(":root")
        by_identity = Verdict.SILENT if at_home else Verdict.ALLOW
    if Verdict.DENY in {by_key, by_identity}:
        return False
    if by_key is Verdict.ALLOW and account_of(principal) == owner:
        return True
    return by_key in {Verdict.ALLOW, Verdict.DELEGATE} and by_identity is Verdict.ALLOW


def verdict(
    policy: Mapping[str, Any], principal: str, action: str, facts: Facts, *, of_identity: bool = False
) -> Verdict:
    """What a policy says of a call; of an identity's, which names no principal, its owner is one."""
    found = Verdict.SILENT
    for statement in _list(policy.get("Statement", [])):
        named = Verdict.ALLOW if of_identity else _how_named(statement, principal)
        if named is Verdict.SILENT or not _action_matches(statement, action):
            continue
        if not conditions_hold(statement.get("Condition", {}), facts):
            continue
        if statement["Effect"] == "Deny":
            return Verdict.DENY
        found = Verdict.ALLOW if Verdict.ALLOW in {found, named} else Verdict.DELEGATE
    return found


def conditions_hold(conditions: Mapping[str, Mapping[str, Any]], facts: Facts) -> bool:
    """Whether all conditions of a statement hold."""
    known = {name.lower(): value for name, value in facts.items()}
    return all(
        _holds(operator, known.get(name.lower()), [str(value) for value in _list(wanted)])
        for operator, pairs in conditions.items()
        for name, wanted in pairs.items()
    )


def role_of(principal: str) -> str:
    """The role's ARN of an assumed role's session; the principal itself when it is none."""
    parts = re.fullmatch(r"arn:(aws[a-z-]*):sts::([0-9]{12}):assumed-role/(.+)/[^/]+", principal)
    return f"arn:{parts[1]}:iam::{parts[2]}:role/{parts[3]}" if parts else principal


def account_of(principal: str) -> str:
    """The account of a principal."""
    return principal.split(":")[4]


def _holds(operator: str, has: str | Sequence[str] | None, wanted: Sequence[str]) -> bool:
    quantifier, _, rest = operator.rpartition(":")
    if_exists = rest.endswith("IfExists")
    rest = rest.removesuffix("IfExists")
    if rest == "Null":
        return (has is None) == (wanted[0].lower() == "true")
    if has is None and if_exists:
        return True
    negated = "Not" in rest
    values = [] if has is None else [has] if isinstance(has, str) else list(has)
    one = _COMPARE[rest.replace("Not", "")]

    def matches(value: str) -> bool:
        return any(one(value, want) for want in wanted) is not negated

    if quantifier == "ForAllValues":
        return all(map(matches, values))
    if not values:
        return negated and not quantifier  # a negated condition on what is absent holds
    if quantifier == "ForAnyValue":
        return any(map(matches, values))
    return all(map(matches, values)) if negated else any(map(matches, values))


def _like(value: str, pattern: str) -> bool:
    return (
        re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), value, re.DOTALL) is not None
    )


_COMPARE: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda value, want: value == want,
    "StringLike": _like,
    "StringEqualsIgnoreCase": lambda value, want: value.lower() == want.lower(),
    "ArnEquals": _like,
    "ArnLike": _like,
    "Bool": lambda value, want: value.lower() == want.lower(),
}


def _how_named(statement: Mapping[str, Any], principal: str) -> Verdict:
    """``ALLOW`` where a statement means the principal itself, ``DELEGATE`` where it means its account."""
    if "NotPrincipal" in statement:
        silent = _named(statement["NotPrincipal"], principal) is Verdict.SILENT
        return Verdict.ALLOW if silent else Verdict.SILENT
    return _named(statement.get("Principal", "*"), principal)


def _named(named: Any, principal: str) -> Verdict:
    if named == "*":
        return Verdict.ALLOW
    names = set(_list(named.get("AWS", [])))
    if names & {"*", principal, role_of(principal)}:
        return Verdict.ALLOW
    account = account_of(principal)
    partition = principal.split(":")[1]
    return Verdict.DELEGATE if names & {account, f"arn:{partition}:iam::{account}:root"} else Verdict.SILENT


def _action_matches(statement: Mapping[str, Any], action: str) -> bool:
    if "NotAction" in statement:
        return not any(_like(action.lower(), one.lower()) for one in _list(statement["NotAction"]))
    return any(_like(action.lower(), one.lower()) for one in _list(statement.get("Action", [])))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
