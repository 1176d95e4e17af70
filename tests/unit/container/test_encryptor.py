from __future__ import annotations

import array

import pytest

from ownkey.container import (
    Decryptor,
    EncryptedDataKey,
    EncryptionLimitExceeded,
    Encryptor,
    HeaderInvalid,
    LimitExceeded,
)
from ownkey.container.frames import MAX_FRAMES

FRAME = 4096
DATA_KEY = bytes(range(32))
ENTRY = EncryptedDataKey("test", b"key-1", b"wrapped")


def encryptor(**changes: object) -> Encryptor:
    arguments: dict[str, object] = {
        "encryption_context": {"ownkey:tenant": "acme"},
        "encrypted_data_keys": [ENTRY],
        "frame_length": FRAME,
    }
    return Encryptor(DATA_KEY, **(arguments | changes))  # type: ignore[arg-type]


def test_after_the_end_every_call_fails() -> None:
    one = encryptor()
    one.update(b"content")
    one.finish()
    for call in (
        one.finish,
        lambda: one.update(b""),
        lambda: one.update_into(b"x", bytearray(9999)),
        lambda: one.finish_into(bytearray(9999)),
    ):
        with pytest.raises(ValueError, match="finished"):
            call()


def test_a_buffer_that_is_too_small_is_refused_and_nothing_is_taken() -> None:
    one = encryptor()
    content = bytes(3 * FRAME)
    small = bytearray(one.output_size(len(content)) - 1)
    with pytest.raises(ValueError, match="room") as kept:
        one.update_into(content, small)
    body = one.update(content)
    small = bytearray(FRAME + 39)
    with pytest.raises(ValueError, match="room") as kept_too:
        one.finish_into(small)
    body += one.finish()
    decryptor = Decryptor(one.header, DATA_KEY)
    assert decryptor.update(body) == content
    assert kept.value is not kept_too.value


def test_an_error_that_somebody_keeps_does_not_lock_the_engine_s_buffer() -> None:
    one = encryptor()
    one.update(b"some")
    try:
        one.finish_into(bytearray(1))
    except ValueError as error:
        kept = error
    one.update(b" more")
    assert kept.__traceback__ is not None
    assert Decryptor(one.header, DATA_KEY).update(one.finish()) == b"some more"


def test_items_of_more_than_a_byte_count_as_their_bytes() -> None:
    one = encryptor()
    numbers = array.array("I", range(5000))
    body = one.update(memoryview(numbers)) + one.finish()
    assert Decryptor(one.header, DATA_KEY).update(body) == numbers.tobytes()


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_data_key_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Encryptor(bytes(length), encryption_context={"a": "b"}, encrypted_data_keys=[ENTRY])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_data_key_may_be_wiped_as_soon_as_the_engine_has_it(kind: type) -> None:
    data_key = bytearray(DATA_KEY)
    given = kind(data_key)
    one = Encryptor(given, encryption_context={"a": "b"}, encrypted_data_keys=[ENTRY])
    data_key[:] = bytes(32)
    assert Decryptor(one.header, DATA_KEY).update(one.update(b"content") + one.finish()) == b"content"


@pytest.mark.parametrize("frame_length", [0, 1, 2048, 4095, 4097, 5000, 1 << 23, 2**32, -4096])
def test_only_frame_lengths_of_the_profile_are_written(frame_length: int) -> None:
    with pytest.raises(LimitExceeded, match="power of two"):
        encryptor(frame_length=frame_length)


@pytest.mark.parametrize("exponent", range(12, 23))
def test_every_frame_length_of_the_profile_is_written(exponent: int) -> None:
    assert encryptor(frame_length=1 << exponent).header.frame_length == 1 << exponent


@pytest.mark.parametrize("count", [0, 9])
def test_only_1_to_8_wrapped_keys_are_written(count: int) -> None:
    with pytest.raises(LimitExceeded, match="1 to 8"):
        encryptor(encrypted_data_keys=[ENTRY] * count)
    assert len(encryptor(encrypted_data_keys=[ENTRY] * 8).header.encrypted_data_keys) == 8


def test_a_header_longer_than_readers_take_is_not_written() -> None:
    large = EncryptedDataKey("test", b"key", bytes(40_000))
    with pytest.raises(LimitExceeded, match="65536"):
        encryptor(encrypted_data_keys=[large, large])
    with pytest.raises(LimitExceeded, match="65,535"):
        encryptor(encrypted_data_keys=[EncryptedDataKey("test", b"key", bytes(65_536))])


def test_a_reserved_pair_is_not_written() -> None:
    with pytest.raises(HeaderInvalid, match="aws-crypto-"):
        encryptor(encryption_context={"aws-crypto-public-key": "x"})


def test_a_message_has_at_most_2_to_the_32_less_1_frames() -> None:
    """The last number is the final frame's, since as a regular frame's it would read as the final mark."""
    one = encryptor()
    one._number = MAX_FRAMES - 1
    last_regular = one.update(bytes(FRAME + 1))
    assert last_regular[:4] == b"\xff\xff\xff\xfe"
    with pytest.raises(EncryptionLimitExceeded, match="another"):
        one.update(bytes(FRAME))
    final = one.finish()
    assert final[:8] == b"\xff" * 8
    decryptor = Decryptor(one.header, DATA_KEY)
    decryptor._number = MAX_FRAMES - 1
    assert decryptor.update(last_regular + final) == bytes(FRAME + 1)
    decryptor.finish()


def test_the_header_does_not_change_with_what_the_caller_does_to_its_context() -> None:
    context = {"ownkey:tenant": "acme"}
    one = encryptor(encryption_context=context)
    context["ownkey:tenant"] = "other"
    assert one.header.encryption_context == {"ownkey:tenant": "acme"}


def test_nothing_secret_or_long_stands_in_a_repr() -> None:
    one = encryptor(encrypted_data_keys=[EncryptedDataKey("test", b"key", bytes(30_000))] * 2)
    assert DATA_KEY.hex() not in repr(one)
    assert one.header.message_id.hex() in repr(one.header)
    assert len(repr(one.header)) < 200
    assert len(repr(one.header.encrypted_data_keys)) < 200
