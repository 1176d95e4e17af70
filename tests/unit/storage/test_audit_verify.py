"""The check of an untouched trail, and that any single change of it is found in its place."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ownkey_server.domain.audit import Action, AuditRecord, Result
from ownkey_server.domain.audit_documents import DocumentInvalid
from ownkey_server.domain.audit_findings import Kind
from ownkey_server.storage.audit import verify_chain as audit_verify_chain
from ownkey_server.storage.audit import verify_checkpoints as audit_verify_checkpoints
from ownkey_server.storage.audit.signing import Signer
from ownkey_server.storage.audit.verify import verify
from support import audit_trails
from support.audit_trails import Trail, keeper, newest_checkpoint, record


@pytest.mark.parametrize("page", [1, 2, 7, 5000])
def test_an_untouched_trail_is_good_however_it_is_read(
    trail: Trail, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(audit_verify_chain, "PAGE", page)
    monkeypatch.setattr(audit_verify_checkpoints, "PAGE", page)
    writers = [trail.writer(), trail.writer("changes")]
    look_after = keeper(trail)
    for _ in range(4):
        for writer in writers:
            trail.write(writer, 4)
        trail.after(minutes=2)
        assert look_after.keep().findings == ()
    writers[0].close()
    report = trail.verify()
    assert report.findings == ()
    assert (report.writers, report.records, report.segments, report.checkpoints) == (2, 35, 6, 4)
    assert trail.found(newest_checkpoint(trail)) == []


def test_progress_counts_up_to_the_whole(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_verify_chain, "PAGE", 4)
    trail.write(trail.writer(), 9)
    seen: list[tuple[int, int]] = []
    verify(trail.database, trail.signer.verifier, progress=lambda *done: seen.append(done))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_an_empty_trail_is_good(trail: Trail) -> None:
    assert trail.verify().ok


def test_a_trail_that_grows_while_it_is_checked_is_good(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_verify_chain, "PAGE", 3)
    writers = [trail.writer(), trail.writer()]
    look_after = keeper(trail, retention=timedelta(seconds=30))
    for writer in writers:
        trail.write(writer, 12)
    more = iter(range(8))

    def grow(_done: int, _about: int) -> None:
        if next(more, None) is not None:
            for writer in writers:
                trail.write(writer, 2)
            trail.write(trail.writer(), 1)
            trail.after(minutes=1)
            assert not [f for f in look_after.keep().findings if not f.informational]

    report = verify(trail.database, trail.signer.verifier, progress=grow, clock=trail.clock)
    assert [finding for finding in report.findings if not finding.informational] == []
    assert trail.rows("SELECT 1 FROM audit_segments WHERE removed") != []


def test_a_chain_rolled_back_while_it_is_checked_is_found(trail: Trail) -> None:
    first, second = trail.writer(), trail.writer()
    trail.write(first, 2)
    trail.write(second, 2)
    (old,) = trail.rows("SELECT * FROM audit_writers WHERE number = 2")
    trail.write(second, 2)

    def roll_back(_done: int, _about: int) -> None:
        trail.run("DELETE FROM audit_records WHERE writer = 2 AND sequence > 3")
        trail.run(
            "UPDATE audit_writers SET head_sequence = 3, head_hash = :h, head_time = :t, head_signature = :s"
            " WHERE number = 2",
            h=old.head_hash,
            t=old.head_time,
            s=old.head_signature,
        )

    report = verify(trail.database, trail.signer.verifier, progress=roll_back, clock=trail.clock)
    assert [(f.kind, f.writer, f.sequence, f.last) for f in report.findings] == [(Kind.ROLLED_BACK, 2, 4, 5)]


def test_a_writer_that_was_cut_off_is_told_and_is_no_fault(trail: Trail) -> None:
    trail.write(trail.writer(), 2)
    assert trail.verify().findings == ()
    trail.after(minutes=11)
    report = trail.verify()
    assert report.ok
    (finding,) = report.findings
    assert (finding.kind, finding.writer, finding.sequence) == (Kind.NOT_CLOSED, 1, 3)


def test_what_the_service_says_of_its_trail_is_told(trail: Trail) -> None:
    writer = trail.writer()
    trail.write(writer, 2)
    writer.write([AuditRecord(trail.now, Action.RECORDS_LOST, Result.FAILED, detail={"records": 7})])
    writer.start_anew("somebody was here")
    report = trail.verify()
    assert report.ok
    assert [(f.kind, f.writer, f.sequence) for f in report.findings] == [
        (Kind.RECORDS_LOST, 1, 4),
        (Kind.CHAIN_BROKEN, 2, 2),
    ]
    assert "7 answers" in report.findings[0].explanation


def test_a_writer_that_found_its_chain_rolled_back_tells_what_had_been(trail: Trail) -> None:
    writer = trail.writer()
    trail.write(writer, 2)
    (old,) = trail.rows("SELECT * FROM audit_writers")
    trail.write(writer, 2)
    trail.run("DELETE FROM audit_records WHERE sequence > 3")
    trail.run(
        "UPDATE audit_writers SET head_sequence = 3, head_hash = :h, head_time = :t, head_signature = :s",
        h=old.head_hash,
        t=old.head_time,
        s=old.head_signature,
    )
    assert trail.found() == []
    writer.start_anew("the head is not where it was")
    (finding,) = trail.found()
    assert (finding.kind, finding.writer, finding.sequence) == (Kind.ROLLED_BACK, 1, 5)


def test_another_key_made_nothing_of_it(trail: Trail) -> None:
    trail.write(trail.writer(), 3)
    trail.after(minutes=5)
    keeper(trail, segment_records=2).keep()
    other = Signer(Ed25519PrivateKey.generate()).verifier
    report = verify(trail.database, other, clock=trail.clock)
    kinds = {finding.kind for finding in report.findings}
    assert kinds == {Kind.FORGED_HEAD, Kind.FORGED_SEGMENT, Kind.FORGED_CHECKPOINT}


@pytest.mark.parametrize("text", [b"", b"{}", b'{"description":"{}","signature":"00"}', b"[1]", b'{"description":1}'])
def test_a_kept_checkpoint_that_is_none(trail: Trail, text: bytes) -> None:
    with pytest.raises(DocumentInvalid):
        trail.verify(text)


def test_findings_without_end_fill_no_memory(trail: Trail) -> None:
    writer = trail.writer()
    writer.write([record(trail.now, number) for number in range(3000)])
    trail.run("DELETE FROM audit_records WHERE sequence % 2 = 0")
    report = trail.verify()
    assert len(report.findings) == 1000
    assert report.omitted == 500


# One change of one record, and what is found: the record, or the one after it, whose link is broken.


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Trail, Path]]:
    """A trail with segments and checkpoints, and a copy of its file."""
    with audit_trails.trail(tmp_path_factory.mktemp("written")) as made:
        writers = [made.writer() for _ in range(3)]
        look_after = keeper(made)
        for number in (6, 11, 4):
            for writer in writers:
                made.write(writer, number)
            made.after(minutes=2)
            look_after.keep()
        copy = Path(str(made.database.url.database) + ".copy")
        copy_file(Path(str(made.database.url.database)), copy)
        yield made, copy


def copy_file(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)


MUTATIONS = st.sampled_from(["body", "hash", "time", "tenant", "delete", "move"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writer=st.integers(1, 3),
    sequence=st.integers(1, 22),
    mutation=MUTATIONS,
    place=st.integers(0, 10_000),
    other=st.integers(1, 255),
)
def test_any_single_change_is_found_where_it_was_made(
    written: tuple[Trail, Path], writer: int, sequence: int, mutation: str, place: int, other: int
) -> None:
    trail, copy = written
    copy_file(copy, Path(str(trail.database.url.database)))
    where: dict[str, Any] = {"writer": writer, "sequence": sequence}
    ((body, digest, time),) = trail.rows(
        "SELECT body, hash, time FROM audit_records WHERE writer = :writer AND sequence = :sequence", **where
    )

    def put(column: str, value: object) -> None:
        trail.run(
            f"UPDATE audit_records SET {column} = :value WHERE writer = :writer AND sequence = :sequence",
            value=value,
            **where,
        )

    match mutation:
        case "body" | "hash":
            content = bytearray(body if mutation == "body" else digest)
            content[place % len(content)] ^= other
            put(mutation, bytes(content))
        case "time":
            put("time", time + other)
        case "tenant":
            put("tenant", f"other-{other}")
        case "delete":
            trail.run("DELETE FROM audit_records WHERE writer = :writer AND sequence = :sequence", **where)
        case "move":
            put("sequence", 22 + other)
    found = trail.found()
    assert found
    assert {finding.writer for finding in found} == {writer}
    assert found[0].sequence == sequence
    expected = {
        "body": {Kind.CHANGED},
        "hash": {Kind.CHANGED, Kind.ROLLED_BACK},
        "time": {Kind.COLUMN_MISMATCH},
        "tenant": {Kind.COLUMN_MISMATCH},
        "delete": {Kind.MISSING, Kind.TRUNCATED, Kind.ROLLED_BACK},
        "move": {Kind.MISSING, Kind.TRUNCATED, Kind.ROLLED_BACK, Kind.INSERTED},
    }[mutation]
    assert {finding.kind for finding in found} <= expected
