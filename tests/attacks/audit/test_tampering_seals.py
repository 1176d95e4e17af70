"""Whoever can write to the database changes segments or checkpoints, or puts an old copy back: it is found."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from attacks.audit.tampering import CHANGE_BODY, body, digest, places, write
from ownkey_server.domain import audit
from ownkey_server.domain.audit_findings import Kind
from support.audit_trails import Trail, keeper, newest_checkpoint


@pytest.mark.parametrize("first", [1, 6, 11, 21])
def test_a_segment_removed(trail: Trail, first: int) -> None:
    write(trail, keep=True)
    trail.run("DELETE FROM audit_segments WHERE writer = 1 AND first_sequence = :first", first=first)
    last = min(first + 4, 22)
    assert places(trail.found()) == {(Kind.MISSING_SEGMENT, 1, first, last)}


CHANGES_OF_A_SEGMENT: dict[str, Callable[[Trail], None]] = {
    "description": lambda trail: trail.run(
        "UPDATE audit_segments SET description = :value WHERE writer = 1 AND first_sequence = 6", value=b"{}"
    ),
    "signature": lambda trail: trail.run(
        "UPDATE audit_segments SET signature = :value WHERE writer = 1 AND first_sequence = 6", value=bytes(64)
    ),
    "last_time": lambda trail: trail.run(
        "UPDATE audit_segments SET last_time = 1 WHERE writer = 1 AND first_sequence = 6"
    ),
    "of another writer": lambda trail: trail.run(
        "UPDATE audit_segments SET description = (SELECT description FROM audit_segments WHERE writer = 2 AND"
        " first_sequence = 6), signature = (SELECT signature FROM audit_segments WHERE writer = 2 AND"
        " first_sequence = 6) WHERE writer = 1 AND first_sequence = 6"
    ),
}


@pytest.mark.parametrize("change", CHANGES_OF_A_SEGMENT.values(), ids=CHANGES_OF_A_SEGMENT)
def test_a_segment_changed(trail: Trail, change: Callable[[Trail], None]) -> None:
    write(trail, keep=True)
    change(trail)
    assert places(trail.found()) == {(Kind.FORGED_SEGMENT, 1, 6, 10)}


def more_checkpoints(trail: Trail) -> None:
    writer, look_after = trail.writer(), keeper(trail, segment_records=1000)
    for _ in range(3):
        trail.write(writer, 2)
        trail.after(minutes=2)
        assert look_after.keep().checkpoints == 1


@pytest.mark.parametrize("number", [1, 3])
def test_a_checkpoint_removed(trail: Trail, number: int) -> None:
    write(trail, keep=True)
    more_checkpoints(trail)
    trail.run("DELETE FROM audit_checkpoints WHERE number = :number", number=number)
    assert (Kind.MISSING_CHECKPOINT, 0, number, number) in places(trail.found())


def test_the_last_checkpoint_removed_is_found_by_one_that_was_kept(trail: Trail) -> None:
    write(trail, keep=True)
    more_checkpoints(trail)
    kept = newest_checkpoint(trail)
    assert trail.found(kept) == []
    trail.run("DELETE FROM audit_checkpoints WHERE number = 5")
    assert trail.found() == []
    assert places(trail.found(kept)) == {(Kind.ROLLED_BACK, 0, 5, 5)}


@pytest.mark.parametrize("name", ["description", "signature", "time"])
def test_a_checkpoint_changed(trail: Trail, name: str) -> None:
    write(trail, keep=True)
    more_checkpoints(trail)
    value: object = 7
    if name == "description":
        ((text,),) = trail.rows("SELECT description FROM audit_checkpoints WHERE number = 3")
        value = bytes(text).replace(b'"writers":4', b'"writers":3')
    elif name == "signature":
        value = bytes(64)
    trail.run(f"UPDATE audit_checkpoints SET {name} = :value WHERE number = 3", value=value)
    assert places(trail.found()) == {(Kind.FORGED_CHECKPOINT, 0, 3, None)}


def test_a_checkpoint_of_another_log_in_its_place(trail: Trail) -> None:
    """Signed with the same key, but it does not follow from the one before."""
    write(trail, keep=True)
    trail.run("DELETE FROM audit_checkpoints")
    trail.after(minutes=2)
    assert keeper(trail).keep().checkpoints == 1
    (other,) = trail.rows("SELECT description, signature FROM audit_checkpoints")
    more_checkpoints(trail)
    trail.run(
        "UPDATE audit_checkpoints SET description = :description, signature = :signature WHERE number = 3",
        **other._mapping,
    )
    assert (Kind.FORGED_CHECKPOINT, 0, 3, None) in places(trail.found())


def test_an_old_copy_of_the_whole_database_is_found_by_a_kept_checkpoint(trail: Trail) -> None:
    write(trail, keep=True)
    tables = ("writers", "records", "segments", "checkpoints")
    copy = {table: trail.rows(f"SELECT * FROM audit_{table}") for table in tables}
    writer = trail.writer()
    trail.write(writer, 5)
    trail.after(minutes=2)
    keeper(trail).keep()
    kept = newest_checkpoint(trail)
    trail.empty()
    for table, rows in copy.items():
        for row in rows:
            names = ", ".join(row._mapping)
            values = ", ".join(f":{name}" for name in row._mapping)
            trail.run(f"INSERT INTO audit_{table} ({names}) VALUES ({values})", **row._mapping)
    assert trail.found() == []
    assert (Kind.ROLLED_BACK, 0, 3, 3) in places(trail.found(kept))
    assert (Kind.MISSING_WRITER, 4, 1, 4) in places(trail.found(kept))
    # And when it has gone on from there, to a checkpoint of the same number.
    trail.write(trail.writer(), 7)
    trail.after(minutes=9)
    assert keeper(trail).keep().checkpoints == 1
    assert trail.found() == []
    assert {(Kind.ROLLED_BACK, 0, 3, None)} <= places(trail.found(kept))
    assert Kind.ROLLED_BACK in {finding.kind for finding in trail.found(kept) if finding.writer == 4}


def test_a_keeper_signs_nothing_that_was_changed(trail: Trail) -> None:
    """A signature of ours under what somebody else wrote would be worse than none."""
    writer = trail.writer()
    trail.write(writer, 12)
    previous = digest(trail, 1, 2)
    for sequence in range(3, 14):
        forged = body(trail, 1, sequence).replace(b"2026", b"2025")
        previous = audit.chained(previous, 1, sequence, forged)
        trail.run(CHANGE_BODY, body=forged, writer=1, sequence=sequence)
        trail.run("UPDATE audit_records SET hash = :hash WHERE sequence = :sequence", hash=previous, sequence=sequence)
    trail.run("UPDATE audit_records SET time = time - :year", year=365 * 86400 * 1_000_000)
    trail.run("UPDATE audit_writers SET head_hash = :hash", hash=previous)
    trail.after(minutes=2)
    kept = keeper(trail, retention=timedelta(seconds=1)).keep()
    assert (kept.segments, kept.checkpoints, kept.removed_records) == (0, 0, 0)
    assert Kind.FORGED_HEAD in {finding.kind for finding in kept.findings}
