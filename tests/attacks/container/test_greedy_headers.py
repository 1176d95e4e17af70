"""Headers that ask for the moon get an error, and little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from attacks.container.objects import small
from ownkey.container import (
    ContainerError,
    Decryptor,
    EncryptedDataKey,
    Encryptor,
    HeaderReader,
    LimitExceeded,
    RangeDecryptor,
    ReaderLimits,
)
from vectors.container.independent import Writer, lp16, u16

ENTRY = b"".join(lp16(part) for part in (b"test", b"key-1", b"wrapped"))


def peak_while(run: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def changed(**fields: object) -> bytes:
    by = small()
    return Writer(by.data_key, by.message_id, **fields).header  # type: ignore[arg-type]


GREEDY = {
    "frames of 4 GiB": changed(raw_frame_length=2**32 - 1),
    "frames of 16 MiB and a byte": changed(raw_frame_length=2**24 + 1),
    "65,535 wrapped keys": changed(raw_entries=u16(65535) + ENTRY),
    "65,535 wrapped keys that are there": changed(raw_entries=u16(65535) + 65535 * (6 * b"\x00")),
    "17 wrapped keys": changed(raw_entries=u16(17) + 17 * ENTRY),
    "wrapped keys of 64 KiB": changed(raw_entries=u16(16) + 16 * (lp16(b"") + lp16(b"") + lp16(bytes(65535)))),
    "a context of 64 KiB": changed(raw_context=u16(1) + lp16(b"k") + lp16(bytes(65500))),
}


@pytest.mark.parametrize("message", GREEDY.values(), ids=GREEDY.keys())
def test_a_greedy_header_is_refused_in_little_memory(message: bytes) -> None:
    def read(step: int) -> None:
        reader = HeaderReader()
        for at in range(0, len(message), step):
            reader.feed(message[at : at + step])

    for step in (len(message), 100):
        tracemalloc.start()
        with pytest.raises(LimitExceeded):
            read(step)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20


def test_a_greedy_length_is_refused_before_its_bytes_are_waited_for() -> None:
    message = changed(raw_entries=u16(65535) + ENTRY)
    upto = message.index(u16(65535), 35) + 2
    with pytest.raises(LimitExceeded):
        HeaderReader().feed(message[:upto])


def test_a_frame_length_within_the_limits_takes_memory_only_as_bytes_come() -> None:
    by = small()
    greedy = Writer(by.data_key, by.message_id, frame_length=1 << 24)
    header = HeaderReader().feed(greedy.header)
    assert header is not None

    def read() -> None:
        decryptor = Decryptor(header, by.data_key)
        decryptor.update(bytes(3) + b"\x01" + bytes(1000))
        RangeDecryptor(header, by.data_key, object_size=1 << 50).stream(1 << 40)

    assert peak_while(read) < 1 << 20


def test_stricter_limits_hold_for_header_and_frames() -> None:
    by = small()
    message = by.message(b"x" * 40)
    with pytest.raises(LimitExceeded):
        HeaderReader(limits=ReaderLimits(frame_length=15)).feed(message)
    with pytest.raises(LimitExceeded):
        HeaderReader(limits=ReaderLimits(encrypted_data_keys=0)).feed(message)
    with pytest.raises(LimitExceeded):
        HeaderReader(limits=ReaderLimits(header_length=len(by.header) - 1)).feed(message)
    header = HeaderReader(limits=ReaderLimits(header_length=len(by.header))).feed(message)
    assert header is not None
    with pytest.raises(LimitExceeded):
        Decryptor(header, by.data_key, limits=ReaderLimits(frame_length=15))
    with pytest.raises(LimitExceeded):
        RangeDecryptor(header, by.data_key, object_size=len(message), limits=ReaderLimits(frame_length=15))


def test_an_object_larger_than_any_is_refused_by_its_size() -> None:
    by = small()
    header = HeaderReader().feed(by.header)
    assert header is not None
    with pytest.raises(ContainerError):
        RangeDecryptor(header, by.data_key, object_size=1 << 62)


def test_a_long_object_is_read_and_written_in_the_memory_of_a_frame() -> None:
    data_key = bytes(32)
    piece = bytes(10_000)

    def stream() -> None:
        encryptor = Encryptor(
            data_key,
            encryption_context={"ownkey:tenant": "acme"},
            encrypted_data_keys=[EncryptedDataKey("test", b"key-1", b"wrapped")],
            frame_length=65_536,
        )
        decryptor = Decryptor(encryptor.header, data_key)
        total = 0
        for _ in range(3000):
            total += len(decryptor.update(encryptor.update(piece)))
        total += len(decryptor.update(encryptor.finish()))
        decryptor.finish()
        assert total == 3000 * len(piece)

    assert peak_while(stream) < 10 * 65_536
