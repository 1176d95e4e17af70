"""Service principals: the services and people that are known to us by name, and what each may do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ownkey_server.domain.approvals import Danger, Effect
from ownkey_server.domain.errors import ResourceExists
from ownkey_server.domain.roles import Grant
from ownkey_server.domain.roles import principal_name as name
from ownkey_server.service.administration.desk import Act, Dangerous, Desk, Done
from ownkey_server.storage.grants import grants_json
from ownkey_server.storage.records import PrincipalRecord
from ownkey_server.storage.registry import Change, required


class Principals:
    """What can be done with service principals."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def get(self, principal: str) -> PrincipalRecord:
        """A service principal.

        Raises:
            ResourceNotFound: There is none of that id.
        """
        found = await self._desk.read(lambda reader: reader.principal(principal))
        record: PrincipalRecord = required(found, name(principal))
        return record

    async def list(self, after: str, limit: int) -> list[PrincipalRecord]:
        """Service principals by id, from after ``after``."""
        return await self._desk.read(lambda reader: reader.principals(after, limit))

    async def create(self, act: Act, principal: str, display_name: str, grants: Sequence[Grant]) -> PrincipalRecord:
        """Add a service principal, and say what it may do.

        Raises:
            ResourceExists: There is one of that id.
        """

        def work(change: Change) -> Done:
            if change.principal(principal):
                raise ResourceExists(name(principal), "there is a service principal of that id already")
            after = _shown(display_name, grants)
            agreed = self._require_agreement(change, act, principal, {}, (), after, grants)
            change.insert_principal(principal, display_name, grants)
            return Done(change.principal(principal), {**agreed, "after": after})

        made: PrincipalRecord = await self._desk.change(act, "create_service_principal", "", name(principal), work)
        return made

    async def update(
        self, act: Act, principal: str, etag: str, display_name: str, grants: Sequence[Grant]
    ) -> PrincipalRecord:
        """Say anew what a service principal is called, and what it may do.

        Raises:
            ResourceNotFound: There is none of that id.
            EtagMismatch: It was changed since it was read.
        """

        def work(change: Change) -> Done:
            before: PrincipalRecord = required(change.principal(principal), name(principal))
            change.require_etag(name(principal), before.stamp, etag)
            old, new = _shown(before.display_name, before.grants), _shown(display_name, grants)
            agreed = self._require_agreement(change, act, principal, old, before.grants, new, grants)
            change.update_principal(before, etag, display_name, grants)
            return Done(change.principal(principal), {**agreed, "before": old, "after": new})

        changed: PrincipalRecord = await self._desk.change(act, "update_service_principal", "", name(principal), work)
        return changed

    async def delete(self, act: Act, principal: str, etag: str) -> None:
        """Delete a service principal.

        Raises:
            ResourceNotFound: There is none of that id.
            EtagMismatch: It was changed since it was read.
        """

        def work(change: Change) -> Done:
            before: PrincipalRecord = required(change.principal(principal), name(principal))
            change.delete_principal(before, etag)
            return Done(None, {"before": _shown(before.display_name, before.grants)})

        await self._desk.change(act, "delete_service_principal", "", name(principal), work)

    def _require_agreement(
        self,
        change: Change,
        act: Act,
        principal: str,
        before: Mapping[str, object],
        old: Sequence[Grant],
        after: Mapping[str, object],
        new: Sequence[Grant],
    ) -> Mapping[str, str]:
        more = [one for one in new if one not in old]
        if not more:
            return {}
        summary = f"grant {principal}: {'; '.join(map(_said, more))}"
        effect = Effect(Danger.GRANT_ROLE, name(principal), before, after)
        return self._desk.require_agreement(
            change, act, Dangerous("", name(principal), summary, [effect], field="grants")
        )


def _said(grant: Grant) -> str:
    """A grant with all that limits it."""
    limits = [f"of {', '.join(sorted(grant.asset_classes))}"] if grant.asset_classes else []
    limits += [f"only {', '.join(sorted(grant.methods))}"] if grant.methods else []
    return " ".join([f"{grant.role} for {grant.tenant}", *([f"({'; '.join(limits)})"] if limits else [])])


def _shown(display_name: str, grants: Sequence[Grant]) -> dict[str, object]:
    return {"display_name": display_name, "grants": json.loads(grants_json(grants))}
