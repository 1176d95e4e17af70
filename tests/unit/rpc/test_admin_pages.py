from __future__ import annotations

import pytest

from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import tenant_pb2
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.rpc import page_tokens, pages


def group(users: int, name: str = "g") -> tenant_pb2.Group:
    return tenant_pb2.Group(id=name, users=["u" * 250 for _ in range(users)])


def test_a_page_has_as_many_as_were_asked_for() -> None:
    assert len(pages.cut([group(1)] * 9, 4)) == 4
    assert len(pages.cut([group(1)] * 3, 4)) == 3
    assert pages.cut([], 4) == []


def test_a_page_ends_before_it_is_too_large_for_a_message() -> None:
    page = pages.cut([group(4000)] * 9, 9)
    assert 1 <= len(page) < 9
    assert sum(one.ByteSize() for one in page) <= pages.PAGE_BYTES


def test_what_is_too_large_for_a_page_is_a_page_of_its_own() -> None:
    large = group(20_000, "large")
    assert large.ByteSize() > pages.PAGE_BYTES
    assert pages.cut([large, group(1)], 9) == [large]
    assert pages.cut([group(1), large], 9) == [group(1)]


def test_no_more_is_converted_than_the_page_needs() -> None:
    made = []

    def convert(number: int) -> tenant_pb2.Group:
        made.append(number)
        return group(4000)

    page = pages.cut(map(convert, range(1000)), 1000)
    assert len(made) == len(page) + 1


def test_a_document_that_no_message_holds_is_to_be_asked_for_in_parts() -> None:
    assert pages.require_sendable("x") == "x"
    with pytest.raises(InvalidRequest, match="name fewer tenants"):
        pages.require_sendable("é" * (pages.DOCUMENT_BYTES // 2 + 1))


def test_a_token_holds_for_its_request_whatever_the_page_s_size() -> None:
    request = pb.ListGroupsRequest(tenant="acme", page_size=3)
    token = page_tokens.encode(request, "finance")
    again = pb.ListGroupsRequest(tenant="acme", page_size=500, page_token=token)
    assert page_tokens.decode(again, str, "") == "finance"
    assert page_tokens.decode(request, str, "start") == "start"


@pytest.mark.parametrize(
    "request_",
    [
        pb.ListGroupsRequest(tenant="umbrella"),
        pb.ListPolicyVersionsRequest(tenant="acme"),
        pb.ListTenantsRequest(),
    ],
)
def test_a_token_of_another_request_is_refused(request_: pb.ListGroupsRequest) -> None:
    request_.page_token = page_tokens.encode(pb.ListGroupsRequest(tenant="acme"), "finance")
    with pytest.raises(InvalidRequest, match="given for another request") as caught:
        page_tokens.decode(request_, str, "")
    assert caught.value.field == "page_token"


@pytest.mark.parametrize("token", ["x", "!!", "e30", "bnVsbA", "WzFd", "/" * 40, "W1tbW1tb" * 100])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        page_tokens.decode(pb.ListGroupsRequest(tenant="acme", page_token=token), str, "")
    assert caught.value.field == "page_token"


def test_a_cursor_goes_on_after_its_record() -> None:
    request = pb.ListAuditRecordsRequest(tenant="acme")
    assert page_tokens.decode_cursor(request) is None
    request.page_token = page_tokens.encode(request, [1_790_000_000_000_000, 2, 3])
    assert page_tokens.decode_cursor(request) == (1_790_000_000_000_000, 2, 3)
