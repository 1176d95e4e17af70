"""Who we are to a key, and how it is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ownkey_server.keystores.aws.arn import KeyArn


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are to a key.

    Attributes:
        caller: What STS calls us (GetCallerIdentity); empty when it does not tell.
        principal: The role or user that a policy names; None when that is not known for certain.
        how: How we became it, in words.
        by_role: Whether by a role that is assumed in the tenant's name.
        trouble: Why STS does not tell who we are. Whoever uses a key without a role needs no STS for it.
    """

    caller: str
    principal: str | None
    how: str
    by_role: bool = False
    trouble: Exception | None = None


class Reach(Protocol):
    """How keys are reached: by which credentials, and as whom. What AWS refuses, its errors say."""

    def asks_for(self, arn: KeyArn) -> str:
        """The role that is assumed to use the key, and what is said to get it; empty without a role."""
        ...

    def kms(self, arn: KeyArn) -> Any:
        """A client of KMS in the key's region, by the credentials that the key store would use."""
        ...

    def identity(self, arn: KeyArn) -> Identity:
        """As whom it is used; that STS does not tell is part of the answer."""
        ...

    def become(self, arn: KeyArn, tenant: str) -> None:
        """Assume the key's role once, as it would be in the name of any tenant."""
        ...


def principal_of(caller: str) -> str | None:
    """The role or user that a policy would name for a caller; None where that is not known for certain.

    A session's ARN does not have the path of its role.
    """
    parts = caller.split(":", 5)
    if len(parts) == 6 and parts[2] == "sts" and parts[5].startswith("assumed-role/"):
        return f"arn:{parts[1]}:iam::{parts[4]}:role/{parts[5].split('/')[1]}"
    return caller if len(parts) == 6 and parts[2] == "iam" and "/" in parts[5] else None
