from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from ownkey_server.domain.assets import Asset, AssetClass
from ownkey_server.domain.audit import Action, AuditRecord, Caller, Result
from ownkey_server.domain.errors import AuditUnavailable, DatabaseUnavailable, PolicyDenied
from ownkey_server.service import audit_log
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.audited import Audited
from ownkey_server.storage.audit.writer import ChainBroken
from support.services import ListWriter

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
ASSET = Asset("acme", AssetClass.PHONE_RECORDING, "call-1")
AWAY = DatabaseUnavailable("no route to the database")


def clock() -> datetime:
    return NOW


def record(number: int = 0) -> AuditRecord:
    return AuditRecord(NOW, Action.UNWRAP, Result.OK, detail={"number": number})


@contextlib.asynccontextmanager
async def started(writer: ListWriter, patience: float = 5.0) -> AsyncIterator[AuditLog]:
    log = AuditLog(writer, ListWriter(), clock, patience=patience)
    await log.start()
    try:
        yield log
    finally:
        await log.close()


async def until_impaired(log: AuditLog) -> None:
    async with asyncio.timeout(10):
        while not log.impaired:
            await asyncio.sleep(0.001)


async def until_it_works(log: AuditLog) -> None:
    async with asyncio.timeout(10):
        while log.impaired:
            await asyncio.sleep(0.001)


async def test_a_call_waits_until_its_record_is_durable() -> None:
    writer, durable = ListWriter(), threading.Event()
    async with started(writer) as log:
        writer.before_write = lambda: durable.wait(10) and None
        waiting = asyncio.ensure_future(log.record(record()))
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done
        durable.set()
        await waiting
    assert writer.records == [record()]


async def test_records_of_many_calls_are_written_together_and_in_order() -> None:
    writer = ListWriter()
    async with started(writer) as log:
        await asyncio.gather(*(log.record(record(number)) for number in range(500)))
    assert [one.detail["number"] for one in writer.records] == list(range(500))
    assert len(writer.batches) < 20


async def test_without_a_durable_record_the_call_fails_and_the_record_is_kept_until_it_can_be_written() -> None:
    writer = ListWriter()
    async with started(writer) as log:
        writer.failure = AWAY
        with pytest.raises(AuditUnavailable, match="the database does not answer"):
            await log.record(record(1))
        with pytest.raises(AuditUnavailable):
            log.require_writable()
        writer.failure = None
        await until_it_works(log)
        await log.record(record(2))
    assert [one.detail["number"] for one in writer.records] == [1, 2]


async def test_a_transaction_whose_end_was_not_seen_is_not_written_twice() -> None:
    writer = ListWriter()
    async with started(writer) as log:
        writer.failure, writer.durable_in_spite = AWAY, True
        with pytest.raises(AuditUnavailable):
            await log.record(record(1))
        writer.failure = None
        await until_it_works(log)
        writer.durable_in_spite = False
    assert [one.detail["number"] for one in writer.records] == [1]


async def test_a_database_that_hangs_fails_calls_within_their_patience_and_they_all_recover() -> None:
    writer, frozen = ListWriter(), threading.Event()
    async with started(writer, patience=0.05) as log:
        writer.before_write = lambda: frozen.wait(10) and None
        with pytest.raises(AuditUnavailable, match="too slow"):
            await log.record(record(1))
        with pytest.raises(AuditUnavailable):
            await log.record(record(2))
        frozen.set()
        await until_it_works(log)
        await log.record(record(3))
    assert [one.detail["number"] for one in writer.records] == [1, 3]


async def test_a_broken_chain_is_told_in_a_new_one_and_service_goes_on() -> None:
    writer = ListWriter()
    async with started(writer) as log:
        writer.failure = ChainBroken("the database has another head")
        original = writer.start_anew

        def start_anew(why: str) -> None:
            writer.failure = None
            original(why)

        writer.start_anew = start_anew  # type: ignore[method-assign]
        await log.record(record(1))
    assert -1 in writer.batches
    assert writer.records == [record(1)]


async def test_what_must_be_answered_anyway_is_counted_when_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "MAX_BACKLOG", 3)
    writer = ListWriter()
    async with started(writer) as log:
        writer.failure = AWAY
        log.note(record(0))
        await until_impaired(log)
        for number in range(1, 6):
            log.note(record(number))
        writer.failure = None
        await until_it_works(log)
        await log.record(record(9))
    lost = [one for one in writer.records if one.action == Action.RECORDS_LOST]
    assert [one.detail["records"] for one in lost] == [2]
    assert [one.detail["number"] for one in writer.records if one not in lost] == [0, 1, 2, 3, 9]


async def test_a_full_backlog_refuses_before_any_key_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "MAX_BACKLOG", 0)
    async with started(ListWriter()) as log:
        with pytest.raises(AuditUnavailable, match="records wait to be written"):
            async with Audited(log, clock, Action.UNWRAP, Caller(), ASSET):
                raise AssertionError("a key was used")


async def test_a_record_that_cannot_be_written_down_fails_its_maker_alone() -> None:
    writer = ListWriter()
    async with started(writer) as log:
        with pytest.raises(TypeError):
            log.record(AuditRecord(NOW, Action.UNWRAP, Result.OK, detail={"bad": object()}))
        await log.record(record(1))
    assert writer.records == [record(1)]


async def test_a_use_that_ends_well_and_one_that_is_refused_are_both_recorded() -> None:
    writer = ListWriter()
    async with started(writer) as log:
        async with Audited(log, clock, Action.UNWRAP, Caller("recorder", "peer", "request"), ASSET) as use:
            use.replica = "hsm"
        with pytest.raises(PolicyDenied):
            async with Audited(log, clock, Action.UNWRAP, Caller(), ASSET):
                raise PolicyDenied("acme", "no-mms", "it is denied")
        with pytest.raises(ZeroDivisionError):
            async with Audited(log, clock, Action.UNWRAP, Caller(), ASSET):
                raise ZeroDivisionError
    assert [(one.result, one.reason) for one in writer.records] == [
        (Result.OK, ""),
        (Result.REFUSED, "POLICY_DENIED"),
        (Result.FAILED, "INTERNAL"),
    ]
    assert (writer.records[0].caller.principal, writer.records[0].replica) == ("recorder", "hsm")


async def test_a_refusal_that_cannot_be_recorded_is_answered_as_that() -> None:
    writer = ListWriter()
    async with started(writer) as log:
        writer.failure = AWAY
        with pytest.raises(AuditUnavailable):
            async with Audited(log, clock, Action.UNWRAP, Caller(), ASSET):
                raise PolicyDenied("acme", "no-mms", "it is denied")
        writer.failure = None
        await until_it_works(log)


async def test_a_caller_that_leaves_is_recorded_too() -> None:
    writer = ListWriter()
    async with started(writer) as log:
        begun = asyncio.Event()

        async def use() -> None:
            async with Audited(log, clock, Action.UNWRAP, Caller(), ASSET):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(use())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [(one.result, one.reason) for one in writer.records] == [(Result.FAILED, "CANCELLED")]


async def test_closing_writes_what_waits() -> None:
    writer = ListWriter()
    async with started(writer) as log:
        for number in range(10):
            log.note(record(number))
    assert len(writer.records) == 10


async def test_a_context_that_anybody_sends_does_not_fill_the_trail() -> None:
    writer = ListWriter()
    pairs = {f"pair-{number}": "x" * 200 for number in range(200)} | {"ownkey:tenant": "acme"}
    async with started(writer) as log, Audited(log, clock, Action.UNWRAP, Caller(), ASSET) as use:
        use.context = pairs
    context = writer.records[0].context
    assert context["ownkey:tenant"] == "acme"
    assert context["ownkey:truncated"].startswith("201 pairs, sha256 ")
    assert len(writer.records[0].to_bytes()) < 1000


async def test_whatever_goes_wrong_while_nothing_is_written_the_trail_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "SEEN_SECONDS", 0.001)
    writer, tried = ListWriter(), threading.Event()

    def fail() -> None:
        tried.set()
        raise RuntimeError("the database is read-only")

    writer.seen = fail  # type: ignore[method-assign]
    async with started(writer) as log:
        await asyncio.to_thread(tried.wait, 10)
        await log.record(record(1))
    assert writer.records == [record(1)]


async def test_a_change_that_hangs_holds_up_no_use_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "SEEN_SECONDS", 0.001)
    hanging, begun = threading.Event(), threading.Event()
    changes = ListWriter()

    def hang() -> None:
        begun.set()
        hanging.wait(10)

    changes.before_write = hang
    log = AuditLog(ListWriter(), changes, clock)
    await log.start()
    change = asyncio.ensure_future(log.change(lambda _: ([], None)))
    await asyncio.to_thread(begun.wait, 10)
    async with asyncio.timeout(2):
        for number in range(20):
            await log.record(record(number))
            await asyncio.sleep(0.002)
    hanging.set()
    await change
    await log.close()
