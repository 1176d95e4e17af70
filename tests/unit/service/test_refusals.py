"""A refusal is in the trail at once, a storm of them by its count, and none takes memory or the trail without end."""

from __future__ import annotations

import pytest

from ownkey_server.domain.audit import AuditRecord, Caller
from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import OwnkeyError, PermissionDenied, RateLimited, Unauthenticated
from ownkey_server.service import refusals as module
from ownkey_server.service.refusals import MAX_CALLERS, MAX_OF_CALLER, MAX_TOLD, QUIET_SECONDS, Refusals

DENIED = PermissionDenied("corp/ann", "Unwrap", "tenant 'acme'")


class Trail:
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    def note(self, record: AuditRecord) -> None:
        record.to_bytes()
        self.records.append(record)

    @property
    def told(self) -> int:
        """How many refusals the records tell of."""
        return sum(int(one.detail.get("repeated") or one.detail.get("refusals") or 1) for one in self.records)


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


def test_the_first_is_told_at_once_and_the_rest_by_their_number_when_the_storm_is_over(
    refusals: Refusals, trail: Trail, now: list[float]
) -> None:
    for port in range(5000):
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
    now[0] += QUIET_SECONDS - 1
    refusals.flush()
    assert len(trail.records) == 1
    now[0] += 1
    refusals.flush()
    assert trail.records[1].detail["repeated"] == "4999"
    assert (trail.records[1].reason, trail.records[1].tenant) == ("PERMISSION_DENIED", "acme")
    now[0] += QUIET_SECONDS
    refusals.flush()
    refusals.flush()
    assert (len(trail.records), refusals.kept) == (2, 0)


def test_another_caller_method_tenant_or_reason_is_another_refusal(refusals: Refusals, trail: Trail) -> None:
    refusals.note(caller(), "Unwrap", DENIED, "acme")
    refusals.note(Caller("corp/bob", "ipv4:127.0.0.1:1"), "Unwrap", DENIED, "acme")
    refusals.note(caller(), "DecryptMedia", DENIED, "acme")
    refusals.note(caller(), "Unwrap", DENIED, "globex")
    refusals.note(caller(), "Unwrap", Unauthenticated("the certificate was revoked"), "acme")
    assert len(trail.records) == 5


def test_whoever_names_very_many_tenants_is_summed_up(refusals: Refusals, trail: Trail, now: list[float]) -> None:
    for number in range(7200):
        refusals.note(caller(), ("Unwrap", "KeyStatus")[number % 2], DENIED, f"tenant-{number}")
    assert len(trail.records) == MAX_OF_CALLER
    refusals.note(Caller("corp/bob", "ipv4:127.0.0.1:1"), "Unwrap", DENIED, "acme")
    assert trail.records[-1].caller.principal == "corp/bob", "nobody else is left out for it"
    now[0] += QUIET_SECONDS
    refusals.flush()
    total = trail.records[-1]
    assert (total.caller.principal, total.tenant, total.reason) == ("corp/ann", "", "PERMISSION_DENIED")
    assert dict(total.detail) == {
        "refusals": str(7200 - MAX_OF_CALLER),
        "tenants": str(7200 - MAX_OF_CALLER),
        "methods": ["KeyStatus", "Unwrap"],
        "reasons": {"PERMISSION_DENIED": str(7200 - MAX_OF_CALLER)},
    }
    assert trail.told == 7201


def test_very_many_callers_take_no_memory_and_no_trail_without_end(
    refusals: Refusals, trail: Trail, now: list[float]
) -> None:
    error: OwnkeyError = Unauthenticated("no certificate")
    for number in range(5 * MAX_TOLD):
        refusals.note(Caller(peer=f"ipv6:[2001:db8::{number:x}]:7"), "Unwrap", error)
    assert len(trail.records) == MAX_TOLD
    assert refusals.kept <= MAX_TOLD + MAX_CALLERS + 1
    refusals.flush(everything=True)
    assert trail.told == 5 * MAX_TOLD
    assert len(trail.records) == MAX_TOLD + 1


def test_what_is_too_much_is_told_by_its_number_alone(refusals: Refusals, trail: Trail, now: list[float]) -> None:
    for _ in range(300):
        refusals.note(caller(), "Unwrap", RateLimited("principal", "corp/ann", 10, 0.1), "acme", at_once=False)
    assert trail.records == []
    now[0] += QUIET_SECONDS
    refusals.flush()
    [record] = trail.records
    assert (record.reason, record.detail["repeated"]) == ("RATE_LIMITED", "300")


async def test_a_timer_and_the_end_write_what_was_counted(
    refusals: Refusals, trail: Trail, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)
    refusals.start()
    for _ in range(3):
        refusals.note(caller(), "Unwrap", DENIED, "acme")
    now[0] += QUIET_SECONDS
    for _ in range(1000):
        if len(trail.records) == 2:
            break
        await module.asyncio.sleep(0.001)
    assert trail.told == 3
    refusals.note(caller(), "Unwrap", DENIED, "acme")
    await refusals.close()
    assert trail.told == 4
