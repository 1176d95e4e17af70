"""What sightings of a key in one place amount to: how an outage is decided, and when a recovery is believed.

Two things are said of a place. What is so *now* decides whether calls are set up: an outage counts there once it is
confirmed, and its end at once. What is *told* to people (status, history, notifications) is the same, except that a
recovery is told when it has lasted, so that a key store which comes and goes sends nobody a message each time.

A deliberate act of the key's holder, and a fault in how we are let in, count at once in both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ownkey_server.domain.key_history import EvidenceKind
from ownkey_server.domain.key_state import KeyEvidence, KeyState

# A failure that nothing has confirmed for so long proves nothing about the next one.
DOUBT_FOR = timedelta(seconds=30)
# Failures of one kind that are further apart than this are two, and not one that many calls have met.
APART = timedelta(seconds=1)
# A place that has recovered so often in a short time must work the longer before it is told; up to this.
LONGEST_RECOVERY = timedelta(seconds=60)
RECOVERIES_NEEDED = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """What one use of a key, or one probe, has shown.

    Attributes:
        at: When (UTC).
        confirmed: Whether it counts by itself, as two failures of one probe do that were apart in time.
    """

    state: KeyState
    cause: str
    at: datetime
    kind: EvidenceKind
    ours: bool = False
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is held of a key in one place.

    Attributes:
        now: What is so now.
        kind: How that is known.
        told: What is told of it.
        since: Since when that is told (UTC).
        doubt: The first failure that nothing has confirmed yet, nor refuted.
        works_since: Since when it works again, though that is not told yet.
        successes: How often it has worked since.
        recovery: How long it must work before that is told.
        recovered_at: When a recovery was told last.
    """

    now: KeyEvidence
    kind: EvidenceKind
    told: KeyEvidence
    since: datetime
    doubt: Seen | None = None
    works_since: datetime | None = None
    successes: int = 0
    recovery: timedelta = timedelta(0)
    recovered_at: datetime | None = None

    @property
    def recovering(self) -> bool:
        """Whether it works, after an outage whose end is not told yet."""
        return self.works_since is not None


def judge(before: Judgement | None, seen: Seen, recovery: timedelta) -> Judgement:
    """What is held after one more sighting.

    Args:
        before: What was held; None when nothing was known.
        seen: What was seen.
        recovery: How long a key must work after an outage before that is told.
    """
    if seen.state is KeyState.UNREACHABLE:
        return _failed(before, seen, recovery)
    evidence = KeyEvidence(seen.state, seen.cause, seen.at, ours=seen.ours)
    if seen.state is KeyState.AVAILABLE and before is not None and before.told.state is KeyState.UNREACHABLE:
        return _recovering(before, evidence, seen.kind)
    since = before.since if before is not None and before.told.state is seen.state else seen.at
    recovered_at, longer = (before.recovered_at, before.recovery) if before else (None, recovery)
    return Judgement(evidence, seen.kind, evidence, since, recovery=longer, recovered_at=recovered_at)


def _failed(before: Judgement | None, seen: Seen, recovery: timedelta) -> Judgement:
    evidence = KeyEvidence(seen.state, seen.cause, seen.at)
    if before is not None and before.now.state is KeyState.UNREACHABLE:
        return replace(before, now=evidence, told=evidence, kind=seen.kind, doubt=None)
    doubt = before.doubt if before else None
    if doubt is not None and seen.at - doubt.at > DOUBT_FOR:
        doubt = None
    confirmed = seen.confirmed or (doubt is not None and (doubt.kind is not seen.kind or seen.at - doubt.at >= APART))
    if not confirmed:
        if before is not None:
            return replace(before, doubt=doubt or seen)
        unknown = KeyEvidence(KeyState.UNKNOWN, f"a first use of it failed ({seen.cause}), and is tried again", seen.at)
        return Judgement(unknown, seen.kind, unknown, seen.at, doubt=seen, recovery=recovery)
    if before is None:
        return Judgement(evidence, seen.kind, evidence, seen.at, recovery=recovery)
    if before.told.state is KeyState.UNREACHABLE:  # it worked meanwhile, and not for long enough
        return replace(before, now=evidence, told=evidence, kind=seen.kind, doubt=None, works_since=None, successes=0)
    longer = recovery
    if before.recovered_at is not None and seen.at - before.recovered_at < 10 * max(before.recovery, recovery):
        longer = min(2 * max(before.recovery, recovery), max(LONGEST_RECOVERY, recovery))
    return Judgement(evidence, seen.kind, evidence, seen.at, recovery=longer, recovered_at=before.recovered_at)


def _recovering(before: Judgement, evidence: KeyEvidence, kind: EvidenceKind) -> Judgement:
    at = evidence.observed_at
    works_since = before.works_since or at
    successes = before.successes + 1
    if successes >= RECOVERIES_NEEDED and at - works_since >= before.recovery:
        return Judgement(evidence, kind, evidence, at, recovery=before.recovery, recovered_at=at)
    return replace(before, now=evidence, kind=kind, doubt=None, works_since=works_since, successes=successes)
