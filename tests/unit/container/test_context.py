"""The encryption context: one form for one set of pairs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.container import ContainerError, HeaderInvalid, LimitExceeded, serialize_context
from ownkey.container.context import parse_context
from vectors.container.independent import context_bytes, lp16, u16

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
contexts = st.dictionaries(texts.filter(lambda key: key and not key.startswith("aws-crypto-")), texts, max_size=32)


@given(contexts, st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_does_not_matter(context: dict[str, str], order: random.Random) -> None:
    pairs = list(context.items())
    order.shuffle(pairs)
    assert serialize_context(dict(pairs)) == context_bytes(context)


@given(contexts)
def test_what_is_written_is_read(context: dict[str, str]) -> None:
    assert parse_context(serialize_context(context)) == context


@given(st.binary(max_size=60))
def test_only_the_one_form_is_read(raw: bytes) -> None:
    try:
        context = parse_context(raw)
    except HeaderInvalid:
        return
    assert context_bytes(context) == raw


def test_no_pairs_are_no_bytes() -> None:
    assert serialize_context({}) == b""
    assert parse_context(b"") == {}


def test_keys_are_sorted_by_their_bytes_not_by_their_letters() -> None:
    raw = serialize_context({"é": "1", "z": "2", "Z": "3", "\U0001f512": "4", "\uffee": "5"})
    order = ["Z", "z", "é", "\uffee", "\U0001f512"]
    assert list(parse_context(raw)) == order
    assert raw == u16(5) + b"".join(
        lp16(key.encode()) + lp16(value) for key, value in zip(order, (b"3", b"2", b"1", b"5", b"4"), strict=True)
    )


def test_values_may_be_empty_and_keys_may_not() -> None:
    assert serialize_context({"k": ""}) == u16(1) + lp16(b"k") + lp16(b"")
    with pytest.raises(HeaderInvalid, match="empty"):
        serialize_context({"": "value"})


@pytest.mark.parametrize("key", ["aws-crypto-public-key", "aws-crypto-", "aws-crypto-\u00e9"])
def test_the_formats_own_keys_are_not_written(key: str) -> None:
    with pytest.raises(HeaderInvalid, match="aws-crypto-"):
        serialize_context({key: "value"})


def test_32_pairs_are_the_most() -> None:
    pairs = {f"k{i}": "v" for i in range(33)}
    with pytest.raises(LimitExceeded, match="32 pairs"):
        serialize_context(pairs)
    del pairs["k0"]
    assert parse_context(serialize_context(pairs)) == pairs


def test_8192_bytes_are_the_most_with_all_lengths_counted() -> None:
    longest = {"k": "v" * (8192 - 2 - 2 - 1 - 2)}
    assert len(serialize_context(longest)) == 8192
    for context in ({"k": longest["k"] + "v"}, {"k" * 9000: ""}, {"k": "é" * 4100}, {"k": "v" * 70_000}):
        with pytest.raises(LimitExceeded, match="8192"):
            serialize_context(context)


@pytest.mark.parametrize("context", [{"\ud800": "v"}, {"k": "\udfff"}], ids=["key", "value"])
def test_what_has_no_utf_8_form_is_refused(context: dict[str, str]) -> None:
    with pytest.raises(HeaderInvalid, match="UTF-8"):
        serialize_context(context)


def test_an_error_does_not_repeat_the_values() -> None:
    for context in ({"k": "secret" * 9000}, {"k": "secret\ud800"}, {"aws-crypto-k": "secret"}):
        with pytest.raises(ContainerError) as caught:
            serialize_context(context)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
