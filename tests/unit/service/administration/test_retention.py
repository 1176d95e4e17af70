"""Less than was agreed counts when two persons have agreed to it; more counts as soon as the settings say it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from ownkey_server.domain.approvals import Danger
from ownkey_server.domain.audit import Caller
from ownkey_server.domain.errors import ApprovalRequired, EtagMismatch
from ownkey_server.domain.roles import Permit
from ownkey_server.service.administration.desk import Act, SecondPerson
from ownkey_server.service.administration.retention import AuditRetention
from ownkey_server.storage.database import Database
from support.office import Office

START = Act(Caller("ownkey serve"), reason="as the settings say")
ASK = Act(Caller("ann"), "ann", "less to keep", "UpdateAuditRetention", b"the request")
YEAR, MONTH = timedelta(days=365), timedelta(days=30)
FOR_EVER = None

Configured = Callable[[timedelta | None], AuditRetention]


@pytest.fixture
async def office(database: Database, tmp_path: Path) -> AsyncIterator[Office]:
    with ThreadPoolExecutor(4) as executor:
        second = SecondPerson(frozenset(Danger))
        made = Office(database, tmp_path / "keys", executor, second_person=second, operators=["ann", "bob"])
        await made.audit.start()
        yield made
        await made.audit.close()


@pytest.fixture
def guarded(office: Office) -> Configured:
    return lambda configured: AuditRetention(office.desk, configured, guarded=True)


async def in_force(retention: AuditRetention) -> timedelta | None:
    await retention.settle(START)
    return (await retention.get()).in_force


async def test_less_takes_two_and_more_takes_nobody(
    office: Office, guarded: Configured, caplog: pytest.LogCaptureFixture
) -> None:
    assert await in_force(guarded(YEAR)) == YEAR
    assert await in_force(guarded(MONTH)) == YEAR
    assert "kept for 365 days, as was agreed, and not for 30 days" in caplog.text
    shorter = guarded(MONTH)
    etag = (await shorter.get()).etag
    with pytest.raises(ApprovalRequired) as caught:
        await shorter.update(ASK, etag, MONTH)
    assert await in_force(guarded(MONTH)) == YEAR
    await office.approvals.approve(Act(Caller("bob")), caught.value.approval, Permit(None))
    agreed = Act(Caller("ann"), "ann", "less to keep", "UpdateAuditRetention", b"the request", caught.value.approval)
    assert (await shorter.update(agreed, etag, MONTH)).in_force == MONTH
    assert await in_force(guarded(MONTH)) == MONTH
    assert await in_force(guarded(FOR_EVER)) is FOR_EVER
    assert await in_force(guarded(MONTH)) is FOR_EVER, "what is longer is agreed to at once, and holds"
    with pytest.raises(EtagMismatch):
        await shorter.update(ASK, etag, YEAR)
    told = [one.detail for one in office.trail.records if one.action == "admin.update_audit_retention"]
    assert [(one.get("before"), one["after"], one.get("approved_by")) for one in told] == [
        (None, {"keep": "for 365 days"}, None),
        ({"keep": "for 365 days"}, {"keep": "for 30 days"}, "bob"),
        ({"keep": "for 30 days"}, {"keep": "for ever"}, None),
    ]


async def test_where_one_person_is_enough_the_settings_count_and_the_trail_says_so(office: Office) -> None:
    alone = [AuditRetention(office.desk, age, guarded=False) for age in (FOR_EVER, YEAR, MONTH)]
    assert [await in_force(one) for one in alone] == [FOR_EVER, YEAR, MONTH]
    told = [one.detail["after"]["keep"] for one in office.trail.records]
    assert told == ["for 365 days", "for 30 days"]
    await alone[-1].settle(START)
    assert len(office.trail.records) == 2, "only what is new is told"
