"""However many calls are refused, no refusal goes uncounted, and few records come of many."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

from ownkey_server.domain.audit import Action, AuditRecord, Caller, Result
from ownkey_server.service import call_refusals
from ownkey_server.service.call_refusals import CallRefusals

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)


class Trail:
    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    def note(self, record: AuditRecord) -> None:
        record.to_bytes()
        self.records.append(record)


def refusal(number: int, tenant: str = "acme", reason: str = "KEY_REVOKED") -> AuditRecord:
    return AuditRecord(
        time=NOW + timedelta(milliseconds=number),
        action=Action.AUTHORIZE_CALL,
        result=Result.REFUSED,
        caller=Caller("pbx", f"ipv4:192.0.2.1:{number}", f"request-{number}"),
        reason=reason,
        tenant=tenant,
        key=f"tenants/{tenant}/keys/main",
        rule="default",
        decision="refuse",
        detail={"call_id": f"call-{number}"},
    )


def counted(records: list[AuditRecord]) -> Counter[str]:
    found: Counter[str] = Counter()
    for one in records:
        found[one.reason] += one.detail.get("calls", 1)
    return found


async def test_ten_thousand_refusals_are_counted_to_the_last_in_few_records() -> None:
    trail, clock = Trail(), [0.0]
    refusals = CallRefusals(trail, whole_per_second=50, monotonic=lambda: clock[0])
    for number in range(10_000):
        refusals.note(refusal(number, reason="KEY_REVOKED" if number % 4 else "KEY_UNREACHABLE"))
    assert len(trail.records) == 50, "the first are told whole"
    refusals.flush()
    assert counted(trail.records) == {"KEY_REVOKED": 7500, "KEY_UNREACHABLE": 2500}
    assert len(trail.records) == 52
    total = trail.records[-1]
    assert (total.detail["first"], total.detail["last"]) == (
        "2026-11-23T16:30:00.050000Z",
        "2026-11-23T16:30:09.999000Z",
    ) or (total.detail["first"], total.detail["last"]) == ("2026-11-23T16:30:00.052000Z", "2026-11-23T16:30:09.996000Z")
    assert (total.key, total.rule, total.caller.request_id) == ("tenants/acme/keys/main", "default", "")
    refusals.flush()
    assert len(trail.records) == 52


async def test_what_is_counted_is_written_by_itself_and_another_second_tells_whole_again(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(call_refusals, "SUM_SECONDS", 0.01)
    trail, clock = Trail(), [0.0]
    refusals = CallRefusals(trail, whole_per_second=1, monotonic=lambda: clock[0])
    for number in range(3):
        refusals.note(refusal(number))
    async with asyncio.timeout(5):
        while len(trail.records) < 2:
            await asyncio.sleep(0)
    assert trail.records[1].detail["calls"] == 2
    clock[0] = 1.0
    refusals.note(refusal(4))
    assert trail.records[2].detail == {"call_id": "call-4"}


async def test_memory_is_bounded_and_the_count_is_whole_whatever_tenants_are_named() -> None:
    trail = Trail()
    refusals = CallRefusals(trail, whole_per_second=0, monotonic=lambda: 0.0)
    for number in range(5_000):
        refusals.note(refusal(number, tenant=f"tenant-{number}"))
    refusals.flush()
    assert len(trail.records) <= call_refusals.MAX_TENANT_SUMS + 1
    assert sum(one.detail["calls"] for one in trail.records) == 5_000
