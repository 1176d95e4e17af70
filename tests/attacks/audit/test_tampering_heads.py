"""Whoever can write to the database cuts chains off, or removes or changes their writers: it is found, and where."""

from __future__ import annotations

import pytest

from attacks.audit.tampering import digest, kinds_at, places, write
from ownkey_server.domain.audit_findings import Kind
from support.audit_trails import Trail, keeper


@pytest.mark.parametrize("after", [12, 10, 5, 0])
def test_the_last_records_removed(written: Trail, after: int) -> None:
    """At the end of a segment, or within one."""
    written.run("DELETE FROM audit_records WHERE writer = 2 AND sequence > :after", after=after)
    assert Kind.TRUNCATED in kinds_at(written.found(), 2, after + 1)


@pytest.mark.parametrize("after", [12, 10, 5])
def test_the_last_records_removed_and_the_head_moved_back_without_the_key(written: Trail, after: int) -> None:
    written.run(
        "UPDATE audit_writers SET head_sequence = :after, head_hash = :hash WHERE number = 2",
        after=after,
        hash=digest(written, 2, after),
    )
    written.run("DELETE FROM audit_records WHERE writer = 2 AND sequence > :after", after=after)
    assert Kind.FORGED_HEAD in kinds_at(written.found(), 2, after)


@pytest.mark.parametrize("later", [3, 5])
def test_the_last_records_removed_and_an_older_signed_head_put_back(trail: Trail, later: int) -> None:
    """The only thing that tells is what was signed, or kept, after it."""
    write(trail, keep=True)
    writer = trail.writer()
    trail.write(writer, 9)
    (old,) = trail.rows("SELECT * FROM audit_writers WHERE number = 4")
    trail.write(writer, later)
    (new,) = trail.rows("SELECT * FROM audit_writers WHERE number = 4")

    def put_back() -> None:
        trail.run("DELETE FROM audit_records WHERE writer = 4 AND sequence > 10")
        trail.run(
            "UPDATE audit_writers SET head_sequence = :sequence, head_hash = :hash, head_time = :time,"
            " head_signature = :signature WHERE number = 4",
            sequence=old.head_sequence,
            hash=old.head_hash,
            time=old.head_time,
            signature=old.head_signature,
        )

    trail.after(minutes=2)
    assert keeper(trail).keep().checkpoints == 1
    put_back()
    found = trail.found()
    assert (Kind.ROLLED_BACK, 4, 11, 10 + later) in places(found)
    assert (new.head_sequence, {finding.writer for finding in found}) == (10 + later, {4})


def test_an_older_head_without_anything_that_was_signed_later_is_not_found(trail: Trail) -> None:
    """docs/audit.md says so plainly. When this fails, the page can promise more."""
    writer = trail.writer()
    trail.write(writer, 3)
    (old,) = trail.rows("SELECT * FROM audit_writers")
    trail.write(writer, 3)
    trail.run("DELETE FROM audit_records WHERE sequence > 4")
    trail.run("DELETE FROM audit_writers")
    trail.run(
        "INSERT INTO audit_writers VALUES (:number, :description, :head_sequence, :head_hash, :head_time,"
        " :head_signature, :seen_time, :closed)",
        **old._mapping,
    )
    assert trail.found() == []


def test_the_end_of_an_ended_chain_removed_with_an_older_head(trail: Trail) -> None:
    writer = trail.writer()
    trail.write(writer, 3)
    (old,) = trail.rows("SELECT * FROM audit_writers")
    writer.close()
    trail.run("DELETE FROM audit_records WHERE sequence > 4")
    trail.run(
        "UPDATE audit_writers SET head_sequence = 4, head_hash = :hash, head_time = :time, head_signature = :signature",
        hash=old.head_hash,
        time=old.head_time,
        signature=old.head_signature,
    )
    assert places(trail.found()) == {(Kind.TRUNCATED, 1, 5, None)}


@pytest.mark.parametrize("number", [1, 2])
def test_a_whole_writer_removed(written: Trail, number: int) -> None:
    for table in ("records", "segments"):
        written.run(f"DELETE FROM audit_{table} WHERE writer = :number", number=number)
    written.run("DELETE FROM audit_writers WHERE number = :number", number=number)
    assert places(written.found()) == {(Kind.MISSING_WRITER, number, 1, number)}


def test_the_last_writer_removed(trail: Trail) -> None:
    """A checkpoint counts it."""
    write(trail, keep=True)
    trail.run("DELETE FROM audit_records WHERE writer = 3")
    trail.run("DELETE FROM audit_segments WHERE writer = 3")
    trail.run("DELETE FROM audit_writers WHERE number = 3")
    assert places(trail.found()) == {(Kind.MISSING_WRITER, 3, 1, 3)}


def test_a_writer_removed_and_the_others_numbered_anew(written: Trail) -> None:
    written.run("DELETE FROM audit_records WHERE writer = 1")
    written.run("DELETE FROM audit_writers WHERE number = 1")
    written.run("DELETE FROM audit_segments WHERE writer = 1")
    for table, column in (("records", "writer"), ("writers", "number"), ("segments", "writer")):
        for number in (2, 3):
            written.run(f"UPDATE audit_{table} SET {column} = {column} - 1 WHERE {column} = :number", number=number)
    found = written.found()
    assert {Kind.CHANGED, Kind.FORGED_HEAD} <= {finding.kind for finding in found if finding.writer == 1}


@pytest.mark.parametrize("name", ["description", "head_time", "head_hash", "head_signature"])
def test_a_column_of_a_writer_changed(written: Trail, name: str) -> None:
    value = 5 if name == "head_time" else b'{"writer":2}'
    written.run(f"UPDATE audit_writers SET {name} = :value WHERE number = 2", value=value)
    found = written.found()
    if name == "description":
        assert found[0].sequence in {0, 1}
        assert "description" in found[0].explanation or "segment" in found[0].explanation
    else:
        assert Kind.FORGED_HEAD in kinds_at(found, 2, 13)
