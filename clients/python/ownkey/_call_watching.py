"""What both clients know of a watch of calls, without any I/O: which calls there are, and what was said of each."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterable

from ownkey import errors
from ownkey._exchange import sendable
from ownkey._watching import Tries
from ownkey.models import ASSET_CLASSES, CallChange, CallWatchEvent, WatchedCall
from ownkey.v1 import call_pb2, call_watch_pb2

# In one message: as many as the contract allows, and no more bytes than any server takes.
_TOGETHER, _BYTES_TOGETHER = 200, 256 * 1024
_DIRECTIONS = {"": 0} | {
    name.removeprefix("CALL_DIRECTION_").lower(): number for name, number in call_pb2.CallDirection.items() if number
}
_ACTIONS: dict[int, str] = {
    call_watch_pb2.CALL_ACTION_CONTINUE: "continue",
    call_watch_pb2.CALL_ACTION_STOP_RECORDING: "stop_recording",
    call_watch_pb2.CALL_ACTION_END: "end",
}

_PRINTABLE = re.compile("[!-~]+")
_ID = re.compile("(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)?")
_ANY = re.compile("[^\x00]*")
_FORMS = {
    _PRINTABLE: ", printable ASCII without spaces",
    _ID: ": lower-case letters, digits and hyphens",
    _ANY: ", none of them zero",
}
_FIELDS = (
    ("call_id", 1, 256, _PRINTABLE),
    ("callee", 1, 512, _ANY),
    ("caller", 0, 512, _ANY),
    ("user", 0, 256, _ANY),
    ("group", 0, 63, _ID),
    ("queue", 0, 256, _ANY),
    ("site", 0, 256, _ANY),
)


class CallWatching:
    """Where a watch of calls is. Calls may come and go from any thread, while another follows the stream.

    A stream that begins is told of all calls, each with what was last said of it, so that the service says what has
    become of them meanwhile, and nothing a second time.
    """

    def __init__(self, tenant: str, request_id: str, chance: Callable[[], float] = random.random) -> None:
        with sendable():
            self._empty = call_watch_pb2.WatchCallsRequest(tenant=tenant, request_id=request_id)
        self._tries = Tries(chance)
        self._lock = threading.Lock()
        # As the service is told of them. ``last_action`` is set from when it was told once.
        self._calls: dict[str, call_watch_pb2.WatchedCall] = {}
        # What the present stream is still to be told, in order; dictionaries for their order.
        self._to_add: dict[str, None] = {}
        self._to_end: dict[str, None] = {}
        self._opened = False
        self._heard = False

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, calls: Iterable[WatchedCall]) -> None:
        """Watch more calls, or calls with other facts.

        Raises:
            InvalidRequest: What is said of one cannot be; then none is added.
        """
        messages = [_message(call) for call in calls]
        with self._lock:
            for message in messages:
                if message.call_id in self._calls:
                    message.last_action = self._calls[message.call_id].last_action
                self._calls[message.call_id] = message
                self._to_add[message.call_id] = None

    def ended(self, call_ids: Iterable[str]) -> None:
        """Watch these calls no more; ids that are not watched count for nothing."""
        with self._lock:
            for call_id in call_ids:
                if self._calls.pop(call_id, None) is not None:
                    self._to_add.pop(call_id, None)
                    self._to_end[call_id] = None

    def begin(self) -> None:
        """A stream begins: it is told of everything."""
        with self._lock:
            self._tries.begin()
            self._to_add = dict.fromkeys(self._calls)
            self._to_end = {}
            self._opened = self._heard = False

    def request(self) -> call_watch_pb2.WatchCallsRequest | None:
        """The next message of the stream; None when there is nothing to say. The first has something to say always."""
        with self._lock:
            if self._opened and not self._to_add and not self._to_end:
                return None
            self._opened = True
            request = call_watch_pb2.WatchCallsRequest()
            request.CopyFrom(self._empty)
            while self._to_end and len(request.ended) < _TOGETHER:
                request.ended.append(_first(self._to_end))
            if self._to_end:
                # A call that ended and came again is told in that order.
                return request
            size = 0
            while self._to_add and len(request.add) < _TOGETHER and size < _BYTES_TOGETHER:
                message = self._calls[_first(self._to_add)]
                request.add.append(message)
                size += message.ByteSize()
                message.last_action = message.last_action or call_watch_pb2.CALL_ACTION_CONTINUE
            return request

    def events(self, message: call_watch_pb2.WatchCallsResponse) -> list[CallWatchEvent]:
        """What a message tells, of calls that are still watched."""
        found = []
        with self._lock:
            self._tries.heard()
            if not self._heard:
                self._heard = True
                found.append(CallWatchEvent("connected", message.calls))
            for one in message.changes:
                known = self._calls.get(one.call_id)
                # What this version does not know how to do is done by recording nothing.
                number = one.action if one.action in _ACTIONS else call_watch_pb2.CALL_ACTION_STOP_RECORDING
                if known is not None and known.last_action != number:
                    known.last_action = number
                    found.append(CallWatchEvent("change", message.calls, _change(one, _ACTIONS[number])))
        return found or ([] if message.changes else [CallWatchEvent("heartbeat", message.calls)])

    def failed(self, error: errors.OwnkeyError) -> tuple[CallWatchEvent, float]:
        """What a stream that ended means, and how many seconds to wait before the next.

        Raises:
            OwnkeyError: There is no sense in another.
        """
        pause = self._tries.failed(error)
        return CallWatchEvent("disconnected", len(self), cause=str(error)), pause


def _first(names: dict[str, None]) -> str:
    name = next(iter(names))
    del names[name]
    return name


def _message(call: WatchedCall) -> call_watch_pb2.WatchedCall:
    if call.direction not in _DIRECTIONS:
        raise errors.InvalidRequest(
            f"call {call.call_id!r}: there is no call direction {call.direction!r}; there are: "
            f"{', '.join(filter(None, _DIRECTIONS))}"
        )
    unknown = [name for name in call.stores if name not in ASSET_CLASSES]
    if unknown:
        raise errors.InvalidRequest(
            f"call {call.call_id!r}: there is no asset class {unknown[0]!r}; there are: {', '.join(ASSET_CLASSES)}"
        )
    with sendable():
        message = call_watch_pb2.WatchedCall(
            call_id=call.call_id,
            caller=call.caller,
            callee=call.callee,
            direction=call_pb2.CallDirection.ValueType(_DIRECTIONS[call.direction]),
            user=call.user,
            group=call.group,
            stores=[ASSET_CLASSES[name] for name in call.stores],
            queue=call.queue,
            site=call.site,
        )
    # The contract's rules: what one call breaks must not end the stream of all.
    for name, least, most, form in _FIELDS:
        value = getattr(message, name)
        if not least <= len(value.encode()) <= most or not form.fullmatch(value):
            raise errors.InvalidRequest(f"call {call.call_id[:80]!r}: {name} has {least} to {most} bytes{_FORMS[form]}")
    return message


def _change(one: call_watch_pb2.CallChange, action: str) -> CallChange:
    reason = call_pb2.CallReason.Name(one.reason) if one.reason in call_pb2.CallReason.values() else ""
    return CallChange(
        one.call_id, action, reason.removeprefix("CALL_REASON_").lower(), one.explanation, one.key, one.rule
    )
