"""Every way a call can fail has one kind of error, in both clients, and in local mode the same as from the service."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2

from ownkey import AsyncClient, Client, container, errors, wrapped_key
from ownkey.cli.output import EXIT_CODE_OF_ERROR
from ownkey.v1 import error_reason_pb2
from ownkey_server.rpc.errors import TABLE

REASONS = sorted(name.removeprefix("ERROR_REASON_") for name, number in error_reason_pb2.ErrorReason.items() if number)


def packed(detail: Any) -> any_pb2.Any:
    box = any_pb2.Any()
    box.Pack(detail)
    return box


def info(reason: str, domain: str = "ownkey", **metadata: str) -> any_pb2.Any:
    return packed(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata))


async def failures(service: Any) -> list[errors.OwnkeyError]:
    """What each client raises."""
    caught = []
    with Client(service.address) as client, pytest.raises(errors.OwnkeyError) as one:
        client.key_status("acme")
    caught.append(one.value)
    async with AsyncClient(service.address) as other:
        with pytest.raises(errors.OwnkeyError) as two:
            await other.key_status("acme")
    caught.append(two.value)
    return caught


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_of_the_contract_has_a_kind_and_a_hint(reason: str) -> None:
    kind = errors.KIND_OF_REASON[reason]
    assert kind is not errors.OwnkeyError
    assert kind.hint


def test_no_kind_is_left_for_a_reason_that_the_contract_does_not_have() -> None:
    assert set(errors.KIND_OF_REASON) == set(REASONS)


def test_every_kind_has_an_exit_code() -> None:
    of_the_service = {kind for kind in errors.OwnkeyError.__subclasses__() if kind.__module__ == errors.__name__}
    assert set(EXIT_CODE_OF_ERROR) == {errors.OwnkeyError, *of_the_service}


async def test_an_error_brings_all_that_the_service_says(failing_service: Any) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="asset.tenant", description="is wrong")
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000))
    details = [info("KEY_REVOKED", key="k", replica="r"), packed(bad), packed(retry)]
    failing_service.fail_with(grpc.StatusCode.FAILED_PRECONDITION, "it was taken away", *details)
    for error in await failures(failing_service):
        assert type(error) is errors.KeyRevoked
        assert str(error) == "it was taken away"
        assert (error.reason, error.retry_after) == ("KEY_REVOKED", 2.5)
        assert error.metadata == {"key": "k", "replica": "r"}
        assert error.violations == {"asset.tenant": "is wrong"}


async def test_an_outage_is_never_reported_as_revocation_nor_the_reverse(failing_service: Any) -> None:
    for reason in ("KEY_UNREACHABLE", "KEY_STORE_THROTTLED"):
        failing_service.fail_with(grpc.StatusCode.UNAVAILABLE, "away", info(reason))
        assert {type(error) for error in await failures(failing_service)} == {errors.KeyUnreachable}
    failing_service.fail_with(grpc.StatusCode.FAILED_PRECONDITION, "gone", info("KEY_REVOKED"))
    assert {type(error) for error in await failures(failing_service)} == {errors.KeyRevoked}


async def test_a_reason_of_a_newer_service_comes_as_the_root(failing_service: Any) -> None:
    failing_service.fail_with(grpc.StatusCode.FAILED_PRECONDITION, "new", info("KEY_ON_HOLIDAY"))
    for error in await failures(failing_service):
        assert type(error) is errors.OwnkeyError
        assert error.reason == "KEY_ON_HOLIDAY"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.ServiceUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.ServiceUnavailable),
        (grpc.StatusCode.CANCELLED, errors.ServiceUnavailable),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequest),
        (grpc.StatusCode.UNIMPLEMENTED, errors.OwnkeyError),
        (grpc.StatusCode.PERMISSION_DENIED, errors.OwnkeyError),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.OwnkeyError),
    ],
)
async def test_a_status_without_our_reason_is_never_taken_for_a_key_s_state(
    failing_service: Any, code: grpc.StatusCode, kind: type[errors.OwnkeyError]
) -> None:
    for details in ((), (info("KEY_REVOKED", domain="example.com"),)):
        failing_service.fail_with(code, "some proxy's text", *details)
        for error in await failures(failing_service):
            assert type(error) is kind
            assert error.reason is None


async def test_what_may_pass_is_tried_three_times_and_nothing_else_twice(failing_service: Any) -> None:
    for code, calls in ((grpc.StatusCode.UNAVAILABLE, 3), (grpc.StatusCode.FAILED_PRECONDITION, 1)):
        failing_service.fail_with(code, "no")
        with Client(failing_service.address) as client, pytest.raises(errors.OwnkeyError):
            client.key_status("acme")
        assert failing_service.calls == calls


def container_errors() -> set[type[container.ContainerError]]:
    def below(kind: type[container.ContainerError]) -> set[type[container.ContainerError]]:
        return {kind} | {each for child in kind.__subclasses__() for each in below(child)}

    # In a wrapped key of its own the service calls it a field; out of an object's header it is ciphertext.
    return below(container.ContainerError) - {wrapped_key.WrappedKeyInvalid}


def made(kind: type[container.ContainerError]) -> container.ContainerError:
    match kind:
        case container.FrameTampered:
            return container.FrameTampered(3)
        case container.FrameOutOfOrder:
            return container.FrameOutOfOrder(3, 4)
        case (
            container.CommitmentMismatch
            | container.HeaderTampered
            | container.TrailingData
            | container.EncryptionLimitExceeded
        ):
            return kind()
    return kind("because")


@pytest.mark.parametrize("kind", sorted(container_errors(), key=lambda kind: kind.__name__))
def test_local_mode_fails_with_the_reason_and_the_kind_that_the_service_gives(
    kind: type[container.ContainerError],
) -> None:
    row = next(row for each, row in TABLE.items() if issubclass(kind, each))
    reason = error_reason_pb2.ErrorReason.Name(row.reason).removeprefix("ERROR_REASON_")
    error = errors.from_container_error(made(kind))
    assert (error.reason, type(error)) == (reason, errors.KIND_OF_REASON[reason])


def test_the_container_comes_without_grpc() -> None:
    code = "import sys, ownkey, ownkey.container; sys.exit('grpc' in sys.modules or 'google.protobuf' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
