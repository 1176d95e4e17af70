"""A refusal is in the trail at once, a storm of them by its count, and none takes memory without end."""

from __future__ import annotations

import pytest

from ownkey_server.domain.audit import AuditRecord, Caller
from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import PermissionDenied, Unauthenticated
from ownkey_server.service.refusals import MAX_TOLD, QUIET_SECONDS, Refusals

DENIED = PermissionDenied("corp/ann", "Unwrap", "tenant 'acme'")


class Trail:
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    def note(self, record: AuditRecord) -> None:
        self.records.append(record)


@pytest.fixture
def trail() -> Trail:
    return Trail()


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def refusals(trail: Trail, now: list[float]) -> Refusals:
    return Refusals(trail, system_clock, lambda: now[0])  # type: ignore[arg-type]


def caller(port: int = 1) -> Caller:
    return Caller("corp/ann", f"ipv4:127.0.0.1:{port}")


def test_the_first_is_told_at_once_and_the_rest_by_their_number(
    refusals: Refusals, trail: Trail, now: list[float]
) -> None:
    for port in range(1000):
        refusals.note(caller(port), "Unwrap", DENIED, "acme")
    assert len(trail.records) == 1
    first = trail.records[0]
    assert (first.action, first.result, first.reason, first.tenant) == (
        "access",
        "refused",
        "PERMISSION_DENIED",
        "acme",
    )
    assert first.caller.principal == "corp/ann"
    now[0] += QUIET_SECONDS
    refusals.note(caller(), "Unwrap", DENIED, "acme")
    assert trail.records[1].detail["repeated"] == "999"


def test_another_caller_method_tenant_or_reason_is_another_refusal(refusals: Refusals, trail: Trail) -> None:
    refusals.note(caller(), "Unwrap", DENIED, "acme")
    refusals.note(Caller("corp/bob", "ipv4:127.0.0.1:1"), "Unwrap", DENIED, "acme")
    refusals.note(caller(), "DecryptMedia", DENIED, "acme")
    refusals.note(caller(), "Unwrap", DENIED, "globex")
    refusals.note(caller(), "Unwrap", Unauthenticated("the certificate was revoked"), "acme")
    assert len(trail.records) == 5


def test_whoever_names_very_many_tenants_takes_no_memory_without_end(refusals: Refusals) -> None:
    for number in range(3 * MAX_TOLD):
        refusals.note(caller(), "Unwrap", DENIED, f"tenant-{number}")
    assert len(refusals._told) == MAX_TOLD
