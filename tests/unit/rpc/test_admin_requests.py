"""What the control plane takes, and that a request made to be wrong holds up nobody."""

from __future__ import annotations

import time

import pytest
from google.protobuf.message import Message

from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import asset_pb2, call_pb2, key_service_pb2, policy_pb2
from ownkey_server.rpc.contract import ADMIN_LIMITS, KEY_LIMITS, RequestParser, load_contract
from ownkey_server.rpc.errors import InvalidRequests

PARSER = RequestParser(load_contract(), ADMIN_LIMITS)


def violations(request: Message, parser: RequestParser = PARSER) -> list[str]:
    with pytest.raises(InvalidRequests) as caught:
        parser.parse(request.SerializeToString(), type(request))
    return [one.field for one in caught.value.violations]


def policy(rules: int, **fields: object) -> pb.CreatePolicyVersionRequest:
    made = [policy_pb2.PolicyRule(name=f"r{number}", use="deny", **fields) for number in range(rules)]  # type: ignore[arg-type]
    return pb.CreatePolicyVersionRequest(tenant="acme", policy=policy_pb2.Policy(rules=made))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (policy(1000, groups=["-"] * 1000), "policy.rules[0].groups[0]"),
        (policy(1000, users=[""] * 1000), "policy.rules[0].users[0]"),
        (pb.CreateGroupRequest(tenant="acme", group="g", users=[""] * 10_000), "users[0]"),
        (pb.SimulatePolicyRequest(tenant="acme", number=1, assets=[asset_pb2.Asset()] * 1000), "assets[0].tenant"),
        (policy(10_000, users=["u"] * 50), "policy.rules"),
    ],
)
def test_of_very_many_mistakes_the_first_is_told_at_once(request_: Message, field: str) -> None:
    began = time.process_time()
    assert violations(request_) == [field]
    assert time.process_time() - began < 5, "a violation of each entry takes a minute"


def test_of_some_mistakes_all_are_told() -> None:
    request = policy(3, users=["", "ok"], groups=["-"])
    found = violations(request)
    assert found == [f"policy.rules[{n}].{what}[0]" for n in range(3) for what in ("users", "groups")]


def test_what_the_rules_allow_at_most_is_taken() -> None:
    request = policy(1000, users=[f"u{n}" for n in range(800)])
    assert PARSER.parse(request.SerializeToString(), pb.CreatePolicyVersionRequest) is not None
    document = pb.ApplyTenantsRequest(document="#" * (4 * 1024 * 1024))
    assert PARSER.parse(document.SerializeToString(), pb.ApplyTenantsRequest) is not None


def test_a_request_that_is_too_large_as_a_whole_is_told_by_its_size() -> None:
    request = policy(1000, users=["u" * 256] * 30)
    assert request.ByteSize() > ADMIN_LIMITS.request
    assert violations(request) == [""]


def test_the_data_plane_keeps_its_own_limits() -> None:
    parser = RequestParser(load_contract(), KEY_LIMITS)
    request = key_service_pb2.UnwrapRequest(wrapped_key=b"x" * (KEY_LIMITS.request + 1))
    assert violations(request, parser) == ["wrapped_key"]
    stores = call_pb2.AuthorizeCallRequest(stores=[asset_pb2.ASSET_CLASS_PHONE_RECORDING] * 1000)
    assert violations(stores, parser) == ["stores"]


def test_the_first_mistake_is_told_wherever_it_stands() -> None:
    request = policy(300, users=["u"])
    request.policy.rules[299].users[0] = ""
    assert violations(request) == ["policy.rules[299].users[0]"]
