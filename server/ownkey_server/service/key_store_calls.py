"""What key stores were asked for one use of a key, for its audit record: every place, not only the one that served.

A place may answer when the record is written already: it was hedged, or given up. What it says then is told once more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from ownkey_server.domain.errors import OwnkeyError

T = TypeVar("T")

OK, PASSED_OVER, UNDER_WAY, LEFT = "ok", "passed_over", "under_way", "left"
DETAIL = "key_store_calls"


class KeyStoreCall:
    """One place, and what came of asking it.

    Attributes:
        operation: What was asked: ``generate_data_key``, ``wrap``, ``unwrap`` or ``rewrap``.
        replica: Name of the place.
        result: ``ok``, the reason of the error, ``passed_over`` when it was not asked at all, ``under_way`` while it
            has not answered, ``left`` when its caller went away.
        request_id: The key store's own id of it; empty where there is none.
    """

    __slots__ = ("_ended", "operation", "replica", "request_id", "result")

    def __init__(self, operation: str, replica: str, ended: Callable[[KeyStoreCall], None]) -> None:
        self._ended = ended
        self.operation = operation
        self.replica = replica
        self.result = UNDER_WAY
        self.request_id = ""

    def ended(self, result: str, request_id: str = "") -> None:
        """It has answered, or is not waited for."""
        self.result, self.request_id = result, request_id
        self._ended(self)

    def described(self) -> Mapping[str, str]:
        """It as a record has it."""
        fields = {"operation": self.operation, "replica": self.replica, "result": self.result}
        return fields | ({"backend_request_id": self.request_id} if self.request_id else {})


Begin = Callable[[str], KeyStoreCall]
"""Notes that a place, by its name, is asked now."""


def unrecorded(replica: str) -> KeyStoreCall:
    """For what is no use of a customer's key for anybody's content."""
    return KeyStoreCall("", replica, lambda _: None)


class KeyStoreCalls:
    """The calls of one use. Belongs to one event loop.

    Args:
        late: Gets a call that ends after all was told.
    """

    def __init__(self, late: Callable[[KeyStoreCall], None]) -> None:
        self._late = late
        self._calls: list[KeyStoreCall] = []
        self._told = False

    def of(self, operation: str) -> Begin:
        """What notes calls of one operation."""

        def begin(replica: str) -> KeyStoreCall:
            call = KeyStoreCall(operation, replica, self._ended)
            self._calls.append(call)
            return call

        return begin

    def tell(self) -> list[KeyStoreCall]:
        """All calls, in the order in which they began, for a record; what ends from now on is late."""
        self._told = True
        return list(self._calls)

    def _ended(self, call: KeyStoreCall) -> None:
        if self._told and call.result != PASSED_OVER:
            self._late(call)


def as_detail(calls: list[KeyStoreCall]) -> Mapping[str, object]:
    """What a record says besides the one place in its own fields; nothing when there was no other."""
    return {DETAIL: [call.described() for call in calls]} if len(calls) > 1 else {}


async def noted(call: KeyStoreCall, answer: Awaitable[T]) -> T:
    """What a place answers, once that is noted."""
    try:
        value = await answer
    except OwnkeyError as error:
        call.ended(error.reason, getattr(error, "request_id", ""))
        raise
    except BaseException:
        call.ended(LEFT)
        raise
    call.ended(OK, getattr(value, "request_id", ""))
    return value
