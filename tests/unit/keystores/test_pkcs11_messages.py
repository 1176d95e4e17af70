"""What goes between a server and the process of a module: it comes back as it was, and garbage is told as such."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.errors import CiphertextInvalid, KeyExists, KeyMisconfigured, KeyRevoked, KeyUnreachable
from ownkey_server.keystores.pkcs11.messages import (
    HEADER_LENGTH,
    LONGEST,
    LONGEST_CAUSE,
    Answer,
    Login,
    LoginOutcome,
    MessageBroken,
    Operation,
    Request,
    Worked,
    length_of,
    pack_answer,
    pack_request,
    unpack_answer,
    unpack_request,
)

texts = st.text(max_size=40)
names = texts.filter(lambda text: "\n" not in text and text)
blobs = st.binary(max_size=80)
wrapped_keys = st.builds(EncryptedDataKey, texts, blobs, blobs)
entries = st.none() | wrapped_keys
proofs = st.lists(wrapped_keys, max_size=3).map(tuple)
histories = st.none() | st.builds(Worked, blobs, st.frozensets(names, min_size=1, max_size=3), proofs)
requests = st.builds(
    Request,
    operation=st.sampled_from(Operation),
    store=texts,
    token=texts,
    mechanism=texts,
    reference=texts,
    aad=blobs,
    data_key=blobs,
    wrapped=entries,
    worked=histories,
    history=st.integers(0, 2**32 - 1),
    login=st.none() | st.builds(Login, blobs, st.booleans(), st.booleans()),
    exportable_keys=st.booleans(),
)
kinds = st.sampled_from([KeyRevoked, KeyUnreachable, KeyMisconfigured, KeyExists, CiphertextInvalid])
answers = st.builds(
    Answer,
    data_key=st.builds(bytearray, blobs),
    wrapped=entries,
    worked=histories,
    error=st.none() | st.tuples(kinds, texts),
    login=st.sampled_from(LoginOutcome),
    login_needed=st.booleans(),
    unsettled=st.integers(0, 10_000),
    unknown_in=blobs,
)


@given(requests)
def test_a_request_comes_as_it_was_sent(request_: Request) -> None:
    message = pack_request(request_)
    assert length_of(message[:HEADER_LENGTH]) == len(message) - HEADER_LENGTH
    assert unpack_request(memoryview(message)[HEADER_LENGTH:]) == request_


@given(answers)
def test_an_answer_comes_as_it_was_sent(answer: Answer) -> None:
    message = pack_answer(answer)
    assert length_of(message[:HEADER_LENGTH]) == len(message) - HEADER_LENGTH
    assert unpack_answer(memoryview(message)[HEADER_LENGTH:]) == answer


@given(answers, st.data())
def test_a_message_with_other_bytes_is_another_answer_or_none(answer: Answer, data: st.DataObject) -> None:
    message = pack_answer(answer)[HEADER_LENGTH:]
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] ^= data.draw(st.integers(1, 255))
    del message[data.draw(st.integers(0, len(message))) :]
    with contextlib.suppress(MessageBroken):
        assert isinstance(unpack_answer(memoryview(message)), Answer)


@given(st.binary(max_size=200))
def test_garbage_is_no_message(garbage: bytes) -> None:
    for unpack in (unpack_answer, unpack_request):
        with pytest.raises(MessageBroken):
            unpack(memoryview(garbage))


def test_a_length_beyond_all_messages_is_not_waited_for() -> None:
    assert length_of(LONGEST.to_bytes(4, "big") + bytes(4)) == LONGEST
    with pytest.raises(MessageBroken):
        length_of((LONGEST + 1).to_bytes(4, "big") + bytes(4))


def test_a_cause_is_no_longer_than_a_status_can_carry() -> None:
    message = pack_answer(Answer(error=(KeyUnreachable, "x" * 100_000)))[HEADER_LENGTH:]
    assert unpack_answer(memoryview(message)).error == (KeyUnreachable, "x" * LONGEST_CAUSE)


@pytest.mark.parametrize(
    "name", ["OwnkeyError", "KeyStoreError", "Exception", "PolicyDenied", "KeyRevoked2", "annotations"]
)
def test_an_error_that_no_key_store_makes_is_none(name: str) -> None:
    message = pack_answer(Answer(error=(KeyRevoked, "taken")))[HEADER_LENGTH:]
    for before, after in (
        (len("KeyRevoked").to_bytes(4, "big"), len(name).to_bytes(4, "big")),
        (b"KeyRevoked", name.encode()),
    ):
        assert message.count(before) == 1
        message = message.replace(before, after)
    with pytest.raises(MessageBroken, match="error"):
        unpack_answer(memoryview(message))


def test_neither_pin_nor_data_key_is_shown() -> None:
    login = Login(b"471100")
    request = Request(Operation.WRAP, "hsm", "token", "auto", data_key=b"k" * 32, login=login)
    for shown in (repr(login), repr(request), repr(Answer(data_key=bytearray(b"k" * 32)))):
        assert "471100" not in shown
        assert "kkkk" not in shown
