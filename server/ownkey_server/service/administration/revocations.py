"""Revocations, as they are administered: put into force, ended, and read."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime

from ownkey_server.domain.approvals import Danger, Effect
from ownkey_server.domain.errors import InvalidRequest, ResourceInUse
from ownkey_server.domain.revocations import PROVIDER_KEY_ID, Ending, Revocation, Scope
from ownkey_server.domain.tenants import KeyLifecycle
from ownkey_server.service.administration import notices
from ownkey_server.service.administration.desk import Act, Dangerous, Desk, Done
from ownkey_server.service.administration.tenants import name as tenant_name
from ownkey_server.storage import key_notices, key_states
from ownkey_server.storage import revocations as kept
from ownkey_server.storage.registry import Change, Reader, required

MOST = 1000
MOST_CHARACTERS = 4 * 1024 * 1024
"""How many revocations of a tenant are in force, and how much they name. Each use looks at all of them, in the process
that serves all tenants. To take back whole keys, or everything, goes beyond: that must never wait for tidying up."""


class Revocations:
    """What can be taken back and given back."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def get(self, tenant: str, revocation: str) -> Revocation:
        """A revocation.

        Raises:
            ResourceNotFound: The tenant has none of that id.
        """
        found = await self._desk.read(lambda reader: kept.find(reader.connection, tenant, revocation))
        record: Revocation = required(found, name(tenant, revocation))
        return record

    async def list(
        self, tenant: str, before: tuple[datetime, str] | None, limit: int, *, restored: bool
    ) -> list[Revocation]:
        """A tenant's revocations, the newest first, from before ``before``.

        Raises:
            ResourceNotFound: There is no such tenant.
        """

        def question(reader: Reader) -> list[Revocation]:
            required(reader.tenant(tenant), tenant_name(tenant))
            return kept.latest(reader.connection, tenant, before, limit, restored=restored)

        return await self._desk.read(question)

    async def revoke(self, act: Act, tenant: str, scope: Scope, ending: Ending, *, everything: bool) -> Revocation:
        """Take something back, from now on.

        Args:
            act: Who, and why.
            tenant: Whose.
            scope: What.
            ending: What happens to streams that are under way.
            everything: Whether it is meant that the scope has no condition.

        Raises:
            ResourceNotFound: There is no such tenant.
            InvalidRequest: It names a key or a group that the tenant does not have, or nothing and that is not meant.
            ResourceInUse: As many are in force as may be.
        """
        require_meant(scope, everything=everything)
        made = Revocation(secrets.token_hex(16), tenant, scope, ending, act.reason, act.author, self._desk.clock())

        def work(change: Change) -> Done:
            required(change.tenant(tenant), tenant_name(tenant))
            require_known(change, tenant, scope)
            _require_room(change, tenant, scope)
            change.touch(tenant)
            kept.add(change.connection, made, change.number)
            _settle(change, tenant, self._desk.clock())
            notices.revocation_made(change, act, made)
            return Done(made, {"after": {"scope": kept.scope_json(scope), "ending": ending.value}})

        await self._desk.change(act, "revoke", tenant, name(tenant, made.id), work)
        return made

    async def restore(self, act: Act, tenant: str, revocation: str) -> Revocation:
        """Give back what a revocation took.

        Raises:
            ResourceNotFound: The tenant has none of that id.
            ResourceInUse: It is not in force.
            ApprovalRequired: It takes a second person, who has not agreed yet.
        """

        def work(change: Change) -> Done:
            before: Revocation = required(kept.find(change.connection, tenant, revocation), name(tenant, revocation))
            if not before.in_force:
                raise ResourceInUse(name(tenant, revocation), "it was restored already")
            scope = {"scope": kept.scope_json(before.scope)}
            effect = Effect(Danger.RESTORE, name(tenant, revocation), scope | {"in_force": True}, {"in_force": False})
            summary = f"give back what revocation {revocation} of tenant {tenant} took: {scope['scope']}"
            agreed = self._desk.require_agreement(
                change, act, Dangerous(tenant, name(tenant, revocation), summary, [effect], field="revocation")
            )
            if not kept.restore(change.connection, revocation, self._desk.clock(), change.number):
                raise ResourceInUse(name(tenant, revocation), "it was restored already")
            change.touch(tenant)
            _settle(change, tenant, self._desk.clock())
            notices.revocation_restored(change, act, before, self._desk.clock())
            now = kept.find(change.connection, tenant, revocation)
            return Done(now, {**agreed, "before": scope})

        ended: Revocation = await self._desk.change(act, "restore", tenant, name(tenant, revocation), work)
        return ended


def _settle(change: Change, tenant: str, now: datetime) -> None:
    """Have the states of keys say what is taken back as a whole, for those who watch them, and are notified."""
    keys = [key for key in change.keys(tenant) if key.lifecycle is not KeyLifecycle.REMOVED]
    places = [(key.name, [one.place.name for one in key.replicas]) for key in keys]
    key_states.settle(change.connection, places, now, (key_notices.tell,))


def require_meant(scope: Scope, *, everything: bool) -> None:
    """Make sure that a scope is about something, and about everything only if that is meant.

    Raises:
        InvalidRequest: It is not.
    """
    if scope.is_everything != everything:
        raise InvalidRequest(
            "everything", "must be true exactly when the scope has no condition, for then it is all of the tenant"
        )
    if scope.created_from and scope.created_before and scope.created_from >= scope.created_before:
        raise InvalidRequest("scope.created_before", "must be later than created_from: nothing is between them")


def require_known(reader: Reader, tenant: str, scope: Scope) -> None:
    """Make sure that a tenant has the keys and groups that a scope names.

    Raises:
        InvalidRequest: It lacks one.
    """
    keys = {key.id for key in reader.keys(tenant)} | {PROVIDER_KEY_ID}
    groups = {group.id for group in reader.groups(tenant)}
    for field, named, known in (("keys", scope.keys, keys), ("groups", scope.groups, groups)):
        unknown = sorted(named - known)
        if unknown:
            raise InvalidRequest(f"scope.{field}", f"tenant {tenant!r} has no {field[:-1]} {unknown[0]!r}")


def _require_room(change: Change, tenant: str, scope: Scope) -> None:
    count, size = kept.held(change.connection, tenant)
    whole = replace(scope, keys=frozenset()).is_everything
    too_much = not whole and size + len(kept.scope_json(scope)) > MOST_CHARACTERS
    if count >= (2 * MOST if whole else MOST) or too_much:
        raise ResourceInUse(
            f"{tenant_name(tenant)}/revocations",
            f"{count} are in force, and no more may be: restore some, or take back whole keys, which is possible still",
        )


def name(tenant: str, revocation: str) -> str:
    """A revocation's name as a resource."""
    return f"tenants/{tenant}/revocations/{revocation}"
