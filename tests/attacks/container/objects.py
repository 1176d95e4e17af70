"""Small objects to attack, and a reader that keeps all plaintext that was ever released."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import pytest

from ownkey.container import ContainerError, Decryptor, HeaderReader, Truncated
from vectors.container.independent import Writer

CONTENT = bytes(range(1, 57))  # three frames of 16 bytes, and one of 8


@dataclass
class Reading:
    """What came of reading an object."""

    released: bytearray = field(default_factory=bytearray)
    error: ContainerError | None = None
    finished: bool = False


def small(data_key: bytes | None = None) -> Writer:
    """Frames of 16 bytes, so that every byte can be tried."""
    return Writer(data_key or secrets.token_bytes(32), secrets.token_bytes(32))


def read(message: bytes, data_key: bytes, step: int = 1 << 20) -> Reading:
    """Read in pieces. Any exception but a ContainerError goes through, and fails the test."""
    reading = Reading()
    try:
        reader = HeaderReader()
        header = reader.feed(message)
        if header is None:
            raise Truncated("inside the header")
        rest = bytes(reader.rest)
        decryptor = Decryptor(header, data_key)
        for at in range(0, len(rest), step):
            reading.released += decryptor.update(rest[at : at + step])
        decryptor.finish()
        reading.finished = decryptor.finished
    except ContainerError as error:
        reading.error = error
    return reading


def assert_refused(message: bytes, data_key: bytes, *, may_release: bytes) -> ContainerError:
    """Refused however it is pushed, and nothing but ``may_release`` given before."""
    error = None
    for step in (1 << 20, 1, 13):
        reading = read(message, data_key, step)
        assert reading.error is not None, "it was accepted"
        assert not reading.finished
        assert may_release.startswith(reading.released), "plaintext went out that was not verified"
        if step == 1:
            assert reading.released == may_release
            error = reading.error
    assert error is not None
    return error


def expect_nothing_wrong(message: bytes, data_key: bytes, content: bytes) -> None:
    """The attacks mean nothing unless the object opens when it is left alone."""
    reading = read(message, data_key)
    if reading.error is not None or reading.released != content:
        pytest.fail(f"the object does not open as it is: {reading.error}")
