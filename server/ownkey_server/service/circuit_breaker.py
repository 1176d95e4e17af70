"""Places that are out of order are passed over for a while, so that nobody waits for what has just failed three times.

An outage is what counts: a place that answers is not out, whatever it answers. Who may not use the key there, or is
told to come later, learns that from the place itself.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

# Outages in a row after which a place is passed over.
OUTAGES = 3
# Seconds until it is tried again: the first time, and at most.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
# At most, where there is no other place: nobody gains by waiting longer to find that it works again.
LONGEST_PAUSE_ALONE = 2.0
# Places out of order that are remembered at once. One that is forgotten is asked again.
MAX_PLACES = 100_000


@dataclass(frozen=True, slots=True)
class Admission:
    """The permission to ask a place once.

    Attributes:
        trial: Whether it is the one question that finds out whether the place works again.
    """

    trial: bool


ASKED = Admission(trial=False)
TRIAL = Admission(trial=True)


class CircuitBreaker:
    """Whether one place may be asked.

    Args:
        longest: Seconds that it is passed over at most.
        monotonic: The present time of a clock that is never set.
        chance: A number from 0 to 1, at random, so that many processes do not try again at one moment.
    """

    def __init__(
        self,
        longest: float = LONGEST_PAUSE,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._longest = longest
        self._monotonic = monotonic
        self._chance = chance
        self.outages = 0
        self._pause = 0.0
        self._failed_at = 0.0
        self._due = 0.0
        self._trying = False

    @property
    def open(self) -> bool:
        """Whether the place is passed over, but for trials."""
        return self._pause > 0

    @property
    def seconds(self) -> float:
        """How long until the place may be tried again; 0 when it may be asked now."""
        return max(0.0, self._due - self._monotonic()) if self.open else 0.0

    def admits(self, *, early: bool = False) -> bool:
        """Whether it may be asked now.

        Args:
            early: There is nothing else to ask, so that the first pause is all that counts.
        """
        if not self.open:
            return True
        due = min(self._due, self._failed_at + FIRST_PAUSE) if early else self._due
        return not self._trying and self._monotonic() >= due

    def enter(self, *, early: bool = False) -> Admission | None:
        """Permission to ask it now, as :meth:`admits` says; its outcome must be told."""
        if not self.admits(early=early):
            return None
        if not self.open:
            return ASKED
        self._trying = True
        return TRIAL

    def answered(self) -> None:
        """It has answered: it is in order."""
        self.outages, self._pause, self._trying = 0, 0.0, False

    def was_out(self, admission: Admission) -> None:
        """It was out of order when it was asked. What was asked before it was known to be says nothing new."""
        now = self._monotonic()
        self.outages += 1
        if admission.trial:
            self._trying = False
        if self.open and not admission.trial:
            return
        if self.outages >= OUTAGES:
            self._pause = min(self._longest, 2 * self._pause or FIRST_PAUSE)
            self._failed_at = now
            self._due = now + self._pause * (0.5 + self._chance() / 2)

    def showed_nothing(self, admission: Admission) -> None:
        """Whether it works was not learnt."""
        if admission.trial:
            self._trying = False


class CircuitBreakers:
    """The breakers of all places that have failed lately, by key and place. Belongs to one event loop."""

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self._monotonic = monotonic
        self._chance = chance
        self._failing: OrderedDict[tuple[str, str], CircuitBreaker] = OrderedDict()

    def of(self, key: str, place: str) -> CircuitBreaker | None:
        """The breaker of a place of a key; None when it has not failed lately."""
        return self._failing.get((key, place))

    def answered(self, key: str, place: str) -> None:
        """The place has answered."""
        if self._failing:
            breaker = self._failing.pop((key, place), None)
            if breaker is not None:
                breaker.answered()

    def was_out(self, key: str, place: str, admission: Admission, *, alone: bool) -> None:
        """The place was out of order.

        Args:
            key: Name of the key.
            place: Name of the place.
            admission: By which it was asked.
            alone: Whether the key has no other place.
        """
        breaker = self._failing.get((key, place))
        if breaker is None:
            longest = LONGEST_PAUSE_ALONE if alone else LONGEST_PAUSE
            breaker = self._failing[key, place] = CircuitBreaker(longest, self._monotonic, self._chance)
            if len(self._failing) > MAX_PLACES:
                self._failing.popitem(last=False)
        breaker.was_out(admission)

    def showed_nothing(self, key: str, place: str, admission: Admission) -> None:
        """Whether the place works was not learnt."""
        breaker = self._failing.get((key, place))
        if breaker is not None:
            breaker.showed_nothing(admission)
