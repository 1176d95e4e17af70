"""Whoever can write to the database, and has not the signing key, changes records: it is found, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from attacks.audit.tampering import CHANGE_BODY, body, digest, insert, kinds_at, make_room, places, write
from ownkey_server.domain import audit
from ownkey_server.domain.audit_findings import Kind
from support import audit_trails
from support.audit_trails import Trail, record


@pytest.mark.parametrize(("writer", "sequence"), [(1, 1), (1, 5), (1, 6), (1, 22), (2, 7), (2, 13), (3, 4)])
def test_a_changed_record(written: Trail, writer: int, sequence: int) -> None:
    forged = body(written, writer, sequence).replace(b'"result":"ok"', b'"result":"OK"').replace(b"2026", b"2025")
    written.run(CHANGE_BODY, body=forged, writer=writer, sequence=sequence)
    assert places(written.found()) == {(Kind.CHANGED, writer, sequence, None)}


@pytest.mark.parametrize("sequence", [1, 7, 12])
def test_a_changed_record_with_its_own_hash_computed_anew(written: Trail, sequence: int) -> None:
    """Which of two neighbours it was cannot be told, unless a signed statement covers the first: both are named."""
    forged = body(written, 2, sequence).replace(b"2026", b"2025")
    if sequence == 1:
        ((description,),) = written.rows("SELECT description FROM audit_writers WHERE number = 2")
        previous = audit.genesis(bytes(description))
    else:
        previous = digest(written, 2, sequence - 1)
    written.run(CHANGE_BODY, body=forged, writer=2, sequence=sequence)
    written.run(
        "UPDATE audit_records SET hash = :hash WHERE writer = 2 AND sequence = :sequence",
        hash=audit.chained(previous, 2, sequence, forged),
        sequence=sequence,
    )
    found = [finding for finding in written.found() if finding.kind is Kind.CHANGED]
    assert (found[0].writer, found[0].sequence) == (2, sequence + 1)
    assert f"or record {sequence} was" in found[0].explanation


def test_the_last_record_changed_with_its_own_hash_computed_anew(written: Trail) -> None:
    forged = body(written, 2, 13).replace(b"2026", b"2025")
    computed = audit.chained(digest(written, 2, 12), 2, 13, forged)
    written.run(CHANGE_BODY, body=forged, writer=2, sequence=13)
    written.run("UPDATE audit_records SET hash = :hash WHERE writer = 2 AND sequence = 13", hash=computed)
    assert Kind.CHANGED in kinds_at(written.found(), 2, 13)


def test_everything_after_a_record_rewritten_with_all_hashes(written: Trail, sealed: bool) -> None:
    """All links are good again. The signed head is not, and what was signed on the way tells from where."""
    previous = digest(written, 2, 2)
    for sequence in range(3, 14):
        forged = body(written, 2, sequence).replace(b'"acme"', b'"umbr"')
        previous = audit.chained(previous, 2, sequence, forged)
        written.run(CHANGE_BODY, body=forged, writer=2, sequence=sequence)
        written.run(
            "UPDATE audit_records SET hash = :hash, tenant = 'umbr' WHERE writer = 2 AND sequence = :sequence",
            hash=previous,
            sequence=sequence,
        )
    found = written.found()
    assert Kind.CHANGED in kinds_at(found, 2, 13)
    if sealed:
        assert Kind.CHANGED in kinds_at(found, 2, 5)
        assert Kind.ROLLED_BACK in kinds_at(found, 2, 10)


@pytest.mark.parametrize(("column", "value"), [("tenant", "umbrella"), ("time", 1_000_000)])
def test_a_column_changed(written: Trail, column: str, value: object) -> None:
    written.run(f"UPDATE audit_records SET {column} = :value WHERE writer = 1 AND sequence = 4", value=value)
    (finding,) = written.found()
    assert places([finding]) == {(Kind.COLUMN_MISMATCH, 1, 4, None)}
    assert column in finding.explanation


def test_a_hash_changed(written: Trail) -> None:
    written.run("UPDATE audit_records SET hash = :hash WHERE writer = 1 AND sequence = 8", hash=bytes(32))
    assert places(written.found()) == {(Kind.CHANGED, 1, 8, None)}


@pytest.mark.parametrize(("first", "last"), [(1, 1), (4, 4), (5, 6), (6, 10), (2, 21)])
def test_records_removed(written: Trail, first: int, last: int) -> None:
    written.run(
        "DELETE FROM audit_records WHERE writer = 1 AND sequence BETWEEN :first AND :last", first=first, last=last
    )
    assert places(written.found()) == {(Kind.MISSING, 1, first, last)}


def test_records_removed_and_the_segment_marked_as_if_by_retention(trail: Trail) -> None:
    write(trail, keep=True)
    trail.run("DELETE FROM audit_records WHERE writer = 1 AND sequence BETWEEN 6 AND 10")
    trail.run("UPDATE audit_segments SET removed = true WHERE writer = 1 AND first_sequence = 6")
    (finding,) = trail.found()
    assert places([finding]) == {(Kind.MISSING, 1, 6, 10)}
    assert "retention" in finding.explanation


SWAP = """UPDATE audit_records SET sequence = CASE sequence WHEN :a THEN -1 WHEN :b THEN -2 ELSE sequence END
          WHERE writer = :writer AND sequence IN (:a, :b)"""


@pytest.mark.parametrize(("a", "b"), [(6, 7), (3, 12), (1, 2)])
def test_two_records_swapped(written: Trail, a: int, b: int) -> None:
    written.run(SWAP, a=a, b=b, writer=2)
    written.run("UPDATE audit_records SET sequence = :b WHERE writer = 2 AND sequence = -1", b=b)
    written.run("UPDATE audit_records SET sequence = :a WHERE writer = 2 AND sequence = -2", a=a)
    found = written.found()
    assert found[0].sequence == a
    assert Kind.REORDERED in kinds_at(found, 2, b)
    # The records between them are as they were, but the one after the first has lost what it follows.
    assert {each for finding in found for each in range(finding.sequence, (finding.last or finding.sequence) + 1)} <= {
        a,
        a + 1,
        b,
        b + 1,
    }


def test_a_record_inserted_and_all_after_it_moved_up(written: Trail) -> None:
    make_room(written, 2, 8)
    forged = record(written.now, 77).to_bytes()
    insert(written, 2, 8, forged, audit.chained(digest(written, 2, 7), 2, 8, forged))
    found = written.found()
    assert found[0].sequence == 9
    assert found[0].kind is Kind.REORDERED
    assert "written as record 8" in found[0].explanation
    assert Kind.INSERTED in kinds_at(found, 2, 14)


@pytest.mark.parametrize("sequence", [14, 20])
def test_a_record_put_behind_the_last(written: Trail, sequence: int) -> None:
    forged = record(written.now, 77).to_bytes()
    insert(written, 2, sequence, forged, audit.chained(digest(written, 2, 13), 2, 14, forged))
    assert places(written.found()) == {(Kind.INSERTED, 2, sequence, None)}


@pytest.mark.parametrize("sequence", [0, -5])
def test_a_record_put_before_the_first(written: Trail, sequence: int) -> None:
    insert(written, 2, sequence, b"{}", bytes(32))
    assert places(written.found()) == {(Kind.INSERTED, 2, sequence, None)}


def test_a_record_of_no_writer(written: Trail) -> None:
    insert(written, 9, 1, b"{}", bytes(32))
    assert places(written.found()) == {(Kind.INSERTED, 9, 1, 1)}


@pytest.mark.parametrize("place", [8, 14])
def test_a_record_duplicated(written: Trail, place: int) -> None:
    copied, copied_hash = body(written, 2, 7), digest(written, 2, 7)
    if place < 14:
        make_room(written, 2, place)
    insert(written, 2, place, copied, copied_hash)
    found = written.found()
    assert found[0].sequence == place
    assert found[0].kind in {Kind.REORDERED, Kind.INSERTED}


def test_a_record_moved_to_another_chain(written: Trail) -> None:
    written.run("DELETE FROM audit_records WHERE writer = 2 AND sequence = 9")
    insert(written, 2, 9, body(written, 1, 9), digest(written, 1, 9))
    assert places(written.found()) - {(Kind.CHANGED, 2, 10, None)} in (
        {(Kind.CHANGED, 2, 9, None)},
        {(Kind.CHANGED, 2, 9, 10)},
    )


@pytest.mark.parametrize("keep", [False, True])
def test_values_of_other_types_stop_nobody(tmp_path: Path, keep: bool) -> None:
    """SQLite takes any value in any column."""
    with audit_trails.trail(tmp_path) as written:
        write(written, keep=keep)
        for column in ("body", "hash", "time", "tenant"):
            written.run(f"UPDATE audit_records SET {column} = 'x' WHERE writer = 1 AND sequence = 3")
            written.run(f"UPDATE audit_records SET {column} = 1.5 WHERE writer = 1 AND sequence = 9")
        for column in ("head_sequence", "head_hash", "head_time", "head_signature", "seen_time", "description"):
            written.run(f"UPDATE audit_writers SET {column} = 'x' WHERE number = 2")
        written.run("INSERT INTO audit_records VALUES (1, 'x', 'x', 1, 1, 1)")
        written.run("INSERT INTO audit_writers VALUES ('x', 1, 1, 1, 1, 1, 1, 1)")
        written.run("INSERT INTO audit_segments VALUES (1, 'x', 'x', 'x', 1, 1, 1, 1)")
        written.run("INSERT INTO audit_checkpoints VALUES ('x', 'x', 1, 1, 1)")
        found = {(finding.writer, finding.sequence) for finding in written.found()}
        assert {(1, 3), (1, 9), (1, -1), (2, -1)} <= found
