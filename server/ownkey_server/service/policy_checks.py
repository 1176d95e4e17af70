"""Says which key would protect an asset, and why. It asks the same function as every real use, and uses no key."""

from __future__ import annotations

from dataclasses import dataclass

from ownkey_server.domain import policy
from ownkey_server.domain.assets import Asset
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.key_state import KeyState
from ownkey_server.service.access import Ruling, revocation_of, rule_on
from ownkey_server.service.directory import Directory
from ownkey_server.service.status_board import StatusBoard


@dataclass(frozen=True, slots=True)
class PolicyCheck:
    """A ruling with its reason in words, and the state of the key that it names (None when it names none)."""

    ruling: Ruling
    explanation: str
    key_state: KeyState | None


class PolicyChecks:
    """Answers what policy says of an asset."""

    def __init__(self, directory: Directory, board: StatusBoard, clock: Clock) -> None:
        self._directory = directory
        self._board = board
        self._clock = clock

    async def check(self, asset: Asset) -> PolicyCheck:
        """Which key would serve, which rule decides, and why.

        Raises:
            TenantNotFound: There is no such tenant.
            InvalidRequest: The asset names a group that the tenant does not have.
        """
        tenant = await self._directory.tenant(asset.tenant)
        now = self._clock()
        ruling = rule_on(tenant, self._directory.provider_key, asset, now)
        state, explanation = None, policy.explain(ruling.decision, asset)
        if ruling.key is not None:
            evidence = self._board.of(ruling.key, now)
            state = evidence.state if evidence else KeyState.UNKNOWN
            taken_back = revocation_of(tenant, asset, ruling.key, now)
            if taken_back is not None:
                explanation += f", but the tenant has taken it back by revocation {taken_back.id}"
                state = KeyState.REVOKED
        return PolicyCheck(ruling, explanation, state)
