"""Which keys have worked, in whose name, and for whom of us: what was never given to us as we are was not taken away.

Who we are to a key is our own principal and, where a role is assumed, that role and how it is asked for. A setting that
is changed (a role's name, tags, a profile) makes somebody else of us, whom the customer may never have let in.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.principal import Principal
from ownkey_server.keystores.first_uses import FirstUses

_log = logging.getLogger(__name__)

# Uses that wait for STS to say who we are; those beyond are seen again when the key is used again.
MOST_UNNAMED = 1000
# An STS that is away is not asked again at every use of every key.
RETRY_SECONDS = 10.0
_WAIT_SECONDS = 5.0


class History:
    """Remembers keys that worked. Used by many threads.

    Args:
        store: The key store's name in the settings.
        uses: Where that is kept.
        principal: Who our own credentials are.
        role: By which role a tenant's key is used, and how that is asked for; empty for none.
        later: Runs something in the background.
    """

    def __init__(
        self,
        store: str,
        uses: FirstUses,
        principal: Principal,
        role: Callable[[str, KeyArn], str],
        later: Callable[[Callable[[], None]], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._uses = uses
        self._principal = principal
        self._role = role
        self._later = later
        self._clock = clock
        self._unnamed: dict[tuple[str, KeyArn, str], None] = {}
        self._naming = False
        self._retry_at = float("-inf")
        self._lock = threading.Lock()

    @property
    def unnamed(self) -> int:
        """How many uses wait for it to be known who we were."""
        return len(self._unnamed)

    def worked(self, tenant: str, key: KeyArn) -> None:
        """A key has just opened something in a tenant's name. Waits for nobody."""
        principal = self._principal.known()
        if principal is not None:
            self._uses.note(tenant, self._store, str(key), self._identity(principal, tenant, key))
            return
        access_key = self._principal.access_key
        if access_key is None:
            return
        with self._lock:
            if len(self._unnamed) < MOST_UNNAMED:
                self._unnamed[tenant, key, access_key] = None
            begins = not self._naming and self._clock() >= self._retry_at
            self._naming = self._naming or begins
        if begins:
            self._later(partial(self._name, key.region))

    def has_worked(self, tenant: str, key: KeyArn, timeout: float) -> bool:
        """Whether it ever has, for us as we are now; False too when that is not found out. May ask STS."""
        until = self._clock() + timeout
        principal = self._principal.within(key.region, timeout)
        if principal is None:
            _log.warning("STS does not say who we are: it is not known whether %s has worked for us before", key)
            return False
        self._write(principal)
        left = max(0.0, until - self._clock())
        return self._uses.has_worked(tenant, self._store, str(key), self._identity(principal, tenant, key), left)

    def _identity(self, principal: str, tenant: str, key: KeyArn) -> str:
        return f"{principal} {self._role(tenant, key)}".rstrip()

    def _name(self, region: str) -> None:
        try:
            principal = self._principal.within(region, _WAIT_SECONDS)
            if principal is None:
                self._retry_at = self._clock() + RETRY_SECONDS
                _log.warning("STS does not say who we are: no denial by AWS counts as a revocation until it does")
            else:
                self._write(principal)
        finally:
            self._naming = False

    def _write(self, principal: str) -> None:
        """Write down what waited; what was done by other credentials than these is nobody's any more."""
        if not self._unnamed:
            return
        access_key = self._principal.access_key
        with self._lock:
            waiting, self._unnamed = self._unnamed, {}
        for tenant, key, used in waiting:
            if used == access_key:
                self._uses.note(tenant, self._store, str(key), self._identity(principal, tenant, key))
