"""How long places take to answer, in a few numbers each: what a hedged question waits for."""

from __future__ import annotations

from collections import OrderedDict, deque

# Answers that are remembered of a place, and how few say nothing yet.
WINDOW = 64
FEWEST = 8
PERCENT = 95
SHORTEST, LONGEST = 0.010, 1.0
MAX_PLACES = 10_000


class Latencies:
    """The latest answers of each place. Belongs to one event loop."""

    def __init__(self) -> None:
        self._places: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def took(self, key: str, place: str, seconds: float) -> None:
        """Note how long an answer took."""
        seen = self._places.get((key, place))
        if seen is None:
            seen = self._places[key, place] = deque(maxlen=WINDOW)
            if len(self._places) > MAX_PLACES:
                self._places.popitem(last=False)
        seen.append(seconds)

    def patience(self, key: str, place: str) -> float:
        """Seconds after which an answer is late: those within which 95 of 100 came, and the longest while few did."""
        seen = self._places.get((key, place), ())
        if len(seen) < FEWEST:
            return LONGEST
        return min(LONGEST, max(SHORTEST, sorted(seen)[len(seen) * PERCENT // 100]))
