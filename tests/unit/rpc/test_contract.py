from __future__ import annotations

import importlib
import re
from pathlib import Path

import protovalidate
import pytest
from google.protobuf import descriptor_pb2

from ownkey import frame_lengths
from ownkey.v1 import asset_pb2, call_pb2, call_watch_pb2, error_reason_pb2, key_service_pb2, key_state_pb2
from ownkey_server.domain.assets import AssetClass, AssetOrigin
from ownkey_server.domain.call_gates import CallDirection
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.patterns import in_words
from ownkey_server.domain.policy import Effect
from ownkey_server.rpc import convert
from ownkey_server.rpc.contract import CALLS_LIMITS, KEY_LIMITS, RequestParser, load_contract
from ownkey_server.rpc.errors import InvalidRequests
from ownkey_server.rpc.media_streams import MAX_CHUNK
from ownkey_server.service.call_gate import CallDecision, CallReason

PROTOS = Path(__file__).resolve().parents[3] / "protos" / "ownkey" / "v1"


def test_the_vendored_rules_are_those_of_the_installed_package() -> None:
    installed = importlib.import_module("protovalidate._gen.buf.validate.validate_pb")
    theirs = descriptor_pb2.FileDescriptorProto.FromString(installed.desc().proto.to_binary())
    ours = descriptor_pb2.FileDescriptorProto()
    load_contract().FindFileByName("buf/validate/validate.proto").CopyToProto(ours)
    assert protovalidate
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


def test_the_client_stubs_carry_no_rules_and_need_no_rules_file() -> None:
    for stub in (asset_pb2, error_reason_pb2, key_service_pb2, key_state_pb2):
        assert b"buf.validate" not in stub.DESCRIPTOR.serialized_pb
        assert b"buf/validate" not in stub.DESCRIPTOR.serialized_pb


def test_stubs_and_contract_have_the_same_fields() -> None:
    contract = load_contract()
    for stub in (asset_pb2, error_reason_pb2, key_service_pb2, key_state_pb2):
        for name, message in stub.DESCRIPTOR.message_types_by_name.items():
            full = contract.FindMessageTypeByName(f"ownkey.v1.{name}")
            assert [(f.name, f.number, f.type) for f in full.fields] == [
                (f.name, f.number, f.type) for f in message.fields
            ]


def members(enum: object, prefix: str) -> set[str]:
    return {name.removeprefix(prefix).lower() for name, number in enum.items() if number}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("theirs", "prefix", "ours"),
    [
        (asset_pb2.AssetClass, "ASSET_CLASS_", AssetClass),
        (asset_pb2.AssetOrigin, "ASSET_ORIGIN_", AssetOrigin),
        (key_state_pb2.KeyState, "KEY_STATE_", KeyState),
        (key_service_pb2.PolicyDecision, "POLICY_DECISION_", Effect),
        (call_pb2.CallDirection, "CALL_DIRECTION_", CallDirection),
        (call_pb2.CallDecision, "CALL_DECISION_", CallDecision),
        (call_pb2.CallReason, "CALL_REASON_", CallReason),
    ],
)
def test_an_enum_of_the_contract_and_ours_have_the_same_members(theirs: object, prefix: str, ours: type) -> None:
    assert members(theirs, prefix) == {member.value for member in ours}  # type: ignore[attr-defined]


def test_every_enum_member_is_converted() -> None:
    assert set(convert.ASSET_CLASSES) == {n for n in asset_pb2.AssetClass.values() if n}
    assert set(convert.ASSET_ORIGINS) == set(asset_pb2.AssetOrigin.values())
    assert set(convert.CALL_DIRECTIONS) == {n for n in call_pb2.CallDirection.values() if n}


def test_the_limit_of_a_chunk_stands_twice_and_is_the_same() -> None:
    text = (PROTOS / "key_service.proto").read_text(encoding="utf-8")
    assert re.findall(r"bytes\.max_len = (\d+)", text) == [str(MAX_CHUNK)] * 2


def test_no_rule_allows_more_entries_or_longer_fields_than_are_looked_at() -> None:
    text = (PROTOS / "key_service.proto").read_text(encoding="utf-8")
    assert max(int(n) for n in re.findall(r"max_(?:pairs|items): (\d+)", text)) <= KEY_LIMITS.entries
    lengths = [int(n) for n in re.findall(r"max_(?:len|bytes)[:=] ?(\d+)", text.replace("max_bytes = ", "max_bytes:"))]
    assert max(lengths) <= KEY_LIMITS.field
    assert 32 * (512 + 1024) + KEY_LIMITS.field + 4096 < KEY_LIMITS.request


def test_what_the_rules_allow_at_most_of_calls_that_are_watched_is_taken() -> None:
    call = call_watch_pb2.WatchedCall(
        call_id="c" * 256,
        caller="+" * 512,
        callee="+" * 512,
        direction=1,
        user="u" * 256,
        group="g" * 63,
        stores=[asset_pb2.ASSET_CLASS_PHONE_RECORDING] * 15,
        queue="q" * 256,
        site="s" * 256,
        last_action=3,
    )
    most = call_watch_pb2.WatchCallsRequest(
        tenant="t" * 63,
        request_id="r" * 128,
        add=[call] * CALLS_LIMITS.entries,
        ended=["e" * 256] * CALLS_LIMITS.entries,
    )
    parser = RequestParser(load_contract(), CALLS_LIMITS)
    assert parser.parse(most.SerializeToString(), call_watch_pb2.WatchCallsRequest) is not None
    for field in ("add", "ended"):
        more = call_watch_pb2.WatchCallsRequest(tenant="t", add=[call] * 201 if field == "add" else [])
        more.ended.extend(["e"] * 201 if field == "ended" else [])
        with pytest.raises(InvalidRequests) as caught:
            parser.parse(more.SerializeToString(), call_watch_pb2.WatchCallsRequest)
        assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize("service", ["KeyService", "AdminService"])
def test_every_call_names_its_errors_and_whether_it_may_be_retried(service: str) -> None:
    file = re.sub(r"(?<!^)([A-Z])", r"_\1", service).lower()
    text = (PROTOS / f"{file}.proto").read_text(encoding="utf-8")
    start = text.index(f"service {service} {{")
    calls = re.findall(r"((?:  //[^\n]*\n)+)  rpc (\w+)", text[start : text.index("\n}\n", start)])
    assert calls
    reasons = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    for comment, name in calls:
        assert "// Retriable: " in comment, name
        told = re.search(r"// Errors: (.*?)\n  // Retriable", comment, re.DOTALL)
        assert told, name
        named = set(re.findall(r"[A-Z]+(?:_[A-Z]+)+", told[1]))
        assert named <= reasons, (name, named - reasons)


def test_violations_have_the_path_of_their_field() -> None:
    parser = RequestParser(load_contract())
    request = call_pb2.AuthorizeCallRequest(tenant="A", call_id="c", callee="1", stores=[5, 99])
    with pytest.raises(InvalidRequests) as caught:
        parser.parse(request.SerializeToString(), call_pb2.AuthorizeCallRequest)
    assert [violation.field for violation in caught.value.violations] == ["tenant", "stores[1]"]


def test_every_class_with_frames_of_its_own_is_a_class() -> None:
    assert set(frame_lengths._BY_CLASS) <= {member.value for member in AssetClass}


def test_every_pattern_of_the_contract_is_told_in_words() -> None:
    patterns: set[str] = set()
    for path in PROTOS.glob("*.proto"):
        text = path.read_text(encoding="utf-8")
        patterns |= {found.replace("\\\\", "\\") for found in re.findall(r'pattern[ =:]+"([^"\n]*)"', text)}
    assert len(patterns) > 10
    for pattern in patterns:
        words = in_words(f"does not match regex pattern `{pattern}`")
        assert words.startswith("must "), pattern
    assert in_words("must be at most 3 bytes") == "must be at most 3 bytes"
