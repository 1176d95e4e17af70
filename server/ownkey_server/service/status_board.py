"""What was last seen of every key. Answers come from memory; no question here reaches a key store."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ownkey_server.domain.errors import KeyStoreError, StoreMisconfigured
from ownkey_server.domain.key_state import STATE_OF_ERROR, KeyEvidence, KeyState, combine
from ownkey_server.domain.tenants import CustomerKey

_log = logging.getLogger(__name__)

MANY = 10_000
# Places whose revocation is remembered at once; who was found so the longest ago goes first.
MAX_REVOKED = 100_000
REVOKED_BEFORE = "it had been taken away when it last answered, and an outage does not give it back"
MAYBE_REVOKED = "its holder may have taken it away, so that no other place is asked"


@dataclass(frozen=True, slots=True)
class _Denial:
    """That a place counts as taken away: since when, and which of all sights of that was the latest."""

    since: datetime
    number: int


class StatusBoard:
    """The latest evidence about each replica of each key.

    Calls overlap. One that began before a revocation was seen, and ends after it, says what was so before: it undoes
    nothing. So whoever asks a key store takes :attr:`moment` first, and hands it in with what came of that.

    Args:
        max_age: Evidence older than this proves nothing any more: the key's state is then ``UNKNOWN``.
    """

    def __init__(self, max_age: timedelta) -> None:
        self._max_age = max_age
        self._evidence: dict[tuple[str, str], KeyEvidence] = {}
        self._notes: dict[tuple[str, str], str] = {}
        # Only a place's working again ends that it counts as taken away, neither outage nor time.
        self._revoked: OrderedDict[tuple[str, str], _Denial] = OrderedDict()
        self._denials = 0
        self._on_revocation: list[Callable[[str, str, str], None]] = []

    @property
    def moment(self) -> int:
        """The present moment, in the order of what is seen here: no clock, so that no two events are at the same."""
        return self._denials

    def on_revocation(self, tell: Callable[[str, str, str], None]) -> None:
        """Have ``tell`` called with the key, the replica and the cause whenever one is found to be taken away."""
        self._on_revocation.append(tell)

    def saw(
        self,
        key_name: str,
        replica: str,
        state: KeyState,
        cause: str,
        now: datetime,
        *,
        began: int,
        ours: bool = False,
    ) -> None:
        """Note what a use of the key has just shown.

        Args:
            key_name: Name of the key.
            replica: Name of the key store where it was used.
            state: What that says of the key there.
            cause: Why it is not available; empty when it is.
            now: The present time (UTC).
            began: The :attr:`moment` at which the use began.
            ours: Whether our own credentials or settings alone are at fault.
        """
        if state is KeyState.AVAILABLE and self._revoked:
            denial = self._revoked.get((key_name, replica))
            if denial is not None and denial.number > began:
                return
            self._revoked.pop((key_name, replica), None)
        before = self._evidence.get((key_name, replica))
        self._evidence[key_name, replica] = KeyEvidence(state, cause, now, ours=ours)
        if state is KeyState.REVOKED:
            self.suspect(key_name, replica, now)
            if before is None or before.state is not state:
                for tell in self._on_revocation:
                    tell(key_name, replica, cause)
        if before is None or before.state is not state:
            # However it was seen, by a probe or by traffic, the operator reads of every change exactly once.
            level = logging.INFO if state is KeyState.AVAILABLE else logging.WARNING
            _log.log(level, "key %s is %s in %s%s", key_name, state, replica, f": {cause}" if cause else "")

    def saw_error(self, key_name: str, error: KeyStoreError, now: datetime) -> None:
        """Note what a failed use of the key has shown, if it has shown anything."""
        state = STATE_OF_ERROR[type(error)]
        if state is not None:
            ours = isinstance(error, StoreMisconfigured)
            self.saw(key_name, error.replica, state, error.cause, now, began=self.moment, ours=ours)

    def saw_note(self, key_name: str, replica: str, note: str) -> None:
        """Note what the key's holder should know of it there although it works; empty when nothing."""
        if note:
            self._notes[key_name, replica] = note
        else:
            self._notes.pop((key_name, replica), None)

    def note_of(self, key_name: str, replica: str) -> str:
        """What :meth:`saw_note` noted last; empty when nothing."""
        return self._notes.get((key_name, replica), "")

    def suspect(self, key_name: str, replica: str, now: datetime) -> None:
        """A use of the key was denied there: until it works again, nobody may take an outage for a way around that.

        It is no evidence of the key's state: it may have been that use alone that was denied, or our own fault.
        """
        self._denials += 1
        place = key_name, replica
        before = self._revoked.get(place)
        self._revoked[place] = _Denial(before.since if before else now, self._denials)
        if len(self._revoked) > MAX_REVOKED:
            self._revoked.popitem(last=False)

    def was_revoked(self, key_name: str, replica: str) -> bool:
        """Whether the key was taken away there, and has not been seen to work since."""
        return (key_name, replica) in self._revoked

    def prune(self, now: datetime) -> None:
        """Let go of evidence that is too old to prove anything, once there is much of it."""
        if len(self._evidence) > MANY:
            self._evidence = {
                place: evidence
                for place, evidence in self._evidence.items()
                if now - evidence.observed_at <= self._max_age
            }
            self._notes = {place: note for place, note in self._notes.items() if place in self._evidence}

    def of_replica(self, key_name: str, replica: str, now: datetime, *, alone: bool = False) -> KeyEvidence | None:
        """What is known of the key in one replica: ``UNKNOWN`` when it is too long ago, None when there is nothing.

        Args:
            key_name: Name of the key.
            replica: Name of the place.
            now: The present time (UTC).
            alone: Whether the key has no other place, so that nothing need be said of those.
        """
        evidence = self._evidence.get((key_name, replica))
        if evidence is not None and now - evidence.observed_at > self._max_age:
            cause = f"no evidence since it was last seen {evidence.state}"
            evidence = KeyEvidence(KeyState.UNKNOWN, cause, evidence.observed_at)
        denial = self._revoked.get((key_name, replica)) if self._revoked else None
        revoked = denial.since if denial else None
        if revoked is None or (evidence is not None and evidence.state in (KeyState.AVAILABLE, KeyState.REVOKED)):
            return evidence
        if evidence is None:
            return KeyEvidence(KeyState.UNKNOWN, REVOKED_BEFORE, revoked, revoked)
        why = REVOKED_BEFORE
        if evidence.state is KeyState.MISCONFIGURED:
            why = "" if evidence.ours or alone else MAYBE_REVOKED
        cause = "; ".join(filter(None, (evidence.cause, why)))
        return replace(evidence, cause=cause, revoked_at=revoked)

    def of(self, key: CustomerKey, now: datetime) -> KeyEvidence | None:
        """What is known of the key as a whole; None when there is nothing."""
        alone = len(key.replicas) == 1
        return combine([(one.name, self.of_replica(key.name, one.name, now, alone=alone)) for one in key.replicas])
