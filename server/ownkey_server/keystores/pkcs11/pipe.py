"""What goes to the process of a module and comes back: calls in their order, and how long it has been in the first.

The process does them one after the other and answers each before it begins the next. So the first that has no answer is
the one that it is in; what was sent behind it has not begun, and its time begins when the one before it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ownkey_server.keystores.pkcs11.frames import Frames
from ownkey_server.keystores.pkcs11.messages import (
    MOST_NUMBERS,
    Answer,
    MessageBroken,
    Operation,
    Request,
    pack_request,
    unpack_answer,
    wipe,
)

_USES = (Operation.GENERATE, Operation.WRAP, Operation.UNWRAP, Operation.LOOK)
# Until a process is up and has answered once, it is given more time.
_ANSWERS_OF_A_START = 2


@dataclass(slots=True, eq=False)
class Call:
    """A request on its way, and where its answer is waited for.

    Attributes:
        request: What is asked; None for the word of a process that it is up.
        answer: Of it. Done without one when nobody waits any more.
        number: By which the process answers it.
    """

    request: Request | None
    answer: asyncio.Future[Answer]
    number: int = 0

    @property
    def may_be_sent_ahead(self) -> bool:
        """Whether nothing is left of it in the token, should it be done when nobody wants it any more, or twice."""
        return self.request is not None and self.request.login is None and self.request.operation in _USES


class Pipe:
    """Our end of the socket of one process. Belongs to the running event loop, which it reads in.

    Args:
        ours: The socket.
        patience: Seconds after which the call that the process is in counts as hung.
        start: The same for its start and its first call.
        on_answers: Called after one or more of the calls were answered.
        on_end: Called once when nothing comes any more: with what was wrong, or nothing when the socket has ended.
    """

    def __init__(
        self,
        ours: socket.socket,
        patience: float,
        start: float,
        on_answers: Callable[[], None],
        on_end: Callable[[str], None],
    ) -> None:
        ours.setblocking(False)
        self._socket = ours
        self._patience = patience
        self._start = start
        self._on_answers = on_answers
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        self._unsent = bytearray()
        self._calls: deque[Call] = deque()
        self._number = 0
        self._answers = 0
        self._in_first_since = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._loop.add_reader(ours.fileno(), self._read)

    @property
    def calls(self) -> tuple[Call, ...]:
        """Those without an answer, in their order."""
        return tuple(self._calls)

    @property
    def waits_for(self) -> int:
        """How many calls have no answer yet."""
        return len(self._calls)

    @property
    def is_fresh(self) -> bool:
        """Whether the process has not answered a request yet."""
        return self._answers < _ANSWERS_OF_A_START

    def send(self, call: Call) -> None:
        """Send a request behind those that have no answer yet; what is none is only waited for."""
        message = bytearray()
        if call.request is not None:
            self._number = call.number = self._number % (MOST_NUMBERS - 1) + 1
            message = pack_request(call.request, call.number)
        if not self._calls:
            self._in_first_since = time.monotonic()
        self._calls.append(call)
        self._look_in(self._limit)
        self._write(message)
        wipe(message)

    def close(self) -> list[Call]:
        """Close the socket, if it is open. Gives the calls that have no answer, and will have none from here."""
        if self._socket.fileno() < 0:
            return []
        if self._watch is not None:
            self._watch.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._frames.wipe()
        wipe(self._unsent)
        calls = list(self._calls)
        self._calls.clear()
        return calls

    @property
    def _limit(self) -> float:
        return self._start if self.is_fresh else self._patience

    def _write(self, message: bytearray) -> None:
        sent = 0
        if not self._unsent:
            try:
                sent = self._socket.send(message)
            except BlockingIOError:
                pass
            except OSError:
                return  # it has ended: that is seen in reading, after what it has still answered
        if sent < len(message):
            self._unsent += memoryview(message)[sent:]
            self._loop.add_writer(self._socket.fileno(), self._write_more)

    def _write_more(self) -> None:
        sent = len(self._unsent)
        with contextlib.suppress(OSError):
            sent = 0
            sent = self._socket.send(self._unsent)
        self._unsent[:sent] = bytes(sent)
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _read(self) -> None:
        try:
            count = self._socket.recv_into(self._frames.room())
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._on_end("")
            return
        self._frames.came(count)
        before = self._answers
        try:
            for number, body in self._frames.whole():
                self._answered(number, body)
        except MessageBroken as error:
            self._on_end(f"gave no sound answer ({error})")
            return
        if self._answers > before:
            self._on_answers()

    def _answered(self, number: int, body: memoryview) -> None:
        if not self._calls or self._calls[0].number != number:
            raise MessageBroken("it answers another request")
        answer = unpack_answer(body)
        call = self._calls.popleft()
        self._in_first_since = time.monotonic()
        self._answers += 1
        if self._answers == _ANSWERS_OF_A_START and self._watch is not None:
            # From now on it has less time.
            self._watch.cancel()
            self._watch = None
            self._look_in(self._limit)
        if call.answer.done():
            wipe(answer.data_key)
        else:
            call.answer.set_result(answer)

    def _look(self) -> None:
        """See whether it is still in good time; there is one timer for all calls, which seldom runs."""
        self._watch = None
        if self._calls and self._left() <= 0:
            # What it has answered may not have been heard of, when it is this loop that was held up.
            self._read()
        if not self._calls:
            return
        left = self._left()
        if left > 0:
            self._look_in(left)
        else:
            what = "start in time" if self._calls[0].request is None else "answer"
            self._on_end(f"did not {what}, and was killed")

    def _look_in(self, seconds: float) -> None:
        if self._watch is None:
            self._watch = self._loop.call_later(seconds, self._look)

    def _left(self) -> float:
        return self._in_first_since + self._limit - time.monotonic()
