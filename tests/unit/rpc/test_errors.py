from __future__ import annotations

import logging
import re
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from ownkey import container, wrapped_key
from ownkey.v1 import error_reason_pb2
from ownkey_server.domain import errors
from ownkey_server.rpc.errors import TABLE, InvalidRequests, StreamProtocolError, to_status
from ownkey_server.rpc.stream_guard import StreamLimitReached, StreamsBusy, StreamTooMuch, StreamTooSlow

PROTO = Path(__file__).resolve().parents[3] / "protos" / "ownkey" / "v1" / "error_reason.proto"


def subclasses(kind: type[Exception]) -> set[type[Exception]]:
    return {kind} | {each for child in kind.__subclasses__() for each in subclasses(child)}


def info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    found = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(found)
    return found


def sample(kind: type[Exception]) -> Exception:
    if issubclass(kind, errors.KeyStoreError):
        return kind("hsm", "acme-main", "because")
    samples: dict[type[Exception], Exception] = {
        errors.InvalidRequest: errors.InvalidRequest("asset.tenant", "is wrong"),
        InvalidRequests: InvalidRequests([errors.InvalidRequest("a", "b"), errors.InvalidRequest("c", "d")]),
        errors.TenantNotFound: errors.TenantNotFound("acme"),
        errors.KeyNotFound: errors.KeyNotFound("acme", "has no such key"),
        errors.PolicyDenied: errors.PolicyDenied("acme", "no-mms", "it is denied"),
        errors.UseRevoked: errors.UseRevoked("acme", "0" * 32, "a court order"),
        errors.DatabaseUnavailable: errors.DatabaseUnavailable("no route to db.internal"),
        errors.ViewStale: errors.ViewStale("acme", 61.0),
        errors.PermissionDenied: errors.PermissionDenied("spiffe://example.org/player", "Unwrap", "tenant 'acme'"),
        errors.IssuerUnreachable: errors.IssuerUnreachable("corp"),
        errors.Overloaded: errors.Overloaded("background", "the queue is full", 0.25),
        errors.RateLimited: errors.RateLimited("tenant", "acme", 100, 0.01),
        StreamTooSlow: StreamTooSlow("stream_idle_seconds", "no message came in 60 s"),
        StreamTooMuch: StreamTooMuch("stream_bytes", "it has too many"),
        StreamsBusy: StreamsBusy("streams", "there are too many"),
        errors.TooManyWaiting: errors.TooManyWaiting("tenants/acme", "20 changes of yours wait already"),
        errors.ApprovalRequired: errors.ApprovalRequired("tenants/acme", "a1"),
        errors.ApprovalInvalid: errors.ApprovalInvalid("tenants/acme", "a1", "is none of yours"),
        errors.DeadlineExceeded: errors.DeadlineExceeded("the key store had not answered"),
        errors.AuditUnavailable: errors.AuditUnavailable("the database does not answer"),
        errors.ResourceNotFound: errors.ResourceNotFound("tenants/acme"),
        errors.ResourceExists: errors.ResourceExists("tenants/acme", "it is there"),
        errors.ResourceInUse: errors.ResourceInUse("tenants/acme", "it has keys"),
        errors.EtagMismatch: errors.EtagMismatch("tenants/acme"),
        errors.EnrolmentFailed: errors.EnrolmentFailed("tenants/acme/keys/main", "hsm", "acme-main", "it is revoked"),
        errors.AssetMismatch: errors.AssetMismatch("acme", "ownkey:asset-id"),
        container.CommitmentMismatch: container.CommitmentMismatch(),
        container.HeaderTampered: container.HeaderTampered(),
        container.FrameTampered: container.FrameTampered(3),
        container.FrameOutOfOrder: container.FrameOutOfOrder(3, 4),
        container.TrailingData: container.TrailingData(),
        container.EncryptionLimitExceeded: container.EncryptionLimitExceeded(),
    }
    return samples.get(kind) or kind("because")


ALL = (
    subclasses(errors.OwnkeyError)
    - {
        errors.OwnkeyError,
        errors.KeyStoreError,
        errors.ServiceImpaired,
        errors.TooMuch,
        errors.AdministrationError,
        StreamLimitReached,
    }
) | subclasses(container.ContainerError) - {wrapped_key.WrappedKeyInvalid}


@pytest.mark.parametrize("kind", sorted(ALL, key=lambda kind: kind.__name__))
def test_every_error_has_a_reason_of_its_own_and_none_is_internal(kind: type[Exception]) -> None:
    status = to_status(sample(kind))
    assert status.code != grpc.StatusCode.INTERNAL.value[0]
    assert info(status).reason != "INTERNAL"
    assert info(status).domain == "ownkey"
    assert len(info(status).reason) <= 63


def documented() -> dict[str, tuple[set[str], list[set[str]], set[bool]]]:
    """What the contract says of each reason: status codes, sets of metadata, and whether there is RetryInfo."""
    text = PROTO.read_text(encoding="utf-8")
    found = {}
    for comment, name in re.findall(r"((?:  //[^\n]*\n)+)  ERROR_REASON_(\w+) = [1-9]", text):
        codes = re.search(r"// ([A-Z_]+(?: or [A-Z_]+)*)", comment)
        metadata = re.search(r"\(metadata: ([^)]*)\)", comment)
        assert codes, name
        names = [set(each.split(", ")) for each in metadata.group(1).split("; or ")] if metadata else [set[str]()]
        retry = {True, False} if "RetryInfo where" in comment else {"RetryInfo" in comment}
        found[name] = (set(codes.group(1).split(" or ")), names, retry)
    return found


def test_what_is_sent_is_what_the_contract_documents() -> None:
    expected = documented()
    assert set(expected) == {n.removeprefix("ERROR_REASON_") for n, v in error_reason_pb2.ErrorReason.items() if v}
    seen = {"INTERNAL"}
    for kind in ALL:
        status = to_status(sample(kind))
        codes, metadata, retry = expected[info(status).reason]
        assert status.code in {grpc.StatusCode[code].value[0] for code in codes}, kind
        assert set(info(status).metadata) in metadata, kind
        assert any(d.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for d in status.details) in retry, kind
        seen.add(info(status).reason)
    assert seen == set(expected)


def test_no_row_of_the_table_is_hidden_by_one_before_it() -> None:
    kinds = list(TABLE)
    for index, kind in enumerate(kinds):
        assert not [wider for wider in kinds[:index] if issubclass(kind, wider)], kind


def test_a_defect_tells_an_id_and_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        status = to_status(RuntimeError("the key is swordfish"))
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert "swordfish" not in str(status)
    assert info(status).metadata["error_id"] in caplog.text


def test_a_stream_error_says_what_was_wrong() -> None:
    assert to_status(StreamProtocolError("the first message must be a start")).message.startswith("the first")


@pytest.mark.parametrize("kind", sorted(subclasses(errors.OwnkeyError), key=lambda kind: kind.__name__))
def test_the_audit_trail_knows_an_error_by_the_reason_that_callers_get(kind: type[errors.OwnkeyError]) -> None:
    if kind in TABLE and kind.__module__ == errors.__name__:
        assert kind.reason == info(to_status(sample(kind))).reason


def test_what_the_driver_says_of_the_database_is_not_for_callers() -> None:
    assert "db.internal" not in str(to_status(errors.DatabaseUnavailable("no route to db.internal")))
