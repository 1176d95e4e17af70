"""Sealing, checkpoints, copies and retention."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from ownkey_server.domain.audit_documents import read_line
from ownkey_server.domain.audit_findings import Kind
from ownkey_server.storage.audit import retention_agreement
from ownkey_server.storage.audit.keeper import Kept
from ownkey_server.storage.audit.sink import DirectorySink, SinkError
from ownkey_server.storage.audit.verify_directory import verify_directory
from support.audit_trails import Trail, keeper, newest_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "sink"
    made.mkdir()
    return made


def segments(trail: Trail) -> list[tuple[int, int, int]]:
    rows = trail.rows("SELECT writer, first_sequence, last_sequence FROM audit_segments ORDER BY 1, 2")
    return [tuple(row) for row in rows]


def test_whole_segments_are_sealed_at_once_and_the_rest_when_it_is_old(trail: Trail) -> None:
    writer, look_after = trail.writer(), keeper(trail)
    trail.write(writer, 11)
    assert look_after.keep().segments == 2
    assert segments(trail) == [(1, 1, 5), (1, 6, 10)]
    assert look_after.keep().segments == 0
    trail.after(hours=1)
    writer.seen()
    trail.write(writer, 1)
    assert look_after.keep().segments == 1
    assert segments(trail)[-1] == (1, 11, 13)
    assert trail.found() == []


def test_the_rest_is_sealed_when_the_writer_has_ended_or_is_gone(trail: Trail) -> None:
    ended, gone, running = trail.writer(), trail.writer(), trail.writer()
    for writer in (ended, gone, running):
        trail.write(writer, 1)
    ended.close()
    assert keeper(trail).keep().segments == 1
    trail.after(minutes=11)
    running.seen()
    assert keeper(trail).keep().segments == 1
    assert segments(trail) == [(1, 1, 3), (2, 1, 2)]


def test_a_writer_that_was_thought_gone_goes_on_behind_its_segment(trail: Trail) -> None:
    writer = trail.writer()
    trail.write(writer, 2)
    trail.after(minutes=11)
    keeper(trail).keep()
    trail.write(writer, 6)
    keeper(trail).keep()
    assert segments(trail) == [(1, 1, 3), (1, 4, 8)]
    assert trail.found() == []


def test_a_checkpoint_is_made_when_it_is_time_and_something_is_new(trail: Trail) -> None:
    writer, look_after = trail.writer(), keeper(trail)
    assert look_after.keep().checkpoints == 0
    trail.write(writer, 2)
    assert look_after.keep().checkpoints == 1
    trail.write(writer, 2)
    assert look_after.keep().checkpoints == 0, "not yet time"
    trail.after(minutes=1)
    assert look_after.keep().checkpoints == 1
    trail.after(minutes=1)
    assert look_after.keep().checkpoints == 0, "nothing is new"
    first, second = trail.rows("SELECT description FROM audit_checkpoints ORDER BY number")
    document = json.loads(second[0])
    assert document["number"] == 2
    assert document["previous"] == hashlib.sha256(bytes(first[0])).hexdigest()
    assert [(head["writer"], head["sequence"]) for head in document["heads"]] == [(1, 5)]
    assert document["sealed"] == [{"sequence": 5, "writer": 1}] or document["sealed"] == []


def test_only_chains_that_moved_are_in_a_checkpoint(trail: Trail) -> None:
    first, second = trail.writer(), trail.writer()
    trail.write(first, 2)
    trail.write(second, 2)
    keeper(trail).keep()
    trail.write(second, 1)
    trail.after(minutes=2)
    # Another keeper, as after a restart: what it knows it has read.
    keeper(trail).keep()
    document = json.loads(json.loads(newest_checkpoint(trail))["description"])
    assert [(head["writer"], head["sequence"]) for head in document["heads"]] == [(2, 4)]
    assert document["writers"] == 2


def test_one_instance_at_a_time(trail: Trail) -> None:
    if trail.database.is_sqlite:
        return  # each of its steps is the only one
    trail.write(trail.writer(), 12)
    with trail.database.writing() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(1801807216)"))
        assert keeper(trail).keep() == Kept(elsewhere=True)
    assert keeper(trail).keep().segments == 2


def test_a_second_keeper_that_did_not_see_the_first_does_no_harm(trail: Trail) -> None:
    writer = trail.writer()
    trail.write(writer, 12)
    one, other = keeper(trail), keeper(trail)
    assert (one.keep().segments, other.keep().segments) == (2, 0)
    trail.write(writer, 12)
    trail.after(minutes=2)
    assert other.keep().checkpoints == 1
    assert one.keep().checkpoints == 0
    assert trail.found() == []


def test_segments_and_checkpoints_are_copied(trail: Trail, folder: Path) -> None:
    writer = trail.writer()
    trail.write(writer, 11)
    kept = keeper(trail, DirectorySink(folder)).keep()
    assert (kept.exported, kept.problem) == (3, "")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == [
        "checkpoints/000000000001.json",
        "writers/00000001/000000000001-000000000005.json",
        "writers/00000001/000000000001-000000000005.jsonl",
        "writers/00000001/000000000006-000000000010.json",
        "writers/00000001/000000000006-000000000010.jsonl",
    ]
    lines = (folder / names[2]).read_bytes().splitlines(keepends=True)
    stored = trail.rows("SELECT sequence, body, hash FROM audit_records WHERE sequence <= 5 ORDER BY sequence")
    assert [(row.sequence, row.body, row.hash) for row in map(read_line, lines)] == [tuple(row) for row in stored]
    report = verify_directory(folder, trail.signer.verifier, known_checkpoint=newest_checkpoint(trail))
    assert (report.findings, report.records, report.segments, report.checkpoints) == ((), 10, 2, 1)


def test_a_sink_that_takes_nothing_stops_copies_and_removal_and_nothing_else(trail: Trail) -> None:
    class Full:
        def put(self, name: str, content: bytes) -> None:
            raise SinkError(f"{name}: no space left")

    trail.write(trail.writer(), 11)
    trail.after(days=10)
    kept = keeper(trail, Full(), retention=timedelta(days=1)).keep()
    assert (kept.segments, kept.checkpoints, kept.exported, kept.removed_records) == (3, 1, 0, 0)
    assert "no space left" in kept.problem


def test_a_record_changed_after_it_was_sealed_is_not_copied(trail: Trail, folder: Path) -> None:
    trail.write(trail.writer(), 11)
    keeper(trail).keep()
    trail.run("UPDATE audit_records SET body = :body WHERE sequence = 7", body=b'{"time":"x"}')
    kept = keeper(trail, DirectorySink(folder)).keep()
    assert [(f.kind, f.writer, f.sequence) for f in kept.findings] == [(Kind.CHANGED, 1, 7)]
    assert kept.exported == 1
    assert not (folder / "checkpoints").exists()


def test_retention_removes_old_segments_and_the_rest_stays_verifiable(trail: Trail, folder: Path) -> None:
    writer, sink = trail.writer(), DirectorySink(folder)
    trail.write(writer, 11)
    trail.after(days=2)
    trail.write(writer, 8)
    kept = keeper(trail, sink, retention=timedelta(days=1)).keep()
    assert (kept.removed_segments, kept.removed_records, kept.checkpoints) == (2, 10, 2)
    assert trail.rows("SELECT min(sequence), count(*) FROM audit_records")[0] == (11, 10)
    report = trail.verify(newest_checkpoint(trail))
    assert (report.findings, report.records) == ((), 10)
    # What is in the sink is still whole, and still can be checked to the end.
    assert verify_directory(folder, trail.signer.verifier).findings == ()
    # And what is still there is guarded as before.
    trail.run("DELETE FROM audit_records WHERE sequence = 11")
    assert [(f.kind, f.sequence) for f in trail.found()] == [(Kind.MISSING, 11)]


@pytest.mark.parametrize(
    ("agreed", "removed"), [("nothing", 0), (None, 0), (timedelta(days=30), 0), (timedelta(days=2), 12)]
)
def test_where_it_takes_two_persons_nothing_goes_before_what_was_agreed(
    trail: Trail, agreed: timedelta | str | None, removed: int
) -> None:
    trail.write(trail.writer(), 11)
    trail.after(days=10)
    if not isinstance(agreed, str):
        with trail.database.writing() as connection:
            age = agreed // timedelta(microseconds=1) if agreed is not None else None
            retention_agreement.agree(connection, age, 1)
    assert keeper(trail, retention=timedelta(days=1), guarded=True).keep().removed_records == removed
    # What is longer in the settings counts as it is.
    assert keeper(trail, retention=timedelta(days=100), guarded=True).keep().removed_records == 0


def test_all_records_of_a_writer_may_go(trail: Trail) -> None:
    writer = trail.writer()
    trail.write(writer, 5)
    writer.close()
    trail.after(days=2)
    kept = keeper(trail, retention=timedelta(days=1)).keep()
    assert kept.removed_records == 7
    assert trail.rows("SELECT count(*) FROM audit_records")[0] == (0,)
    assert trail.verify(newest_checkpoint(trail)).findings == ()


def test_a_chain_is_removed_from_its_front_only(trail: Trail) -> None:
    """A clock that went back must leave no hole."""
    writer = trail.writer()
    trail.after(days=30)
    trail.write(writer, 4)
    trail.after(days=-30)
    trail.write(writer, 10)
    trail.after(days=5)
    writer.seen()
    kept = keeper(trail, retention=timedelta(days=1)).keep()
    assert (kept.segments, kept.removed_records) == (3, 0)
    assert trail.found() == []


def test_a_sink_that_came_after_records_were_removed_gets_what_is_left(trail: Trail, folder: Path) -> None:
    writer = trail.writer()
    trail.write(writer, 12)
    trail.after(days=2)
    trail.write(writer, 5)
    keeper(trail, retention=timedelta(days=1)).keep()
    keeper(trail, DirectorySink(folder)).keep()
    report = verify_directory(folder, trail.signer.verifier)
    assert report.findings == ()
    assert (report.segments, report.records) == (3, 5)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_no_checkpoint_is_bound_to_one_that_was_changed(trail: Trail, number: int) -> None:
    writer = trail.writer()
    for _ in range(3):
        trail.write(writer, 1)
        trail.after(minutes=2)
        assert keeper(trail).keep().checkpoints == 1
    ((text,),) = trail.rows("SELECT description FROM audit_checkpoints WHERE number = :number", number=number)
    forged = bytes(text).replace(b'"sequence":', b'"sequence":1')
    trail.run("UPDATE audit_checkpoints SET description = :text WHERE number = :number", text=forged, number=number)
    trail.write(writer, 1)
    trail.after(minutes=2)
    kept = keeper(trail).keep()
    assert kept.checkpoints == 0
    assert {finding.kind for finding in kept.findings if not finding.writer} == {Kind.FORGED_CHECKPOINT}


def test_a_log_that_was_rolled_back_gets_no_checkpoint_from_who_saw_it_before(trail: Trail) -> None:
    writer, look_after = trail.writer(), keeper(trail)
    for _ in range(2):
        trail.write(writer, 1)
        trail.after(minutes=2)
        look_after.keep()
    trail.run("DELETE FROM audit_checkpoints WHERE number = 2")
    trail.write(writer, 1)
    kept = look_after.keep()
    assert (kept.checkpoints, [(f.kind, f.sequence) for f in kept.findings]) == (0, [(Kind.ROLLED_BACK, 2)])
