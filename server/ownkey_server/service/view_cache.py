"""What is loaded from the database when first needed, kept in a bounded cache, and never older than allowed.

The feed of changes says when this knowledge was last known to be whole. While the database is away that moment falls
back; up to the set age the last view serves, and beyond it nothing does.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Generic, TypeVar

from ownkey_server.domain.errors import DatabaseUnavailable, ViewStale

T = TypeVar("T")
A = TypeVar("A")

LOAD_SECONDS = 5.0
MAX_ABSENT = 1000


class _View(Generic[T]):
    """A value, when it was last asked for, and whether it was changed since it was loaded."""

    __slots__ = ("stale", "used", "value")

    def __init__(self, value: T, used: float) -> None:
        self.value = value
        self.used = used
        self.stale = False


class ViewCache(Generic[T]):
    """Values by id. Belongs to one event loop.

    Args:
        load: Asks the database for one; None when there is none.
        executor: Where loading waits for the database.
        capacity: How many are kept; whoever was not asked for the longest goes first.
        max_age: Seconds without word from the database after which nothing is decided any more.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(
        self,
        load: Callable[[str], T | None],
        executor: Executor,
        *,
        capacity: int,
        max_age: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = load
        self._executor = executor
        self._capacity = capacity
        self._max_age = max_age
        self._monotonic = monotonic
        self._views: OrderedDict[str, _View[T]] = OrderedDict()
        # Ids of nothing, apart from the values: whoever asks for many of them drives nobody out.
        self._absent: OrderedDict[str, None] = OrderedDict()
        self._loading: dict[str, asyncio.Task[T | None]] = {}
        # What changed while it was being loaded.
        self._overtaken: set[str] = set()
        self._whole_at = float("-inf")

    @property
    def age(self) -> float:
        """Seconds since the views were last known to be whole."""
        return self._monotonic() - self._whole_at

    @property
    def size(self) -> int:
        """How many are kept."""
        return len(self._views)

    def knows(self, one: str) -> bool:
        """Whether the next question for it needs no database."""
        view = self._views.get(one)
        return one in self._absent or (view is not None and not view.stale)

    async def get(self, one: str) -> T | None:
        """The value of that id; None when there is none.

        Raises:
            ViewStale: What is known of it is too old.
            DatabaseUnavailable: It is not known yet, and the database does not answer.
        """
        if not self.knows(one):
            return await self._load_once(one)
        now = self._monotonic()
        if now - self._whole_at > self._max_age:
            raise ViewStale(one, now - self._whole_at)
        view = self._views.get(one)
        if view is None or one in self._absent:
            return None
        view.used = now
        self._views.move_to_end(one)
        return view.value

    def last_known(self, one: str) -> T | None:
        """The value as it was last seen, however long ago."""
        view = self._views.get(one)
        return view.value if view else None

    def used(self, within: float) -> Iterator[T]:
        """What was asked for within so many seconds, the latest first."""
        now = self._monotonic()
        for view in reversed(self._views.values()):
            if now - view.used > within:
                break
            yield view.value

    def forget(self, one: str) -> None:
        """Load it anew when it is asked for next. Until then, :meth:`last_known` alone gives its last view."""
        view = self._views.get(one)
        if view is not None:
            view.stale = True
        self._absent.pop(one, None)
        if one in self._loading:
            self._overtaken.add(one)

    def forget_all(self) -> None:
        """Load everything anew when it is asked for next."""
        for view in self._views.values():
            view.stale = True
        self._absent.clear()
        self._overtaken.update(self._loading)

    def whole(self, at: float) -> None:
        """All changes up to that monotonic time are taken note of."""
        self._whole_at = max(self._whole_at, at)

    async def on_thread(self, question: Callable[[], A]) -> A:
        """Ask the database something, within bounded time.

        Raises:
            DatabaseUnavailable: It does not answer.
        """
        return await on_thread(self._executor, question)

    async def _load_once(self, one: str) -> T | None:
        """However many ask at once, the database is asked once."""
        task = self._loading.get(one)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._load_whole(one))
            self._loading[one] = task
            # Whoever asked may have stopped waiting; what became of it is told to whoever asks next.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _load_whole(self, one: str) -> T | None:
        try:
            while True:
                self._overtaken.discard(one)
                value = await self.on_thread(lambda: self._source(one))
                if one not in self._overtaken:
                    break
        finally:
            del self._loading[one]
        # Kept only while changes to it will be heard of; otherwise it serves this once.
        if self.age <= self._max_age:
            if value is None:
                self._views.pop(one, None)
                self._absent[one] = None
            else:
                self._views[one] = _View(value, self._monotonic())
                self._views.move_to_end(one)
            for kept, most in ((self._views, self._capacity), (self._absent, MAX_ABSENT)):
                while len(kept) > most:
                    kept.popitem(last=False)
        return value


async def on_thread(executor: Executor, question: Callable[[], A], seconds: float | None = None) -> A:
    """Ask the database something on a thread, and wait so many seconds for it.

    Raises:
        DatabaseUnavailable: It does not answer.
    """
    seconds = LOAD_SECONDS if seconds is None else seconds
    asked = asyncio.get_running_loop().run_in_executor(executor, question)
    try:
        # Not wait_for: until Python 3.12 it loses a cancellation that comes together with the answer, and whoever is
        # ended at that moment then goes on for ever.
        async with asyncio.timeout(seconds):
            return await asked
    except TimeoutError:
        raise DatabaseUnavailable(f"no answer within {seconds:g} s") from None
