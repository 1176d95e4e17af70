"""Service principals: the services that may be known to us by name."""

from __future__ import annotations

from ownkey_server.domain.errors import ResourceExists
from ownkey_server.service.administration.desk import Act, Desk, Done
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

    async def create(self, act: Act, principal: str, display_name: str) -> PrincipalRecord:
        """Add a service principal.

        Raises:
            ResourceExists: There is one of that id.
        """

        def work(change: Change) -> Done:
            if change.principal(principal):
                raise ResourceExists(name(principal), "there is a service principal of that id already")
            change.insert_principal(principal, display_name)
            return Done(change.principal(principal), {"after": {"display_name": display_name}})

        made: PrincipalRecord = await self._desk.change(act, "create_service_principal", "", name(principal), work)
        return made

    async def update(self, act: Act, principal: str, etag: str, display_name: str) -> PrincipalRecord:
        """Rename a service principal.

        Raises:
            ResourceNotFound: There is none of that id.
            EtagMismatch: It was changed since it was read.
        """

        def work(change: Change) -> Done:
            before: PrincipalRecord = required(change.principal(principal), name(principal))
            change.update_principal(before, etag, display_name)
            detail = {"before": {"display_name": before.display_name}, "after": {"display_name": display_name}}
            return Done(change.principal(principal), detail)

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
            return Done(None, {"before": {"display_name": before.display_name}})

        await self._desk.change(act, "delete_service_principal", "", name(principal), work)


def name(principal: str) -> str:
    """A service principal's name as a resource."""
    return f"servicePrincipals/{principal}"
