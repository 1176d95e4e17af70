"""Reading the trail in the order of time, and as it grows."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from ownkey_server.domain import audit
from ownkey_server.domain.audit_chain import ChainRow
from ownkey_server.domain.audit_documents import DocumentInvalid, line, read_line
from ownkey_server.storage.audit import export as audit_export
from ownkey_server.storage.audit.export import cursor, read_all, read_last, read_new, read_records
from support.audit_trails import START, Trail, record


@pytest.fixture
def written(trail: Trail) -> Trail:
    """Three chains whose times overlap, in batches that share a time."""
    writers = [trail.writer() for _ in range(3)]
    for number in range(12):
        if number % 3 == 0:
            trail.after(seconds=1)
        for writer in writers:
            tenant = ("acme", "umbrella", "")[number % 3]
            writer.write([record(trail.now - timedelta(seconds=number % 2), number, tenant)])
    return trail


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
@pytest.mark.parametrize("tenant", [None, "acme", "", "nobody"])
def test_pages_together_are_everything_in_order(written: Trail, limit: int, tenant: str | None) -> None:
    rows: list[ChainRow] = []
    while page := read_records(written.database, tenant=tenant, after=cursor(rows[-1]) if rows else None, limit=limit):
        rows += page
    assert rows == sorted(rows, key=cursor)
    where = "" if tenant is None else "WHERE tenant = :tenant"
    (count,) = written.rows(f"SELECT count(*) FROM audit_records {where}", **({"tenant": tenant} if where else {}))[0]
    assert len({cursor(row) for row in rows}) == len(rows) == count


def test_a_part_of_time(written: Trail) -> None:
    start, end = START + timedelta(seconds=2), START + timedelta(seconds=3)
    rows = read_records(written.database, start=start, end=end)
    assert rows
    assert {row.time for row in rows} == {audit.microseconds(start)}
    before, after = read_records(written.database, end=start), read_records(written.database, start=end)
    assert len(before) + len(rows) + len(after) == 39


def test_all_of_it_a_page_at_a_time(written: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_export, "PAGE", 4)
    assert list(read_all(written.database)) == read_records(written.database, limit=1000)


def test_the_last(written: Trail) -> None:
    everything = read_records(written.database, limit=1000)
    rows, positions = read_last(written.database, 5)
    assert rows == everything[-5:]
    assert positions == {1: 13, 2: 13, 3: 13}
    assert read_last(written.database, 0)[0] == []
    assert [row.tenant for row in read_last(written.database, 3, tenant="umbrella")[0]] == ["umbrella"] * 3


def test_what_is_new_is_told_once_however_late_it_comes(written: Trail) -> None:
    _, positions = read_last(written.database, 0)
    assert read_new(written.database, positions, written.now) == ([], positions)
    late, fresh = written.writer(), written.writer()
    late.write([record(START - timedelta(days=3), 500)])
    rows, positions = read_new(written.database, positions, written.now)
    assert [(row.writer, row.sequence) for row in rows] == [(4, 2), (4, 1)]
    written.write(fresh, 1)
    written.write(late, 1)
    rows, positions = read_new(written.database, positions, written.now)
    assert {(row.writer, row.sequence) for row in rows} == {(4, 3), (5, 1), (5, 2)}
    assert read_new(written.database, positions, written.now)[0] == []


def test_what_is_new_comes_in_parts(trail: Trail) -> None:
    trail.write(trail.writer(), 6)
    found, positions = [], {}
    for _ in range(4):
        rows, positions = read_new(trail.database, positions, trail.now, limit=2)
        found += [row.sequence for row in rows]
    assert found == [1, 2, 3, 4, 5, 6, 7]


def test_writers_that_are_long_gone_are_not_asked(trail: Trail) -> None:
    trail.write(trail.writer(), 2)
    assert read_new(trail.database, {}, trail.now + timedelta(hours=2)) == ([], {})


def test_a_line_is_the_record_and_where_it_stands(trail: Trail) -> None:
    trail.write(trail.writer(), 2)
    for row in read_records(trail.database):
        fields = json.loads(line(row))
        assert fields["hash"] == row.hash.hex()
        assert (fields["sequence"], fields["writer"]) == (row.sequence, 1)
        for name in ("hash", "sequence", "writer"):
            del fields[name]
        assert audit.canonical(fields) == row.body
        assert read_line(line(row)) == row


@pytest.mark.parametrize("body", [b"", b"{}", b"no json", b'{"a":1}\n', b'{"a":\n1}', b"[1]", b"\xff", b'{"a":1} '])
def test_a_body_that_ownkey_did_not_write_stays_in_its_line(body: bytes) -> None:
    row = ChainRow(3, 9, 1_700_000_000_000_000, "", body, bytes(32))
    text = line(row)
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    json.loads(text)
    assert read_line(text) == row


@pytest.mark.parametrize("text", [b"", b"{}\n", b'{"a":1,"hash":"00","sequence":1,"writer":1}\n', b'{"sequence":1}\n'])
def test_no_line_of_ours(text: bytes) -> None:
    with pytest.raises(DocumentInvalid):
        read_line(text)
