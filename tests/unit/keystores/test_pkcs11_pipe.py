"""Calls to the process of a module: many on their way, each with its own answer, and time that is counted for one."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey_server.keystores.pkcs11.frames import Frames
from ownkey_server.keystores.pkcs11.messages import (
    HEADER_LENGTH,
    Answer,
    Login,
    MessageBroken,
    Operation,
    Request,
    number_of,
    pack_answer,
    pack_request,
    unpack_answer,
    unpack_request,
)
from ownkey_server.keystores.pkcs11.pipe import Call, Pipe

GENERATE = Request(Operation.GENERATE, "hsm", "token", "auto")


@dataclass
class Peer:
    """The other end, and what is told of this one."""

    theirs: socket.socket
    pipe: Pipe = field(init=False)
    ended: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def call(self, request: Request | None = GENERATE) -> Call:
        call = Call(request, asyncio.get_running_loop().create_future())
        self.pipe.send(call)
        return call

    def answer(self, call: Call) -> None:
        """Answer it with a data key that says whose answer it is."""
        self.theirs.sendall(pack_answer(Answer(data_key=bytearray(b"%032d" % call.number)), call.number))


@contextmanager
def piped(patience: float = 20.0, start: float = 20.0) -> Iterator[Peer]:
    ours, theirs = socket.socketpair()
    peer = Peer(theirs)
    peer.pipe = Pipe(ours, patience, start, lambda: None, peer.ended.set_result)
    with theirs:
        yield peer
        peer.pipe.close()


@contextmanager
def started(patience: float = 20.0) -> Iterator[Peer]:
    """One that has come up and answered its first call."""
    with piped(patience, start=60.0) as peer:
        for request in (None, GENERATE):
            peer.answer(peer.call(request))
        yield peer


async def test_each_call_gets_its_own_answer_however_many_are_on_their_way() -> None:
    with started() as peer:
        calls = [peer.call() for _ in range(8)]
        for call in calls:
            peer.answer(call)
        answers = await asyncio.gather(*(call.answer for call in calls))
        assert [bytes(answer.data_key) for answer in answers] == [b"%032d" % call.number for call in calls]


async def test_nobody_gets_the_answer_to_a_call_that_was_given_up() -> None:
    with started() as peer:
        given_up, next_one = peer.call(), peer.call()
        given_up.answer.cancel()
        for call in (given_up, next_one):
            peer.answer(call)
        assert bytes((await next_one.answer).data_key) == b"%032d" % next_one.number


async def test_an_answer_out_of_turn_is_none_and_ends_it() -> None:
    with started() as peer:
        calls = [peer.call() for _ in range(3)]
        for call in (calls[0], calls[2]):
            peer.answer(call)
        assert "another request" in await peer.ended
        await calls[0].answer
        assert peer.pipe.close() == calls[1:]


async def test_an_answer_that_nobody_asked_for_ends_it() -> None:
    with started() as peer:
        call = peer.call()
        for _ in range(2):
            peer.answer(call)
        assert "another request" in await peer.ended


async def test_what_was_answered_before_its_end_is_heard_of() -> None:
    with started() as peer:
        calls = [peer.call() for _ in range(3)]
        peer.answer(calls[0])
        peer.theirs.close()
        assert await peer.ended == ""
        await calls[0].answer
        assert peer.pipe.close() == calls[1:]


async def test_the_time_of_a_call_begins_when_the_one_before_it_is_answered() -> None:
    patience = 0.2
    with started(patience) as peer:
        first, second = peer.call(), peer.call()
        # A loop that is held up runs both timers at once, this one first: the answer is there when it is looked for.
        asyncio.get_running_loop().call_later(0.75 * patience, peer.answer, first)
        await first.answer
        answered = time.monotonic()
        assert await peer.ended == "did not answer, and was killed"
        assert time.monotonic() - answered >= 0.95 * patience
        assert peer.pipe.close() == [second]


async def test_an_answer_that_is_there_is_no_hang_when_it_is_our_loop_that_was_held_up() -> None:
    patience = 0.05
    with started(patience) as peer:
        call = peer.call()
        peer.answer(call)
        time.sleep(2 * patience)
        await call.answer
        assert not peer.ended.done()


async def test_a_start_and_the_first_call_have_more_time() -> None:
    with piped(patience=0.01, start=0.2) as peer:
        began = time.monotonic()
        peer.answer(peer.call(None))
        peer.call()
        assert await peer.ended == "did not answer, and was killed"
        assert time.monotonic() - began >= 0.19


async def test_one_that_does_not_come_up_is_said_not_to_have_started() -> None:
    with piped(start=0.01) as peer:
        peer.call(None)
        assert await peer.ended == "did not start in time, and was killed"


async def test_requests_that_the_socket_has_no_room_for_go_when_it_has() -> None:
    with started() as peer:
        calls = [peer.call(Request(Operation.GENERATE, "hsm", "token", "auto", aad=bytes(300_000))) for _ in range(3)]
        length = len(pack_request(calls[0].request or GENERATE))
        peer.theirs.setblocking(False)
        came = bytearray()
        skipped = len(pack_request(GENERATE))
        while len(came) < skipped + 3 * length:
            came += await asyncio.get_running_loop().sock_recv(peer.theirs, 1 << 16)
        for at, call in enumerate(calls):
            message = memoryview(came)[skipped + at * length :][:length]
            assert number_of(message[:HEADER_LENGTH]) == call.number
            assert unpack_request(message[HEADER_LENGTH:]) == call.request


@pytest.mark.parametrize("operation", Operation)
def test_only_what_leaves_nothing_in_a_token_is_sent_ahead(operation: Operation) -> None:
    loop = asyncio.new_event_loop()
    uses = {Operation.GENERATE, Operation.WRAP, Operation.UNWRAP, Operation.LOOK}
    for login in (None, Login(b"471100")):
        request = Request(operation, "hsm", "token", "auto", login=login)
        call = Call(request, loop.create_future())
        # A PIN above all: it is tried once.
        assert call.may_be_sent_ahead == (operation in uses and login is None)
    loop.close()


@given(st.lists(st.binary(max_size=60_000), max_size=6), st.integers(1, 50_000))
def test_messages_are_cut_out_of_a_stream_wherever_it_is_cut(keys: list[bytes], step: int) -> None:
    sent = b"".join(pack_answer(Answer(data_key=bytearray(key)), number) for number, key in enumerate(keys))
    frames, found = Frames(), []
    at = 0
    while at < len(sent):
        room = frames.room()
        count = min(step, len(room), len(sent) - at)
        assert count
        room[:count] = sent[at : at + count]
        room.release()
        at += count
        frames.came(count)
        found += [(number, bytes(unpack_answer(body).data_key)) for number, body in frames.whole()]
    assert found == list(enumerate(keys))


def test_what_was_read_is_wiped() -> None:
    frames = Frames()
    room = frames.room()
    message = pack_answer(Answer(data_key=bytearray(b"k" * 32)), 7)
    room[: 2 * len(message) - 1] = (message + message)[:-1]
    frames.came(2 * len(message) - 1)
    bodies = [len(body) for _, body in frames.whole()]
    assert bodies == [len(message) - HEADER_LENGTH]
    # What is left of the second is at the beginning now, and nothing of the first.
    assert bytes(room).count(b"k" * 32) == 1
    frames.wipe()
    assert b"k" not in bytes(room)


def test_garbage_is_told_before_it_is_waited_for() -> None:
    frames = Frames()
    frames.room()[:HEADER_LENGTH] = b"\xff" * HEADER_LENGTH
    frames.came(HEADER_LENGTH)
    with pytest.raises(MessageBroken, match="too many"):
        list(frames.whole())
