"""Attacks with media streams: each ends with a status that says why, and what it held is given back."""

from __future__ import annotations

import struct
import time

import grpc
import pytest

from ownkey.v1 import key_service_pb2_grpc
from support.attacks import MIB, Process, eventually, honest_calls
from support.http2 import Answer, Connection, message
from support.rpc import asset, pb
from support.server import ServerProcess

# What the server uses, and how long the honest wait, says something only while nothing else runs.
pytestmark = pytest.mark.alone

ENCRYPT, DECRYPT = "/ownkey.v1.KeyService/EncryptMedia", "/ownkey.v1.KeyService/DecryptMedia"
GENERATE = "/ownkey.v1.KeyService/GenerateDataKey"
DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 4, 8
ENCRYPT_START = message(pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=asset())).SerializeToString())
DECRYPT_START = message(pb.DecryptMediaRequest(start=pb.DecryptMediaStart(asset=asset())).SerializeToString())


def chunk(data: bytes) -> bytes:
    return message(pb.EncryptMediaRequest(chunk=data).SerializeToString())


def encrypting(connection: Connection) -> int:
    """A stream that has begun."""
    stream = connection.open(ENCRYPT)
    connection.send(stream, ENCRYPT_START)
    assert connection.read_until(lambda: bool(connection.answers[stream].data)), connection.answers[stream]
    return stream


def why(answer: Answer) -> tuple[int | None, str, str]:
    reason, metadata, _ = answer.info
    return answer.status, reason, metadata["limit"]


@pytest.fixture(scope="module")
def recording(victim: ServerProcess) -> bytes:
    """An object of 2 MiB."""
    with grpc.insecure_channel(victim.address) as channel:
        requests = [pb.EncryptMediaRequest(start=pb.EncryptMediaStart(asset=asset()))]
        requests += [pb.EncryptMediaRequest(chunk=bytes(MIB)) for _ in range(2)]
        answers = key_service_pb2_grpc.KeyServiceStub(channel).EncryptMedia(iter(requests), timeout=20)
        return b"".join(answer.chunk for answer in answers)


def never_read(victim: ServerProcess, process: Process, recording: bytes) -> int:
    """Begin a hundred streams and read none of them, until all have ended; gives the most memory seen meanwhile."""
    most = 0
    with Connection(victim.address) as one, Connection(victim.address) as another:
        for attacker in (one, another):
            assert attacker.call("/ownkey.v1.KeyService/KeyStatus", b"").over
            # Room for the connection, and none for its streams beyond the first 64 KiB: they are never acknowledged.
            attacker.h2.increment_flow_control_window(64 * MIB)
            attacker.flush()
        answers: dict[Connection, list[Answer]] = {one: [], another: []}
        for number in range(100):
            attacker = one if number < 50 else another
            stream = attacker.open(DECRYPT if number % 2 else ENCRYPT)
            answers[attacker].append(attacker.answers[stream])
            content = recording if number % 2 else bytes(2 * MIB)
            attacker.send(stream, DECRYPT_START if number % 2 else ENCRYPT_START)
            attacker.send(stream, b"".join(chunk(content[at : at + MIB]) for at in range(0, len(content), MIB)))
            attacker.read(0.0001, acknowledge=False)
            most = max(most, process.resident())
        for attacker, own in answers.items():
            assert attacker.read_until(lambda own=own: all(answer.over for answer in own), 20, acknowledge=False)
    return most


def test_a_hundred_readers_that_never_read_are_ended_and_their_memory_serves_the_next(
    victim: ServerProcess, process: Process, recording: bytes
) -> None:
    before = process.resident()
    with honest_calls(victim.address) as honest:
        first = never_read(victim, process, recording) - before
        # What the allocator keeps is used again; what a stream kept would be gone for ever.
        second = never_read(victim, process, recording) - before
    print(f"{first / MIB:.0f} MiB more at most, {second / MIB:.0f} the second time; {honest}")
    assert first < 450 * MIB
    assert second < first + 150 * MIB


def test_a_reader_that_takes_its_status_in_time_learns_why(victim: ServerProcess) -> None:
    with honest_calls(victim.address), Connection(victim.address) as attacker:
        stream = encrypting(attacker)
        for _ in range(3):
            attacker.send(stream, chunk(bytes(300_000)))
        began = time.monotonic()
        attacker.read_until(lambda: time.monotonic() - began > 2, 10, acknowledge=False)
        attacker.h2.increment_flow_control_window(4 * MIB)
        attacker.h2.increment_flow_control_window(4 * MIB, stream)
        attacker.flush()
        answer = attacker.answers[stream]
        assert attacker.read_until(lambda: answer.over, acknowledge=False)
        assert why(answer) == (DEADLINE_EXCEEDED, "STREAM_LIMIT", "limits.stream_write_seconds")


def test_one_byte_a_second_ends(victim: ServerProcess) -> None:
    with honest_calls(victim.address) as honest, Connection(victim.address) as attacker:
        stream = encrypting(attacker)
        answer, began = attacker.answers[stream], time.monotonic()
        while not answer.over and time.monotonic() - began < 15:
            attacker.send(stream, chunk(b"x"))
            attacker.read_until(lambda: answer.over, 1.0)
        print(f"ended after {time.monotonic() - began:.1f} s; {honest}")
        assert why(answer) == (DEADLINE_EXCEEDED, "STREAM_LIMIT", "limits.stream_min_bytes_per_second")


@pytest.mark.parametrize("began", [False, True])
def test_a_stream_that_says_nothing_ends(victim: ServerProcess, began: bool) -> None:
    with Connection(victim.address) as attacker:
        stream = encrypting(attacker) if began else attacker.open(ENCRYPT)
        answer = attacker.answers[stream]
        assert attacker.read_until(lambda: answer.over)
        expected = {"limits.stream_idle_seconds", "limits.stream_min_bytes_per_second"}
        assert why(answer)[:2] == (DEADLINE_EXCEEDED, "STREAM_LIMIT")
        assert why(answer)[2] in expected


def test_a_million_tiny_chunks_are_cut_off(victim: ServerProcess, process: Process) -> None:
    tiny, before, processor = chunk(b"x"), process.resident(), process.cpu_seconds()
    with honest_calls(victim.address) as honest, Connection(victim.address) as attacker:
        stream = encrypting(attacker)
        answer = attacker.answers[stream]
        for _ in range(100):
            attacker.send(stream, tiny * 10_000)
            if answer.over:
                break
        assert attacker.read_until(lambda: answer.over)
        assert why(answer) == (RESOURCE_EXHAUSTED, "STREAM_LIMIT", "limits.stream_messages_per_mib")
    print(f"{process.cpu_seconds() - processor:.1f} s of processor; {honest}")
    assert process.resident() - before < 100 * MIB


@pytest.mark.parametrize(
    ("pause", "size", "expected"),
    [
        (0.02, 16_000, (DEADLINE_EXCEEDED, "STREAM_LIMIT", "limits.stream_seconds")),
        (0.0, 1_000_000, (RESOURCE_EXHAUSTED, "STREAM_LIMIT", "limits.stream_bytes")),
    ],
)
def test_a_stream_without_end_ends(
    victim: ServerProcess, process: Process, pause: float, size: int, expected: tuple[int, str, str]
) -> None:
    before = process.resident()
    with honest_calls(victim.address) as honest, Connection(victim.address) as attacker:
        stream = encrypting(attacker)
        answer, data, began = attacker.answers[stream], chunk(bytes(size)), time.monotonic()
        while not answer.over and time.monotonic() - began < 20:
            attacker.send(stream, data)
            attacker.read_until(lambda: answer.over, max(pause, 0.0001))
        print(f"ended after {time.monotonic() - began:.1f} s; {honest}")
        assert why(answer) == expected
    assert process.resident() - before < 100 * MIB


@pytest.mark.parametrize(
    ("path", "limit"), [(ENCRYPT, "limits.stream_idle_seconds"), (GENERATE, "limits.request_seconds")]
)
def test_messages_that_are_half_sent_are_not_held_for_long(
    victim: ServerProcess, process: Process, path: str, limit: str
) -> None:
    before = process.resident()
    with honest_calls(victim.address) as honest, Connection(victim.address) as attacker:
        attacker.call("/ownkey.v1.KeyService/KeyStatus", b"")
        streams = [attacker.open(path) for _ in range(20)]
        for stream in streams:
            attacker.send(stream, struct.pack(">BI", 0, 11 * MIB) + bytes(4 * MIB))
        most = process.resident() - before
        answers = [attacker.answers[stream] for stream in streams]
        assert attacker.read_until(lambda: all(answer.over for answer in answers)), answers
        allowed = {limit, "limits.stream_min_bytes_per_second"}
        assert all(why(answer)[:2] == (DEADLINE_EXCEEDED, "STREAM_LIMIT") for answer in answers)
        assert {why(answer)[2] for answer in answers} <= allowed
        assert eventually(lambda: process.resident() - before < most / 2 + 20 * MIB)
    print(f"{most / MIB:.0f} MiB more at most, {(process.resident() - before) / MIB:.0f} in the end; {honest}")
