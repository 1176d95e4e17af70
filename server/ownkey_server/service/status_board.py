"""What was last seen of every key. Answers come from memory; no question here reaches a key store."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ownkey_server.domain.call_gates import MAX_GRACE
from ownkey_server.domain.canaries import EXCHANGED
from ownkey_server.domain.errors import KeyStoreError, StoreMisconfigured
from ownkey_server.domain.key_history import WHOLE, EvidenceKind, PlaceState
from ownkey_server.domain.key_judgement import Judgement, Seen, judge
from ownkey_server.domain.key_state import STATE_OF_ERROR, KeyEvidence, KeyState, combine
from ownkey_server.domain.tenants import CustomerKey

_log = logging.getLogger(__name__)

MANY = 10_000
GRACE_AT_MOST = timedelta(seconds=MAX_GRACE)
# Places whose revocation is remembered at once; who was found so the longest ago goes first.
MAX_REVOKED = 100_000
REVOKED_BEFORE = "it had been taken away when it last answered, and an outage does not give it back"
MAYBE_REVOKED = "its holder may have taken it away, so that no other place is asked"


Changed = Callable[[str, str], None]
"""Called with a key and a replica of which something was seen."""


@dataclass(frozen=True, slots=True)
class _Denial:
    """That a place counts as taken away: since when, and which of all sights of that was the latest.

    ``shared``: the number of the shared change by which all instances hold it to be so; 0 when this one alone does.
    """

    since: datetime
    number: int
    shared: int = 0


class StatusBoard:
    """The latest evidence about each replica of each key.

    Calls overlap. One that began before a revocation was seen, and ends after it, says what was so before: it undoes
    nothing. So whoever asks a key store takes :attr:`moment` first, and hands it in with what came of that.

    Args:
        max_age: Evidence older than this proves nothing any more: the key's state is then ``UNKNOWN``.
        recovery: How long a key must work after an outage before that is told.
    """

    def __init__(self, max_age: timedelta, recovery: timedelta = timedelta(0)) -> None:
        self._max_age = max_age
        self._recovery = recovery
        self._judged: dict[tuple[str, str], Judgement] = {}
        # The number of the last shared change that was taken note of here.
        self._known = 0
        self._notes: dict[tuple[str, str], str] = {}
        # When a place was last seen working, for the grace of call gates.
        self._worked: dict[tuple[str, str], datetime] = {}
        # Only a place's working again ends that it counts as taken away, neither outage nor time.
        self._revoked: OrderedDict[tuple[str, str], _Denial] = OrderedDict()
        self._denials = 0
        # Places where another key stands by the same name: that uses of it succeed says nothing against that.
        self._exchanged: set[tuple[str, str]] = set()
        self._on_revocation: list[Callable[[str, str, str], None]] = []
        self._on_sight: list[Changed] = []
        self._on_change: list[Changed] = []

    @property
    def max_age(self) -> timedelta:
        """Evidence older than this proves nothing any more."""
        return self._max_age

    @property
    def moment(self) -> int:
        """The present moment, in the order of what is seen here: no clock, so that no two events are at the same."""
        return self._denials

    def on_revocation(self, tell: Callable[[str, str, str], None]) -> None:
        """Have ``tell`` called with the key, the replica and the cause whenever one is found to be taken away."""
        self._on_revocation.append(tell)

    def on_sight(self, tell: Changed) -> None:
        """Have ``tell`` called whenever this process itself has seen something of a key."""
        self._on_sight.append(tell)

    def on_change(self, tell: Changed) -> None:
        """Have ``tell`` called whenever what is so, or told, of a key in a place has changed, whoever saw it."""
        self._on_change.append(tell)

    @property
    def known(self) -> int:
        """The number of the last shared change that was taken note of."""
        return self._known

    def knows(self, number: int) -> None:
        """All shared changes up to that number are taken note of."""
        self._known = max(self._known, number)

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
        kind: EvidenceKind = EvidenceKind.TRAFFIC,
        confirmed: bool = True,
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
            kind: How it was seen.
            confirmed: Whether it counts by itself: an outage that is not counts when something else confirms it.
        """
        if state is KeyState.AVAILABLE and self._revoked:
            denial = self._revoked.get((key_name, replica))
            if denial is not None and denial.number > began:
                return
            self._revoked.pop((key_name, replica), None)
        if state is KeyState.AVAILABLE and kind is EvidenceKind.TRAFFIC and (key_name, replica) in self._exchanged:
            return
        seen = Seen(state, cause, now, kind, ours, confirmed)
        before = self._judged.get((key_name, replica))
        self._hold(key_name, replica, judge(before, seen, self._recovery), now)
        for tell in self._on_sight:
            tell(key_name, replica)

    def apply(self, shared: PlaceState, now: datetime, *, own: bool = False) -> None:
        """Take note of what all instances hold of a place. What was seen here, and later, stands.

        A revocation counts whenever it was seen. It is undone by word of another instance only if that has seen the
        key work after this very revocation was known to it.

        Args:
            shared: What they hold.
            now: The present time (UTC).
            own: Whether it was this instance that saw it.
        """
        place = shared.key, shared.replica
        if shared.replica == WHOLE:
            return
        held = self._judged.get(place)
        observed_at = min(shared.observed_at, now)
        denial = self._revoked.get(place)
        if own:
            return
        if shared.state is KeyState.AVAILABLE:
            if denial is not None and not 0 < denial.shared < shared.revision:
                return
            if held is not None and held.now.observed_at >= observed_at:
                return
            self._revoked.pop(place, None)
        elif held is not None and shared.state is not KeyState.REVOKED and held.now.observed_at >= observed_at:
            return
        self.exchanged(*place, found=shared.cause == EXCHANGED)
        evidence = KeyEvidence(shared.state, shared.cause, observed_at, ours=shared.ours)
        if shared.state is KeyState.REVOKED or shared.revoked_at is not None:
            self._take_away(place, shared.revoked_at or shared.since, shared.revision)
        recovered_at = held.recovered_at if held else None
        recovery = held.recovery if held else self._recovery
        judged = Judgement(
            evidence, EvidenceKind.SHARED, evidence, shared.since, recovery=recovery, recovered_at=recovered_at
        )
        self._hold(shared.key, shared.replica, judged, now)

    def exchanged(self, key_name: str, replica: str, *, found: bool) -> None:
        """Note whether the key there is another by the same name, as its canary shows."""
        if found:
            self._exchanged.add((key_name, replica))
        else:
            self._exchanged.discard((key_name, replica))

    def is_shared(self, key_name: str, replica: str, number: int) -> None:
        """All instances hold by that number what this one has seen: its being taken away, if that is what it was."""
        place = key_name, replica
        denial = self._revoked.get(place)
        if denial is not None:
            self._revoked[place] = replace(denial, shared=max(denial.shared, number))

    def judged(self, key_name: str, replica: str) -> Judgement | None:
        """What is held of a key in one place, however old; None when nothing is known."""
        return self._judged.get((key_name, replica))

    def wants_both_ways(self, key_name: str, replica: str) -> bool:
        """Whether one use that succeeds shows nothing there: what does not work may be the other way alone."""
        held = self._judged.get((key_name, replica))
        return held is not None and held.now.state in (KeyState.REVOKED, KeyState.MISCONFIGURED)

    def doubts(self, key_name: str, replica: str) -> bool:
        """Whether a failure was seen there that nothing has confirmed yet, nor refuted."""
        held = self._judged.get((key_name, replica))
        return held is not None and held.doubt is not None

    def _hold(self, key_name: str, replica: str, judged: Judgement, now: datetime) -> None:
        before = self._judged.get((key_name, replica))
        self._judged[key_name, replica] = judged
        if judged.now.state is KeyState.AVAILABLE:
            self._worked[key_name, replica] = judged.now.observed_at
        state, cause = judged.now.state, judged.now.cause
        was = before.now.state if before else None
        if state is KeyState.REVOKED:
            if judged.kind is not EvidenceKind.SHARED:
                self.suspect(key_name, replica, now)
            if was is not state:
                for tell in self._on_revocation:
                    tell(key_name, replica, cause)
        if was is not state:
            # However it was seen, by a probe or by traffic, the operator reads of every change exactly once.
            level = logging.INFO if state is KeyState.AVAILABLE else logging.WARNING
            _log.log(level, "key %s is %s in %s%s", key_name, state, replica, f": {cause}" if cause else "")
        if was is not state or (before and before.told.state) is not judged.told.state:
            for told in self._on_change:
                told(key_name, replica)

    def _take_away(self, place: tuple[str, str], since: datetime, shared: int) -> None:
        before = self._revoked.get(place)
        if before is not None and before.shared >= shared:
            return
        self._denials += 1
        self._revoked[place] = _Denial(before.since if before else since, self._denials, shared)
        if len(self._revoked) > MAX_REVOKED:
            self._revoked.popitem(last=False)

    def saw_error(
        self,
        key_name: str,
        error: KeyStoreError,
        now: datetime,
        kind: EvidenceKind = EvidenceKind.TRAFFIC,
    ) -> None:
        """Note what a failed use of the key has shown, if it has shown anything."""
        state = STATE_OF_ERROR[type(error)]
        if state is not None:
            ours = isinstance(error, StoreMisconfigured)
            self.saw(
                key_name,
                error.replica,
                state,
                error.cause,
                now,
                began=self.moment,
                ours=ours,
                kind=kind,
                confirmed=False,
            )

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
        shared = before.shared if before else 0
        self._revoked[place] = _Denial(before.since if before else now, self._denials, shared)
        if len(self._revoked) > MAX_REVOKED:
            self._revoked.popitem(last=False)

    def was_revoked(self, key_name: str, replica: str) -> bool:
        """Whether the key was taken away there, and has not been seen to work since."""
        return (key_name, replica) in self._revoked

    def prune(self, now: datetime) -> None:
        """Let go of evidence that is too old to prove anything, once there is much of it."""
        if len(self._judged) > MANY:
            self._judged = {
                place: judged for place, judged in self._judged.items() if now - judged.now.observed_at <= self._max_age
            }
            self._worked = {place: at for place, at in self._worked.items() if now - at <= GRACE_AT_MOST}
            self._notes = {place: note for place, note in self._notes.items() if place in self._judged}

    def of_replica(
        self, key_name: str, replica: str, now: datetime, *, alone: bool = False, told: bool = False
    ) -> KeyEvidence | None:
        """What is known of the key in one replica: ``UNKNOWN`` when it is too long ago, None when there is nothing.

        Args:
            key_name: Name of the key.
            replica: Name of the place.
            now: The present time (UTC).
            alone: Whether the key has no other place, so that nothing need be said of those.
            told: What is told of it, rather than what is so: the end of an outage is told when it has lasted.
        """
        judged = self._judged.get((key_name, replica))
        evidence = None if judged is None else judged.now
        if judged is not None and told and judged.told.state is not judged.now.state:
            evidence = replace(judged.told, observed_at=judged.now.observed_at)
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

    def of(self, key: CustomerKey, now: datetime, *, told: bool = False) -> KeyEvidence | None:
        """What is known of the key as a whole; None when there is nothing. ``told`` as for :meth:`of_replica`."""
        alone = len(key.replicas) == 1
        return combine(
            [(one.name, self.of_replica(key.name, one.name, now, alone=alone, told=told)) for one in key.replicas]
        )

    def last_worked(self, key: CustomerKey) -> datetime | None:
        """When the key was last seen working, in whatever place (UTC); None when it never was."""
        return max(filter(None, (self._worked.get((key.name, one.name)) for one in key.replicas)), default=None)
