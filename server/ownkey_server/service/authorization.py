"""The one place that decides whether a caller may do what it asks for."""

from __future__ import annotations

from ownkey_server.domain.errors import PermissionDenied
from ownkey_server.domain.roles import Facts, Permit, decide
from ownkey_server.service.roster import Roster


class Authorizer:
    """Decides by the grants of the principal alone, and by the table :data:`ownkey_server.domain.roles.ACCESS`."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    async def require(self, principal: str, method: str, facts: Facts) -> Permit:
        """What the principal may do and see by this method.

        Raises:
            PermissionDenied: Nothing. The answer is the same whatever there is.
            ServiceImpaired: What the principal may do is not known for certain.
        """
        permit = decide(await self._roster.grants(principal), method, facts)
        if permit is None:
            raise PermissionDenied(principal, method, _about(facts))
        return permit


def _about(facts: Facts) -> str:
    """What the request is about, in its own words, a few of them."""
    about = [f"tenant {name[:63]!r}" for name in facts.tenants[:3]] + [str(one) for one in facts.asset_classes[:3]]
    return ", ".join(about)
