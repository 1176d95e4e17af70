"""Key policies and trust policies as the fake decides by them: what is not allowed is denied, and a Deny wins.

From the IAM User Guide, "Policy evaluation logic" and "IAM JSON policy elements: Condition". A principal that a
statement names by its account (``arn:aws:iam::ACCOUNT:root``) is taken to have IAM's permission there too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Facts = Mapping[str, str | Sequence[str]]


def allows(policy: Mapping[str, Any], principal: str, action: str, facts: Facts) -> bool:
    """Whether a policy lets a principal do something."""
    allowed = False
    for statement in _list(policy.get("Statement", [])):
        if not (_principal_matches(statement, principal) and _action_matches(statement, action)):
            continue
        if not conditions_hold(statement.get("Condition", {}), facts):
            continue
        if statement["Effect"] == "Deny":
            return False
        allowed = True
    return allowed


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


def _principal_matches(statement: Mapping[str, Any], principal: str) -> bool:
    if "NotPrincipal" in statement:
        return not _named(statement["NotPrincipal"], principal)
    return _named(statement.get("Principal", "*"), principal)


def _named(named: Any, principal: str) -> bool:
    if named == "*":
        return True
    account = account_of(principal)
    mine = {"*", principal, role_of(principal), account, f"arn:aws:iam::{account}:root"}
    return any(one in mine for one in _list(named.get("AWS", [])))


def _action_matches(statement: Mapping[str, Any], action: str) -> bool:
    if "NotAction" in statement:
        return not any(_like(action.lower(), one.lower()) for one in _list(statement["NotAction"]))
    return any(_like(action.lower(), one.lower()) for one in _list(statement.get("Action", [])))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
