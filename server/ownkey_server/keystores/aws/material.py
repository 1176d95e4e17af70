"""Key material that a customer imported from an HSM of its own: it may have a last day, and can be deleted at will."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.errors import When

_log = logging.getLogger(__name__)

WARN_DAYS = 14
_DAY = 86_400.0
# A key's origin never changes, so that those without imported material are asked about once.
_REFRESH_SECONDS = 60.0
_DENIED_SECONDS = 3600.0
_MOST_REMEMBERED = 100_000


@dataclass(slots=True)
class _Material:
    imported: bool | None
    expires: float | None
    asked: float
    held: bool = False
    warned: float = float("-inf")


class Materials:
    """What is known of keys' material. Used by many threads.

    Args:
        clock: The time of day, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: OrderedDict[str, _Material] = OrderedDict()
        self._lock = threading.Lock()

    def is_due(self, key: KeyArn) -> bool:
        """Whether DescribeKey should be asked about a key."""
        known = self._known.get(str(key))
        if known is None:
            return True
        if known.imported is False:
            return False
        pause = _DENIED_SECONDS if known.imported is None else _REFRESH_SECONDS
        return self._clock() - known.asked >= pause

    def saw(self, key: KeyArn, described: Mapping[str, Any] | None) -> None:
        """What DescribeKey said; None when it may not be asked."""
        now = self._clock()
        with self._lock:
            known = self._known.setdefault(str(key), _Material(None, None, now))
            known.asked = now
            if described is not None:
                known.imported = described.get("Origin") == "EXTERNAL"
                # Without its material a key has no date any more: that from before tells why it has none.
                if described.get("KeyState") != "PendingImport" or described.get("ValidTo") is not None:
                    until = described.get("ValidTo")
                    known.expires = until.timestamp() if isinstance(until, datetime) else until
                    known.held = True
            if len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)

    def fate(self, key: KeyArn) -> When:
        """Why a key has no material any more."""
        known = self._known.get(str(key))
        if known is None or not known.held:
            return When.UNKNOWN
        return When.EXPIRED if known.expires is not None and known.expires <= self._clock() else When.DELETED

    def ends(self, key: KeyArn) -> datetime | None:
        """When a key's imported material ends; None when it does not, or that is not known."""
        known = self._known.get(str(key))
        if known is None or not known.imported or known.expires is None:
            return None
        return datetime.fromtimestamp(known.expires, UTC)

    def note(self, key: KeyArn) -> str:
        """What should be known of a key that works; empty when nothing. Warns in the log, once a day."""
        known = self._known.get(str(key))
        if known is None or not known.imported:
            return ""
        if known.expires is None:
            return "imported key material, without an end"
        until = datetime.fromtimestamp(known.expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
        now = self._clock()
        if known.expires - now <= WARN_DAYS * _DAY and now - known.warned >= _DAY:
            known.warned = now
            _log.warning("the imported key material of %s expires on %s: its holder must import it anew", key, until)
        return f"imported key material, until {until}"
