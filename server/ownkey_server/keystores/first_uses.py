"""Whether a key has ever worked: what was never granted cannot be withdrawn, and its denial is no revocation."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol

_MOST_REMEMBERED = 100_000


class FirstUses(Protocol):
    """Remembers which keys have opened something, in whose name, where and as whom. Used by many threads."""

    def note(self, tenant: str, store: str, reference: str, identity: str) -> None:
        """A key has just opened what it had wrapped. Waits for nothing: this is said at every such use.

        Args:
            tenant: In whose name; empty for the provider.
            store: The key store's name in the settings.
            reference: The key's name in that store.
            identity: Who we were to the key, for what was given to one is not taken from another.
        """
        ...

    def has_worked(self, tenant: str, store: str, reference: str, identity: str, timeout: float) -> bool:
        """Whether it ever did; False too when that cannot be found out within ``timeout`` seconds. May wait."""
        ...


class FirstUsesHere:
    """Remembers what this process has seen: for commands, which have no database, and before it is asked."""

    def __init__(self, most: int = _MOST_REMEMBERED) -> None:
        self._most = most
        self._seen: OrderedDict[tuple[str, str, str, str], None] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, tenant: str, store: str, reference: str, identity: str) -> None:
        """As :meth:`FirstUses.note`."""
        self.add(tenant, store, reference, identity)

    def has_worked(self, tenant: str, store: str, reference: str, identity: str, timeout: float) -> bool:  # noqa: ARG002
        """As :meth:`FirstUses.has_worked`."""
        return (tenant, store, reference, identity) in self._seen

    def add(self, tenant: str, store: str, reference: str, identity: str) -> bool:
        """Remember a use; whether it is the first that is known here."""
        use = tenant, store, reference, identity
        if use in self._seen:
            return False
        with self._lock:
            if use in self._seen:
                return False
            self._seen[use] = None
            if len(self._seen) > self._most:
                self._seen.popitem(last=False)
            return True
