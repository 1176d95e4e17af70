from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.media_messages import chunk_of, chunk_prefix
from ownkey.v1 import key_service_pb2
from ownkey_server.rpc.media_messages import ChunkWriter, chunk_message

KINDS = [
    key_service_pb2.EncryptMediaRequest,
    key_service_pb2.EncryptMediaResponse,
    key_service_pb2.DecryptMediaRequest,
    key_service_pb2.DecryptMediaResponse,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 262_144, 2_097_151, 2_097_152])
def test_the_short_way_and_generated_code_agree_both_ways(kind: type, size: int) -> None:
    data = os.urandom(size)
    raw = kind(chunk=data).SerializeToString()
    assert chunk_prefix(size) + data == raw
    chunk = chunk_of(raw)
    assert chunk is not None
    assert chunk == data


@given(st.binary(max_size=64))
def test_whatever_the_short_way_reads_generated_code_reads_alike(raw: bytes) -> None:
    chunk = chunk_of(raw)
    if chunk is not None:
        message = key_service_pb2.EncryptMediaRequest.FromString(raw)
        assert message.chunk == chunk


def test_a_chunk_shares_the_memory_of_its_message() -> None:
    raw = chunk_message(b"x" * 1000)
    chunk = chunk_of(raw)
    assert chunk is not None
    assert chunk.obj is raw


def test_an_engine_is_given_its_input_even_when_it_will_write_nothing() -> None:
    taken = []

    def take(out: memoryview) -> int:
        taken.append(len(out))
        return 0

    assert ChunkWriter().message(0, take) is None
    assert len(taken) == 1


def test_one_buffer_makes_messages_of_any_size_one_after_the_other() -> None:
    writer = ChunkWriter()

    def fill(data: bytes) -> bytes | None:
        def write(out: memoryview) -> int:
            out[: len(data)] = data
            return len(data)

        return writer.message(len(data) + 5, write)

    for data in (b"a", b"b" * 300_000, b"c" * 200, b"d" * 300_001):
        assert fill(data) == key_service_pb2.EncryptMediaResponse(chunk=data).SerializeToString()
