"""How the places of a key are asked: in order of preference, within the caller's time, until one serves.

::

    out of order (outage, too busy, misconfigured)  -> the next place; out three times in a row: passed over for a while
    revoked, a bad ciphertext                       -> the end: nobody goes around a revocation
    out of order, and was revoked before that       -> the end: an outage does not undo a revocation
    misconfigured, which may be its holder's doing  -> the end: in doubt nobody goes around what may be a revocation
    late: an earlier question is still unanswered   -> the next place, if one is not late; the last resort otherwise

Each place gets a share of the time that is left, so that one which swallows questions leaves enough for the next.

With ``spread``, uses begin at the places by turns, while none of them is known to have been taken away. Only a success
there counts: whatever else a later place says, the walk begins at the first after all, as it would without.

With ``hedge``, opening does not wait for the first place to fail: when it has not answered for longer than it nearly
always takes, the next is asked as well, and the first answer counts. The other question goes on for what it shows of
its place, and what it opens is wiped. A revocation that the first place tells is the answer, whatever the next says
then; one that the next tells is the answer only if the first does not serve, as it would be without hedging.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import (
    KeyMisconfigured,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    OperationUnsupported,
    StoreMisconfigured,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, Replica
from ownkey_server.service.circuit_breaker import ASKED, Admission, CircuitBreaker, CircuitBreakers
from ownkey_server.service.hedging import LetGo, Raced, race
from ownkey_server.service.inquiries import Inquiries
from ownkey_server.service.key_store_calls import PASSED_OVER, Begin, KeyStoreCall, noted, unrecorded
from ownkey_server.service.latencies import Latencies
from ownkey_server.service.status_board import MAYBE_REVOKED, REVOKED_BEFORE, StatusBoard

T = TypeVar("T")

Ask = Callable[[Replica, float], Awaitable[T]]
"""Asks one place, which has so many seconds for it."""

# What leads to the next place. Anything else is an answer.
PASSABLE = (KeyUnreachable, KeyStoreThrottled, KeyMisconfigured)
# What may be about the key, or about this one use of it.
DENIALS = (KeyRevoked, KeyMisconfigured, OperationUnsupported)
# A question that is unanswered for so long makes its place late: others do not queue up behind it.
LATE_SECONDS = 0.25
# Who took this much of the time that it had gave no answer.
HANGS_FROM = 0.9


@dataclass(frozen=True, slots=True)
class Use(Generic[T]):
    """What a use of a key gave, and the replica that served; ``calls``: of all that were asked, where that is kept."""

    value: T
    replica: str
    calls: tuple[KeyStoreCall, ...] = ()


@dataclass(slots=True)
class Hedges:
    """How often a second place was asked before the first had answered, and how often it was the one that served."""

    begun: int = 0
    won: int = 0


class ReplicaWalk:
    """Asks places, and remembers which are out of order. Belongs to one event loop.

    Args:
        board: Where every answer leaves its evidence.
        inquiries: What is asked when a use was denied.
        looks: What is asked when a place seems out of order; the same when not given.
        timeout: Seconds that a place may take, and a use of a key whose caller does not say how long it waits.
        watched: Whether a place is passed over while it is out of order, or finds out about that by itself.
        doubtful: Whether a place that says that the key is misconfigured may have had it taken away: it cannot tell
            its holder's denial from a fault of ours.
        hedge: Whether the second place is asked early where nothing forbids it.
        spread: Whether uses begin at the places of a key by turns.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(
        self,
        board: StatusBoard,
        clock: Clock,
        inquiries: Inquiries,
        timeout: float,
        watched: Callable[[CustomerKey, Replica], bool],
        doubtful: Callable[[Replica], bool],
        *,
        looks: Inquiries | None = None,
        hedge: bool = False,
        spread: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._clock = clock
        self._inquiries = inquiries
        self._looks = looks or inquiries
        self._timeout = timeout
        self._watched = watched
        self._doubtful = doubtful
        self._hedge = hedge
        self._turns = itertools.count() if spread else None
        # When each question began that a place has not answered yet, the oldest first.
        self._unanswered: dict[tuple[str, str], dict[object, float]] = {}
        self._monotonic = monotonic
        self._breakers = CircuitBreakers(monotonic)
        self._latencies = Latencies()
        self._let_go: LetGo[Any] = LetGo()
        self.hedges = Hedges()

    async def first_that_serves(
        self,
        key: CustomerKey,
        ask: Ask[T],
        remaining: float | None,
        discard: Callable[[T], None] | None = None,
        begin: Begin = unrecorded,
    ) -> Use[T]:
        """What the first place gives that serves.

        Args:
            key: Whose places are asked.
            ask: Asks one.
            remaining: Seconds that the caller is still waiting, if it said so.
            discard: Wipes an answer that nobody takes. Without it no two places are asked at once.
            begin: Notes each place that is asked, or passed over, for the record of the use.

        Raises:
            KeyStoreError: None serves: that of the first place, or the one that ended the walk.
        """
        whole = self._timeout if remaining is None else remaining
        deadline = self._monotonic() + whole
        try:
            place = self._whose_turn(key)
            if place is not None:
                served = await self._by_turn(key, place, ask, whole, begin)
                if served is not None:
                    return served
                whole = deadline - self._monotonic()
            return await self._walk(key, ask, whole, deadline, discard if self._hedge else None, begin)
        except DENIALS:
            # Who is told that a key was taken away may ask for its state at once, and is to find it.
            await self._inquiries.settled(key, min(self._timeout, deadline - self._monotonic()))
            raise

    def noted(self, key: CustomerKey, place: Replica, state: KeyState) -> None:
        """Take note of what a probe has found in a place."""
        if state is KeyState.MISCONFIGURED and self._doubtful(place):
            self._board.suspect(key.name, place.name, self._clock())
        if state is KeyState.UNREACHABLE:
            if self._watched(key, place):
                breaker = self._breakers.of(key.name, place.name)
                admission = (breaker.enter() if breaker else None) or ASKED
                self._breakers.was_out(key.name, place.name, admission, alone=len(key.replicas) == 1)
        elif state is not KeyState.UNKNOWN:
            self._breakers.answered(key.name, place.name)

    async def close(self) -> None:
        """End what goes on for its evidence alone."""
        await self._let_go.close()

    def _whose_turn(self, key: CustomerKey) -> Replica | None:
        """The place whose turn it is, if that is not the first anyway."""
        if self._turns is None or len(key.replicas) == 1:
            return None
        if any(self._board.was_revoked(key.name, place.name) for place in key.replicas):
            return None
        usable = [place for place in key.replicas if self._is_prompt(key, place)]
        if not usable or usable[0] is not key.replicas[0]:
            return None  # the walk knows best when the first is to be tried again
        place = usable[next(self._turns) % len(usable)]
        return None if place is key.replicas[0] else place

    async def _by_turn(
        self, key: CustomerKey, place: Replica, ask: Ask[T], whole: float, begin: Begin
    ) -> Use[T] | None:
        """What a later place gives; None when it does not serve, whatever it says."""
        admission = self._enter(key, place)
        if admission is None:
            return None
        others = [other for other in key.replicas if other is not place]
        try:
            return Use(
                await self._attempt(key, place, ask, self._share(key, whole, others), admission, begin), place.name
            )
        except KeyStoreError:
            return None

    async def _walk(
        self,
        key: CustomerKey,
        ask: Ask[T],
        left: float,
        deadline: float,
        discard: Callable[[T], None] | None,
        begin: Begin,
    ) -> Use[T]:
        first: KeyStoreError | None = None
        asked = False
        places = key.replicas
        at = 0
        while at < len(places):
            if asked:
                left = deadline - self._monotonic()
                if left <= 0:
                    break
            place, others = places[at], places[at + 1 :]
            at += 1
            if self._is_late(key, place) and any(self._is_prompt(key, other) for other in others):
                begin(place.name).ended(PASSED_OVER)
                late: KeyStoreError = KeyUnreachable(
                    place.name, place.reference, f"it has not answered an earlier call for {LATE_SECONDS:g} s"
                )
                self._require_passable(key, place, late)
                first = first or late
                continue
            admission = self._enter(key, place)
            if admission is None:
                begin(place.name).ended(PASSED_OVER)
                error: KeyStoreError = self._passed_over(key, place)
            elif discard is not None and others and self._may_hedge(key, place, others[0]):
                asked = True
                limit = self._share(key, left, others[1:])
                raced = await self._race(key, (place, others[0]), ask, limit, admission, discard, begin)
                if raced.winner is not None:
                    number, value = raced.winner
                    return Use(value, places[at - 1 + number].name)
                first = first or raced.failure
                at += raced.asked - 1
                continue
            else:
                asked = True
                limit = self._share(key, left, others)
                try:
                    return Use(await self._attempt(key, place, ask, limit, admission, begin), place.name)
                except PASSABLE as caught:
                    error = caught
            self._require_passable(key, place, error)
            first = first or error
        if first is not None and not asked and len(places) > 1:
            return await self._try_the_soonest(key, ask, deadline, first, begin)
        raise first or KeyMisconfigured("", key.name, "it has no replica")

    async def _race(
        self,
        key: CustomerKey,
        places: tuple[Replica, Replica],
        ask: Ask[T],
        limit: float,
        admission: Admission,
        discard: Callable[[T], None],
        begin: Begin,
    ) -> Raced[T]:
        """Ask the first place, and the other when it is late."""

        def second() -> Coroutine[Any, Any, T] | None:
            # Once more, for either may have been taken away since.
            entered = self._enter(key, places[1]) if self._may_hedge(key, *places) else None
            if entered is None:
                return None
            self.hedges.begun += 1
            return self._attempt(key, places[1], ask, limit, entered, begin)

        def passable(number: int, error: BaseException) -> KeyStoreError | None:
            if not isinstance(error, PASSABLE):
                return None
            self._require_passable(key, places[number], error)
            return error

        patience = self._latencies.patience(key.name, places[0].name)
        first = self._attempt(key, places[0], ask, limit, admission, begin)
        raced = await race(first, second, patience, discard=discard, passable=passable, let_go=self._let_go)
        if raced.winner is not None and raced.winner[0]:
            self.hedges.won += 1
        return raced

    async def _try_the_soonest(
        self, key: CustomerKey, ask: Ask[T], deadline: float, first: KeyStoreError, begin: Begin
    ) -> Use[T]:
        """Every place is passed over: ask the one that is due next, if nobody is at that already."""
        breakers = [(self._breakers.of(key.name, place.name), place) for place in key.replicas]
        waiting = sorted(((one.seconds, n, one, place) for n, (one, place) in enumerate(breakers) if one is not None))
        for _, _, breaker, place in waiting:
            admission = breaker.enter(early=True)
            if admission is not None:
                limit = max(0.0, min(self._timeout, deadline - self._monotonic()))
                try:
                    return Use(await self._attempt(key, place, ask, limit, admission, begin), place.name)
                except PASSABLE as error:
                    self._require_passable(key, place, error)
                    raise
        raise first

    def _enter(self, key: CustomerKey, place: Replica) -> Admission | None:
        breaker = self._breakers.of(key.name, place.name)
        return ASKED if breaker is None else breaker.enter()

    def _usable(self, key: CustomerKey, place: Replica) -> bool:
        breaker = self._breakers.of(key.name, place.name)
        return breaker is None or breaker.admits()

    def _is_late(self, key: CustomerKey, place: Replica) -> bool:
        oldest = next(iter(self._unanswered.get((key.name, place.name), {}).values()), None)
        return oldest is not None and self._monotonic() - oldest > LATE_SECONDS

    def _is_prompt(self, key: CustomerKey, place: Replica) -> bool:
        taken = self._board.was_revoked(key.name, place.name)
        return not taken and self._usable(key, place) and not self._is_late(key, place)

    @contextlib.contextmanager
    def _question(self, key: CustomerKey, place: Replica) -> Iterator[None]:
        which, mark = (key.name, place.name), object()
        self._unanswered.setdefault(which, {})[mark] = self._monotonic()
        try:
            yield
        finally:
            del self._unanswered[which][mark]
            if not self._unanswered[which]:
                del self._unanswered[which]

    def _may_hedge(self, key: CustomerKey, place: Replica, other: Replica) -> bool:
        # The first: nobody goes around a revocation. The other: it would only deny what the first serves.
        taken = any(self._board.was_revoked(key.name, one.name) for one in (place, other))
        return not taken and self._usable(key, other)

    def _share(self, key: CustomerKey, left: float, others: Sequence[Replica]) -> float:
        """How long a place may take, when others could be asked after it."""
        after = sum(self._usable(key, other) for other in others)
        return max(0.0, min(self._timeout, left / (1 + after)))

    def _passed_over(self, key: CustomerKey, place: Replica) -> KeyUnreachable:
        breaker = self._breakers.of(key.name, place.name) or CircuitBreaker()
        wait = f"for another {breaker.seconds:.2g} s" if breaker.seconds else "while somebody else tries it"
        cause = f"it was out of order {breaker.outages} times in a row, and is not asked again {wait}"
        return KeyUnreachable(place.name, place.reference, cause)

    def _require_passable(self, key: CustomerKey, place: Replica, error: KeyStoreError) -> None:
        """End the walk at a place that had been taken away before it went out of order."""
        if self._board.was_revoked(key.name, place.name):
            why = REVOKED_BEFORE
            if isinstance(error, KeyMisconfigured):
                if isinstance(error, StoreMisconfigured) or len(key.replicas) == 1:
                    raise error  # it says all there is to say
                why = MAYBE_REVOKED
            raise type(error)(error.replica, error.key, f"{error.cause}; {why}", request_id=error.request_id) from error

    async def _attempt(
        self, key: CustomerKey, place: Replica, ask: Ask[T], limit: float, admission: Admission, begin: Begin
    ) -> T:
        """Ask one place, and keep what that shows."""
        began, moment = self._monotonic(), self._board.moment
        call, told = begin(place.name), False
        try:
            with self._question(key, place):
                value = await noted(call, ask(place, limit))
            told = True
            self._breakers.answered(key.name, place.name)
        except KeyUnreachable as error:
            told = True
            self._board.saw_error(key.name, error, self._clock())
            # Nobody is told of an outage by one failed call. One that hangs does so until its key store lets it go, and
            # so would whatever is asked beside it: then the next probe tells, in its own time.
            hung = self._monotonic() - began >= HANGS_FROM * limit
            if self._board.doubts(key.name, place.name) and not hung:
                self._looks.begin(key, place)
            if self._watched(key, place):
                self._breakers.was_out(key.name, place.name, admission, alone=len(key.replicas) == 1)
            raise
        except DENIALS as error:
            told = True
            self._breakers.answered(key.name, place.name)
            if isinstance(error, KeyRevoked) or (isinstance(error, KeyMisconfigured) and self._doubtful(place)):
                self._board.suspect(key.name, place.name, self._clock())
            self._inquiries.begin(key, place)
            raise
        finally:
            if not told:
                self._breakers.showed_nothing(key.name, place.name, admission)
        if self._board.wants_both_ways(key.name, place.name):
            # It wraps, or it opens. If the other was taken away, each success would give the key back until a denial.
            self._looks.begin(key, place)
        else:
            self._board.saw(key.name, place.name, KeyState.AVAILABLE, "", self._clock(), began=moment)
        if self._hedge:
            self._latencies.took(key.name, place.name, self._monotonic() - began)
        return value
