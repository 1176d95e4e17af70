"""Who waits, tenants in turn, and how many each tenant has of something: what ``admission.py`` counts with."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Waiter(Protocol):
    """What can wait."""

    @property
    def tenant(self) -> str:
        """Whose it is."""

    @property
    def since(self) -> float:
        """When it began to wait, by a clock that is never set."""


W = TypeVar("W", bound=Waiter)


class FairQueue(Generic[W]):
    """A queue in which each tenant has a line of its own, and the lines take turns.

    So a tenant with a thousand calls in it delays another's single call by one call, and not by a thousand.
    """

    def __init__(self) -> None:
        # Tenants in the order of their turns. No line is empty.
        self._lines: OrderedDict[str, OrderedDict[W, None]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, waiter: W) -> None:
        """Put it at the end of its tenant's line."""
        self._lines.setdefault(waiter.tenant, OrderedDict())[waiter] = None
        self._size += 1

    def pop(self) -> W:
        """The oldest of the tenant whose turn it is."""
        return self._pop_of(next(iter(self._lines)))

    def pop_if(self, may: Callable[[str], bool]) -> W | None:
        """The same of the first tenant in turn that may go on; None when none may."""
        tenant = next(filter(may, self._lines), None)
        return None if tenant is None else self._pop_of(tenant)

    def _pop_of(self, tenant: str) -> W:
        line = self._lines[tenant]
        waiter, _ = line.popitem(last=False)
        self._size -= 1
        if line:
            self._lines.move_to_end(tenant)
        else:
            del self._lines[tenant]
        return waiter

    def discard(self, waiter: W) -> bool:
        """Take it out, wherever it stands; tells whether it was there."""
        line = self._lines.get(waiter.tenant)
        if line is None or waiter not in line:
            return False
        del line[waiter]
        self._size -= 1
        if not line:
            del self._lines[waiter.tenant]
        return True

    def oldest(self, most: int, until: float) -> list[W]:
        """At most so many that began to wait at that moment or before: of each line the oldest, lines in turn."""
        found: list[W] = []
        lines = deque(iter(line) for line in self._lines.values())
        while lines and len(found) < most:
            line = lines.popleft()
            waiter = next(line, None)
            if waiter is not None and waiter.since <= until:
                found.append(waiter)
                lines.append(line)
        return found

    def newest_to_go(self, tenant: str | None = None) -> W | None:
        """The newest of the longest line, so that there is room for another; None when the queue is empty.

        Args:
            tenant: Whose the other one is, if it stands in this queue too. When this tenant's own line is the longest,
                nobody need go for it: None.
        """
        longest = max(self._lines.values(), key=len, default=None)
        if longest is None or (tenant is not None and len(self._lines.get(tenant, ())) >= len(longest)):
            return None
        return next(reversed(longest))


class TenantCounts:
    """How many each tenant has, and all together. A tenant that has none takes no memory."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self.total = 0

    def of(self, tenant: str) -> int:
        """How many this tenant has."""
        return self._counts.get(tenant, 0)

    def add(self, tenant: str) -> None:
        """One more."""
        self._counts[tenant] = self._counts.get(tenant, 0) + 1
        self.total += 1

    def remove(self, tenant: str) -> None:
        """One less."""
        left = self._counts[tenant] - 1
        if left:
            self._counts[tenant] = left
        else:
            del self._counts[tenant]
        self.total -= 1
