"""Who our own credentials are: the role or user that policies of customers name."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ownkey_server.keystores.aws.identity import principal_of


class Principal:
    """Whose our credentials are at the moment. STS is asked once for each access key. Used by many threads.

    Args:
        access_key: The access key of the credentials that we sign by now; None where there are none.
        ask: What STS, in a region, calls us (GetCallerIdentity); None when it does not say.
    """

    def __init__(self, access_key: Callable[[], str | None], ask: Callable[[str], str | None]) -> None:
        self._access_key = access_key
        self._ask = ask
        self._lock = threading.Lock()
        self._known: tuple[str, str] | None = None

    @property
    def access_key(self) -> str | None:
        """The access key that we sign by now."""
        return self._access_key()

    def known(self) -> str | None:
        """The principal's ARN, of a role without path and session, if STS has said it; asks nobody."""
        known = self._known
        return known[1] if known is not None and known[0] == self._access_key() else None

    def within(self, region: str, wait: float) -> str | None:
        """The principal's ARN, if need be asked of STS; None when that is not found out.

        Args:
            region: Whose STS is asked.
            wait: Seconds to wait for others who are asking.
        """
        found = self.known()
        if found is not None or not self._lock.acquire(timeout=max(0.0, wait)):
            return found
        try:
            return self.known() or self._find(region)
        finally:
            self._lock.release()

    def _find(self, region: str) -> str | None:
        access_key = self._access_key()
        caller = self._ask(region)
        # Credentials may be renewed, and by others' too, while STS is asked: then it is not known for which it spoke.
        if caller is None or access_key is None or self._access_key() != access_key:
            return None
        principal = principal_of(caller) or caller
        self._known = access_key, principal
        return principal
