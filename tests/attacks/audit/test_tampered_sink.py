"""Whoever can write where the copies are, and has not the signing key: it is found, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ownkey_server.domain.audit_findings import Finding, Kind
from ownkey_server.storage.audit.sink import DirectorySink
from ownkey_server.storage.audit.verify_directory import verify_directory
from support import audit_trails
from support.audit_trails import Trail, keeper, newest_checkpoint


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[Trail]:
    with audit_trails.trail(tmp_path) as made:
        yield made


@pytest.fixture
def folder(trail: Trail, tmp_path: Path) -> Path:
    """Writer 1 with records 1 to 10 and 2 with records 1 to 15, in segments of five; three checkpoints."""
    made = tmp_path / "sink"
    made.mkdir()
    first, second = trail.writer(), trail.writer()
    look_after = keeper(trail, DirectorySink(made))
    for number in range(3):
        trail.write(first, 2 + number)
        trail.write(second, 5)
        trail.after(minutes=2)
        look_after.keep()
    assert found(trail, made) == []
    return made


def found(trail: Trail, folder: Path, known: bytes | None = None) -> list[tuple[Kind, int, int, int | None]]:
    report = verify_directory(folder, trail.signer.verifier, known_checkpoint=known)
    return [place(finding) for finding in report.findings]


def place(finding: Finding) -> tuple[Kind, int, int, int | None]:
    return (finding.kind, finding.writer, finding.sequence, finding.last)


def records(folder: Path, writer: int, first: int) -> Path:
    return folder / f"writers/{writer:08}/{first:012}-{first + 4:012}.jsonl"


def rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    content = b"".join(change(path.read_bytes().splitlines(keepends=True)))
    path.unlink()
    path.write_bytes(content)


def test_a_changed_record(trail: Trail, folder: Path) -> None:
    path = records(folder, 2, 6)
    rewrite(path, lambda lines: [lines[0], lines[1].replace(b"2026", b"2025"), *lines[2:]])
    assert found(trail, folder) == [(Kind.CHANGED, 2, 7, None)]


def test_a_removed_record(trail: Trail, folder: Path) -> None:
    rewrite(records(folder, 2, 6), lambda lines: lines[:2] + lines[3:])
    assert found(trail, folder) == [(Kind.MISSING, 2, 8, 8)]


def test_the_end_of_a_file_removed(trail: Trail, folder: Path) -> None:
    rewrite(records(folder, 2, 6), lambda lines: lines[:3])
    assert found(trail, folder) == [(Kind.MISSING, 2, 9, 10)]


def test_a_line_that_is_none(trail: Trail, folder: Path) -> None:
    rewrite(records(folder, 2, 6), lambda lines: [*lines[:2], b"{}\n", *lines[3:]])
    assert set(found(trail, folder)) == {(Kind.CHANGED, 2, 8, None), (Kind.MISSING, 2, 8, 8)}


def test_two_records_swapped(trail: Trail, folder: Path) -> None:
    rewrite(records(folder, 2, 6), lambda lines: [lines[1], lines[0], *lines[2:]])
    assert {finding[:3] for finding in found(trail, folder)} == {(Kind.MISSING, 2, 6), (Kind.REORDERED, 2, 6)}


def test_a_record_of_another_place(trail: Trail, folder: Path) -> None:
    strange = records(folder, 1, 1).read_bytes().splitlines(keepends=True)[0]
    rewrite(records(folder, 2, 6), lambda lines: [*lines, strange])
    assert (Kind.INSERTED, 2, 11, None) in found(trail, folder)


def test_a_blank_at_the_end(trail: Trail, folder: Path) -> None:
    rewrite(records(folder, 2, 6), lambda lines: [*lines[:-1], lines[-1].rstrip(b"\n")])
    assert found(trail, folder) == [(Kind.CHANGED, 2, 6, 10)]


@pytest.mark.parametrize("first", [1, 6, 11])
def test_a_segment_removed(trail: Trail, folder: Path, first: int) -> None:
    records(folder, 2, first).unlink()
    assert found(trail, folder) == [(Kind.MISSING, 2, first, first + 4)]
    records(folder, 2, first).with_suffix(".json").unlink()
    assert found(trail, folder) == [(Kind.MISSING_SEGMENT, 2, first, first + 4)]


def test_a_whole_writer_removed(trail: Trail, folder: Path) -> None:
    for path in (folder / "writers/00000001").iterdir():
        path.unlink()
    (folder / "writers/00000001").rmdir()
    assert found(trail, folder) == [(Kind.MISSING_SEGMENT, 1, 1, 10)]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"description":"{}","signature":"00"}'])
def test_a_description_changed(trail: Trail, folder: Path, content: bytes) -> None:
    path = records(folder, 2, 6).with_suffix(".json")
    path.unlink()
    path.write_bytes(content)
    assert found(trail, folder) == [(Kind.FORGED_SEGMENT, 2, 6, 10)]


def test_a_description_of_another_segment(trail: Trail, folder: Path) -> None:
    path = records(folder, 2, 6).with_suffix(".json")
    path.unlink()
    path.write_bytes(records(folder, 2, 11).with_suffix(".json").read_bytes())
    assert found(trail, folder) == [(Kind.FORGED_SEGMENT, 2, 6, 10)]


def test_checkpoints_removed_and_changed(trail: Trail, folder: Path) -> None:
    kept = newest_checkpoint(trail)
    middle, last = (folder / f"checkpoints/{number:012}.json" for number in (2, 3))
    content = middle.read_bytes()
    middle.unlink()
    assert (Kind.MISSING_CHECKPOINT, 0, 2, 2) in found(trail, folder)
    middle.write_bytes(content.replace(b"2026", b"2025"))
    assert (Kind.FORGED_CHECKPOINT, 0, 2, None) in found(trail, folder)
    middle.write_bytes(content)
    last.unlink()
    assert found(trail, folder) == []
    assert found(trail, folder, kept) == [(Kind.ROLLED_BACK, 0, 3, 3)]
