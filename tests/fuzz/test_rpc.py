"""Every RPC with messages made from the contract, and with bytes that are none: an answer, or a documented error.

A method that is added to the contract is fuzzed without a line here. The servers are processes of their own: one where
every caller may do everything, so that what is behind the door is reached, and one with TLS that tells callers apart,
for the door itself: one may do everything by a certificate, one by a token, and one has no role.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ownkey.v1 import call_pb2, call_watch_pb2, error_reason_pb2, key_service_pb2_grpc, role_pb2
from support import server
from support.access import DOMAIN, Caller, Lab
from support.requests import METHODS, request
from support.rpc import Failure, asset, pb

EXAMPLES = 100
DEADLINE = 20
REASONS = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118
# What the transport answers by itself: a message or header beyond its limits, an unknown compression.
TRANSPORT = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.CANCELLED}
INTERESTING = [
    "acme",
    "main",
    "finance",
    "*",
    "embedded",
    "acme-main",
    "0",
    "deny",
    "key:main",
    "../x",
    "a\x00b",
    "é" * 70,
]

texts = st.sampled_from(INTERESTING) | st.text(max_size=40)
NUMBERS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1) | st.integers(0, 3),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2000),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1) | st.sampled_from([0, 4096, 65536]),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 8) | st.integers(-(2**31), 2**31 - 1),
}


def value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Values of a field, or of one of its entries."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return message(field.message_type, depth + 1)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return st.binary(max_size=40) if field.type == FieldDescriptor.TYPE_BYTES else texts
    return NUMBERS[field.cpp_type]


@st.composite
def message(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0) -> Message:
    """A message of the type, with any of its fields."""
    made = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if depth > 4 or draw(st.integers(0, 2)) == 0:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = getattr(made, field.name)
            for _ in range(draw(st.integers(0, 3))):
                entries[draw(texts)] = draw(texts)
        elif field.is_repeated:
            entries = getattr(made, field.name)
            for _ in range(draw(st.sampled_from([0, 1, 2, 70]))):
                one = draw(value(field, depth))
                entries.add().CopyFrom(one) if field.message_type else entries.append(one)
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(draw(value(field, depth)))
        else:
            setattr(made, field.name, draw(value(field, depth)))
    return made


@st.composite
def raw(draw: st.DrawFn, descriptor: Descriptor, valid: bytes) -> bytes:
    """The bytes of a message, or of a valid one that was changed, or any."""
    match draw(st.integers(0, 3)):
        case 0:
            return draw(message(descriptor)).SerializeToString()
        case 1:
            return valid
        case 2:
            data = bytearray(valid)
            for _ in range(draw(st.integers(1, 4))):
                at = draw(st.integers(0, max(0, len(data) - 1)))
                data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=6))
            return bytes(data)
        case _:
            return draw(st.binary(max_size=200))


# How many examples each kind of caller tries.
CALLERS = {"in development": EXAMPLES, "by certificate": 40, "by token": 30, "without a role": 30}


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A connection to a server of these tests alone."""
    with (
        server.process(Path(tmp_path_factory.mktemp("fuzz"))) as running,
        grpc.insecure_channel(running.address) as connected,
    ):
        yield connected


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server with TLS that tells its callers apart."""
    with Lab(Path(tmp_path_factory.mktemp("fuzz-tls"))).running() as running:
        everything = [role_pb2.RoleGrant(role=number, tenant="*") for number in role_pb2.Role.values() if number]
        for name in (f"{DOMAIN}/fuzzer", "corp/fuzzer"):
            running.grant(name, *everything)
        yield running


@pytest.fixture(scope="module", params=CALLERS)
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of caller."""
    return str(request.param)


@pytest.fixture(scope="module")
def channel(request: pytest.FixtureRequest, kind: str) -> Iterator[grpc.Channel]:
    """A connection of that kind of caller."""
    if kind == "in development":
        yield request.getfixturevalue("development")
        return
    lab: Lab = request.getfixturevalue("lab")
    roots, issued, address = lab.authority.pem.read_bytes(), None, lab.token_address
    if kind != "by token":
        name = "fuzzer" if kind == "by certificate" else "stranger"
        issued, address = lab.authority.issue(name, uris=[f"{DOMAIN}/{name}"]), lab.address
    pair = (issued.key.read_bytes(), issued.pem.read_bytes()) if issued else (None, None)
    credentials = grpc.ssl_channel_credentials(roots, *pair)
    if not issued:
        bearer = grpc.access_token_call_credentials(lab.tokens.token("fuzzer"))
        credentials = grpc.composite_channel_credentials(credentials, bearer)
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.secure_channel(address, credentials, options) as connected:
        answer = Caller(connected)("GetTenant", tenant="acme")
        assert getattr(answer, "reason", "") == ("PERMISSION_DENIED" if kind == "without a role" else ""), answer
        yield connected


def require_documented(error: grpc.RpcError) -> None:
    """A failure has a reason of the contract, and is no defect."""
    failure = Failure.of(error)
    if not failure.reason:
        assert failure.code in TRANSPORT, failure
        return
    assert failure.reason in REASONS, failure
    assert failure.reason != "INTERNAL", failure


def require_serving(channel: grpc.Channel) -> None:
    """An honest caller is served."""
    stub = key_service_pb2_grpc.KeyServiceStub(channel)
    # Whatever was done to the tenant by then, an answer comes.
    stub.AuthorizeCall(call_pb2.AuthorizeCallRequest(tenant="acme", call_id="1", callee="112"), timeout=DEADLINE)


UNARY = [method for method in METHODS if not method.server_streaming]
WATCHES = [method for method in METHODS if method.server_streaming and not method.client_streaming]
STREAMS = [method for method in METHODS if method.client_streaming]


def bounded(kind: str) -> settings:
    """As many examples as that kind of caller tries."""
    return settings(max_examples=CALLERS[kind], deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("method", UNARY, ids=lambda method: method.name)
def test_a_unary_method_answers_whatever_comes(method: Any, kind: str, channel: grpc.Channel) -> None:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}"
    )
    valid = request(method.name, "acme").SerializeToString()  # type: ignore[attr-defined]

    @bounded(kind)
    @given(raw(method.input_type, valid))
    def run(data: bytes) -> None:
        try:
            answer = call(data, timeout=DEADLINE)
        except grpc.RpcError as error:
            require_documented(error)
        else:
            GetMessageClass(method.output_type).FromString(answer)

    run()
    require_serving(channel)


@pytest.mark.parametrize("method", WATCHES, ids=lambda method: method.name)
def test_a_watch_begins_or_is_refused_whatever_comes(method: Any, kind: str, channel: grpc.Channel) -> None:
    call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
        f"/{method.containing_service.full_name}/{method.name}"
    )
    valid = request(method.name, "acme").SerializeToString()  # type: ignore[attr-defined]

    @bounded(kind)
    @given(raw(method.input_type, valid))
    def run(data: bytes) -> None:
        answers = call(data, timeout=DEADLINE)
        try:
            GetMessageClass(method.output_type).FromString(next(iter(answers)))
        except grpc.RpcError as error:
            require_documented(error)
        finally:
            answers.cancel()

    run()
    require_serving(channel)


@pytest.mark.parametrize("method", STREAMS, ids=lambda method: method.name)
def test_a_stream_ends_whatever_comes(method: Any, kind: str, channel: grpc.Channel) -> None:
    call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
        f"/{method.containing_service.full_name}/{method.name}"
    )
    kind_of_request = GetMessageClass(method.input_type)
    if method.name == "WatchCalls":
        watched = [call_watch_pb2.WatchedCall(call_id="c-1", callee="+15551234567")]
        start, chunk = kind_of_request(tenant="acme", add=watched), kind_of_request(tenant="acme", ended=["c-1"])
    else:
        start = kind_of_request(start=getattr(pb, f"{method.name}Start")(asset=asset()))
        chunk = kind_of_request(chunk=b"some bytes")
    pieces = st.lists(raw(method.input_type, chunk.SerializeToString()), max_size=4)

    @bounded(kind)
    @given(st.booleans(), pieces)
    def run(started: bool, rest: list[bytes]) -> None:
        messages = [start.SerializeToString()] * started + rest
        try:
            for answer in call(iter(messages), timeout=DEADLINE):
                GetMessageClass(method.output_type).FromString(answer)
        except grpc.RpcError as error:
            require_documented(error)

    run()
    require_serving(channel)
