"""How fast a token wraps and unwraps: in the child, one session; in the parent, several children at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ownkey_server.hsm.check.bench import CONTEXT, Bench
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.hsm.check.steps.use import subjects
from ownkey_server.hsm.check.verdicts import Speed, Spread

_DATA_KEY = bytes(32)
_WARM_UP = 5
# Enough for a p99, and not so many that they weigh.
_MOST_TIMES = 5000
_SECONDS_BETWEEN_SIGNS = 0.5


@dataclass(frozen=True, slots=True)
class Times:
    """What one session did.

    Attributes:
        pairs: How many data keys it wrapped and unwrapped again.
        seconds: In how long.
        wrap: How long wraps took, in milliseconds, or a part of them taken evenly.
        unwrap: How long unwraps took.
    """

    pairs: int
    seconds: float
    wrap: Sequence[float]
    unwrap: Sequence[float]

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """What a child told.

        Raises:
            ValueError: It makes no sense.
        """
        try:
            wrap, unwrap = ([float(one) for one in fields[name]] for name in ("wrap", "unwrap"))
            times = cls(int(fields["pairs"]), float(fields["seconds"]), wrap, unwrap)
        except (KeyError, TypeError) as error:
            raise ValueError(str(error)) from error
        if times.pairs < 1 or not times.seconds > 0 or not (wrap and unwrap):
            raise ValueError("nothing was measured")
        return times


class Runner:
    """One session that wraps and unwraps, made ready before the others start.

    Args:
        bench: With a token that works.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        # A named key where there is one: it may lie elsewhere in an HSM than a key of the session.
        self._way, self._label = next((way, label) for way in bench.ways() for label in subjects(bench, way))
        for _ in range(_WARM_UP):
            bench.unwrap(self._label, self._wrap(), CONTEXT)

    def run(self, seconds: float, notes: Notes) -> dict[str, Any]:
        """Wrap and unwrap for so long."""
        wrap, unwrap = [], []
        began = signed = time.perf_counter()
        end = began + seconds
        now = began
        while now < end:
            wrapped = self._wrap()
            middle = time.perf_counter()
            self._bench.unwrap(self._label, wrapped, CONTEXT)
            done = time.perf_counter()
            wrap.append((middle - now) * 1000)
            unwrap.append((done - middle) * 1000)
            if done - signed > _SECONDS_BETWEEN_SIGNS:
                notes.alive("measuring")
                signed = done
            now = time.perf_counter()
        return {"pairs": len(wrap), "seconds": now - began, "wrap": _thinned(wrap), "unwrap": _thinned(unwrap)}

    def _wrap(self) -> Any:
        return self._bench.wrap(self._label, _DATA_KEY, CONTEXT, self._way)


def together(times: Sequence[Times]) -> Speed:
    """What all sessions of one run did together."""
    return Speed(
        sessions=len(times),
        pairs_per_second=sum(one.pairs / one.seconds for one in times),
        wrap=_spread([each for one in times for each in one.wrap]),
        unwrap=_spread([each for one in times for each in one.unwrap]),
    )


def _thinned(values: list[float]) -> list[float]:
    step = -(-len(values) // _MOST_TIMES) or 1
    return [round(one, 4) for one in values[::step]]


def _spread(values: list[float]) -> Spread:
    ranked = sorted(values)
    return Spread(ranked[len(ranked) // 2], ranked[min(len(ranked) - 1, len(ranked) * 99 // 100)], ranked[-1])
