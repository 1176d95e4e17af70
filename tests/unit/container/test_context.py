from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.container import ContainerError, HeaderInvalid, LimitExceeded, serialize_context
from ownkey.container.context import parse_context
from vectors.container.independent import context_bytes


def test_pairs_are_sorted_by_the_bytes_of_their_keys() -> None:
    # In UTF-16 the second would come first.
    context = {"\uffee": "1", "\U0001f512": "2", "a": "3", "B": "4"}
    assert list(parse_context(serialize_context(context))) == ["B", "a", "\uffee", "\U0001f512"]


def test_no_pairs_are_no_bytes() -> None:
    assert serialize_context({}) == b""
    assert parse_context(b"") == {}


def test_the_bytes_are_the_published_ones() -> None:
    assert serialize_context({"b": "é", "a": ""}).hex() == "000200016100000001620002c3a9"


@given(st.dictionaries(st.text(min_size=1, max_size=30), st.text(max_size=60), max_size=32))
def test_what_is_written_is_read_again_and_is_what_others_write(context: dict[str, str]) -> None:
    raw = serialize_context(context)
    assert raw == context_bytes(context)
    assert parse_context(raw) == context


@given(st.binary(max_size=60))
def test_whatever_is_read_is_written_as_the_same_bytes(raw: bytes) -> None:
    try:
        context = parse_context(raw)
    except ContainerError:
        return
    assert context_bytes(context) == raw


def test_the_most_that_a_context_may_be_is_written_and_no_more() -> None:
    assert serialize_context({f"{i:02}": "x" for i in range(32)})
    with pytest.raises(LimitExceeded, match="32 pairs"):
        serialize_context({f"{i:02}": "x" for i in range(33)})
    assert len(serialize_context({"k": "x" * (8192 - 7)})) == 8192
    with pytest.raises(LimitExceeded, match="8192"):
        serialize_context({"k": "x" * (8192 - 6)})
    with pytest.raises(LimitExceeded, match="8192"):
        serialize_context({"k": "x" * 100_000})
    with pytest.raises(LimitExceeded, match="8192"):
        serialize_context({"a": "é" * 2048, "b": "é" * 2048})


@pytest.mark.parametrize("key", ["", "aws-crypto-public-key", "aws-crypto-"])
def test_keys_that_belong_to_the_format_are_not_written(key: str) -> None:
    with pytest.raises(HeaderInvalid):
        serialize_context({key: "x"})


@pytest.mark.parametrize("context", [{"\ud800": "x"}, {"x": "\udfff"}])
def test_strings_without_a_utf_8_form_are_not_written(context: dict[str, str]) -> None:
    with pytest.raises(HeaderInvalid, match="UTF-8"):
        serialize_context(context)


def test_larger_contexts_of_other_writers_are_read() -> None:
    context = {f"key-{i:03}": "value" for i in range(100)}
    assert parse_context(context_bytes(context)) == context
