from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.v1 import call_pb2
from ownkey_server.rpc import wire
from ownkey_server.rpc.contract import KEY_LIMITS

TENANT, CALLEE = 1, 4
PEEK = wire.Peek(TENANT, CALLEE)
MIB = 1024 * 1024
CALL = call_pb2.AuthorizeCallRequest(tenant="acme", call_id="c" * 256, caller="x" * 512, callee="911", stores=range(15))
RAW = CALL.SerializeToString()
# A field that the contract does not know, as small as a field can be.
JUNK = b"\x58\x01"
DEFECTS = [b"\xff" * 40, b"\x0f", b"\x00\x00", b"\x1a\x7fcut off", b"\x5b"]


def number_called(raw: bytes) -> tuple[str, str]:
    found = PEEK(raw)
    return found.text(TENANT), found.text(CALLEE)


def test_every_request_of_the_contract_is_read_whole() -> None:
    assert KEY_LIMITS.request <= wire.WHOLE
    assert number_called(RAW) == ("acme", "911")


@pytest.mark.parametrize("place", ["before", "after", "around"])
def test_unknown_fields_around_it_hide_no_honest_request(place: str) -> None:
    junk = JUNK * ((wire.WHOLE - len(RAW)) // len(JUNK) // 2)
    raw = {"before": junk * 2 + RAW, "after": RAW + junk * 2, "around": junk + RAW + junk}[place]
    assert len(raw) <= wire.WHOLE
    assert number_called(raw) == ("acme", "911")
    assert PEEK(raw).looked_at == 0, "the C parser reads it"


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("junk", [0, 40_000])
def test_what_stands_before_a_defect_is_read(defect: bytes, junk: int) -> None:
    raw = JUNK * junk + RAW + defect
    assert len(raw) <= wire.WHOLE
    assert number_called(raw) == ("acme", "911")
    assert PEEK(raw).looked_at <= wire.MAX_FIELDS


def test_a_callee_that_is_cut_off_or_no_utf_8_is_read_as_far_as_it_goes() -> None:
    assert number_called(b"\x0a\x04acme\x22\x7f911") == ("acme", "911")
    assert number_called(b"\x0a\x01\xff\x22\x05\xfc 911")[1] == "\ufffd 911"


@pytest.mark.parametrize(
    "field", [JUNK, b"\x40\x01", b"\x0a\x00", b"\x22\x00", b"\x22\x01a", b"\x5d\0\0\0\0", b"\x59" + b"\0" * 8]
)
@pytest.mark.parametrize("size", [wire.WHOLE // 2, wire.WHOLE + 1, 11 * MIB])
@pytest.mark.parametrize("defect", [b"", b"\xff" * 40])
def test_however_many_fields_there_are_few_are_looked_at_one_by_one(field: bytes, size: int, defect: bytes) -> None:
    raw = field * (size // len(field)) + defect
    found = PEEK(raw)
    assert found.looked_at <= wire.MAX_FIELDS
    assert (found.looked_at == 0) == (len(raw) <= wire.WHOLE and not defect)


def test_in_a_large_request_few_fields_are_looked_at_and_many_bytes_passed_over() -> None:
    long = call_pb2.AuthorizeCallRequest(
        tenant="acme", callee='"' + "x" * (10 * MIB) + '" <sip:911@x>'
    ).SerializeToString()
    tenant, callee = number_called(long)
    assert tenant == "acme"
    assert callee.endswith("<sip:911@x>")
    assert len(callee) <= wire.MAX_TEXT + 1
    before = call_pb2.AuthorizeCallRequest(caller="x" * (10 * MIB)).SerializeToString()
    assert number_called(before + RAW) == ("acme", "911")
    assert number_called(JUNK * MIB + RAW) == ("", ""), "nobody honest hides a call behind a million fields"


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_nothing_makes_it_fail(before: bytes, after: bytes) -> None:
    for raw in (before, before + RAW + after):
        assert all(isinstance(text, str) for text in number_called(raw))


@given(st.lists(st.tuples(st.sampled_from([TENANT, CALLEE, 9]), st.text(max_size=20)), max_size=20))
def test_the_last_one_counts_for_both_ways_of_reading(fields: list[tuple[int, str]]) -> None:
    raw = b"".join(bytes([number << 3 | 2, len(text.encode())]) + text.encode() for number, text in fields)
    last = {number: text for number, text in fields if number in (TENANT, CALLEE)}
    assert number_called(raw) == (last.get(TENANT, ""), last.get(CALLEE, ""))
    assert PEEK._one_by_one(raw).texts == last
