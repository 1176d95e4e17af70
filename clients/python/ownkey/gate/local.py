"""What a gate beside the caller says of a call: by its view while that is fresh, and as it was told beyond that.

Without any I/O, clock or lock: the gates with a thread and for asyncio (:mod:`ownkey.call_gate`) share it, and differ
only in how they follow the service.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from ownkey import emergency
from ownkey.gate.rules import REFUSE, SIP_SERVICE_UNAVAILABLE, STRICTNESS, KeySight
from ownkey.gate.view import Answer, Call, View

Seen: TypeAlias = tuple[View, Mapping[str, KeySight], float]
"""A view, what was known of each key, and when that was told."""

DIRECTIONS: Final = ("", "inbound", "outbound", "internal")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalGate:
    """How a gate decides.

    Attributes:
        staleness: Seconds after which the service's last word counts no more.
        when_stale: What to do with calls then, one of :data:`ownkey.gate.rules.STRICTNESS`.
        countries: ISO 3166 codes whose emergency numbers count until a tenant's view is there; none means all.
        outside_line_prefixes: Digits dialled for an outside line, until then.
    """

    staleness: float
    when_stale: str
    countries: tuple[str, ...] = ()
    outside_line_prefixes: tuple[str, ...] = ()

    def is_emergency(self, callee: str, seen: Seen | None) -> bool:
        """Whether a call goes to an emergency service, by whatever is known. Nothing makes this fail."""
        if seen is not None:
            try:
                if seen[0].is_emergency(callee):
                    return True
            except Exception:  # noqa: BLE001 - a view that cannot be used holds up no emergency call
                _log.exception("the view of a tenant cannot be used to tell emergency calls")
            else:
                if not self.countries:
                    return False
        return emergency.is_emergency(callee, self.countries, outside_line_prefixes=self.outside_line_prefixes)

    def by_view(self, call: Call, seen: Seen, now: float) -> Answer:
        """What is done with a call, by what was last told.

        Raises:
            UnknownGroup: The call names a group that the tenant does not have, and is no emergency call.
        """
        view, keys, at = seen
        elapsed = max(now - at, 0.0)
        answer = view.decide(call, keys, elapsed)
        if elapsed <= self.staleness:
            return answer
        stale = self.stale(f"the service was not heard of for {elapsed:.1f} s")
        revoked = answer.reason == "key_revoked"
        stricter = STRICTNESS.index(answer.decision) >= STRICTNESS.index(stale.decision)
        return answer if revoked and stricter else stale

    def stale(self, why: str) -> Answer:
        """What is done with a call of which nothing fresh is known."""
        status = SIP_SERVICE_UNAVAILABLE if self.when_stale == REFUSE else 0
        return Answer(self.when_stale, "view_stale", f"the tenant's gate is not known to be so: {why}", status)
