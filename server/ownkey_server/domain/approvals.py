"""Changes that can be set to need a second person, and what that person agrees to."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ownkey_server.domain.audit import canonical
from ownkey_server.domain.roles import Facts, Grant, decide

MAX_CHANGE_BYTES = 256 * 1024
"""What cannot be shown whole to whoever is to agree cannot be agreed to."""


class Danger(StrEnum):
    """A kind of change that may need a second person.

    ``REMOVE_KEY``: nothing that the key wrapped can be opened here any more. ``GATE_OFF``: calls are set up although
    their recordings cannot be protected. ``GRANT_ROLE``: somebody may do more than before. ``RETENTION``: audit records
    are removed earlier. ``MOVE_BRANCH_KEYS``: what one key protected opens with another, whatever becomes of the first.
    ``RESTORE``: what a tenant took back is served again.
    """

    REMOVE_KEY = "remove_key"
    GATE_OFF = "gate_off"
    GRANT_ROLE = "grant_role"
    RETENTION = "retention"
    MOVE_BRANCH_KEYS = "move_branch_keys"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class Effect:
    """Something dangerous that a change does.

    Attributes:
        resource: Name of what is changed.
        before: What of it is now, as JSON has it; all that bears on the danger.
        after: What would be.
    """

    danger: Danger
    resource: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


def written(effects: Sequence[Effect]) -> str:
    """The effects as JSON in its one spelling: equal texts are equal effects."""
    told = [
        {"danger": one.danger.value, "resource": one.resource, "before": one.before, "after": one.after}
        for one in effects
    ]
    return canonical({"effects": told}).decode()


def digest(change: str) -> str:
    """SHA-256 of a written change, in hexadecimal: the trail names it by this."""
    return hashlib.sha256(change.encode()).hexdigest()


def may_approve(grants: Collection[Grant], method: str, tenant: str) -> bool:
    """Whether a principal with these grants may agree to a change: who may approve, and could make it.

    Args:
        grants: All that the principal holds.
        method: By which the change is made.
        tenant: Whose it is; empty for the service itself.
    """
    permit = decide(grants, "ApproveChange", Facts())
    makes = decide(grants, method, Facts((tenant,) if tenant else ()))
    return permit is not None and permit.sees(tenant) and makes is not None
