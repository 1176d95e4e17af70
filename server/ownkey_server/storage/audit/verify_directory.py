"""The check of a sink's directory: sealed segments and checkpoints as files, without any database."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from ownkey_server.domain import audit
from ownkey_server.domain.audit_chain import ChainChecker
from ownkey_server.domain.audit_checkpoints import CheckpointChecker, KnownCheckpoint
from ownkey_server.domain.audit_documents import DocumentInvalid, Segment, read_line, read_signed_document
from ownkey_server.domain.audit_findings import Finding, Findings, Kind
from ownkey_server.storage.audit.signing import Verifier
from ownkey_server.storage.audit.verify import Progress, Report, no_progress

_SEGMENT_NAME = re.compile(r"([0-9]{12,})-([0-9]{12,})\.json")
_MANY = 5000


def verify_directory(
    directory: Path,
    verifier: Verifier,
    *,
    progress: Progress = no_progress,
    known_checkpoint: bytes | None = None,
) -> Report:
    """Check every file of a sink.

    It knows nothing of what is not sealed yet. Heads of checkpoints are held in memory, some hundred bytes each.

    Args:
        directory: The sink's directory, or a copy of a bucket.
        verifier: The public keys that are trusted.
        progress: Called now and then with the records checked.
        known_checkpoint: What ``ownkey audit checkpoint`` printed once: the directory must hold it.

    Raises:
        DocumentInvalid: The known checkpoint is none, or not signed by a key that is trusted.
        OSError: A file cannot be read.
    """
    return _Directory(directory, verifier, progress, known_checkpoint).verify()


class _Directory:
    def __init__(self, directory: Path, verifier: Verifier, progress: Progress, known: bytes | None) -> None:
        self._directory = directory
        self._verifier = verifier
        self._progress = progress
        self._findings = Findings()
        self._known = KnownCheckpoint(known, verifier.good) if known is not None else None
        self._checkpoints = CheckpointChecker(verifier.good, self._findings)
        self._heads: dict[int, dict[int, tuple[bytes, int]]] = {}
        self._records = self._segments = 0

    def verify(self) -> Report:
        count = self._check_checkpoints()
        folders = {int(each.name): each for each in self._directory.glob("writers/*") if each.name.isdecimal()}
        for number in sorted({*folders, *self._checkpoints.sealed}):
            self._check_writer(number, folders.get(number))
        return Report(
            findings=tuple(sorted(self._findings, key=lambda finding: (finding.writer, finding.sequence))),
            omitted=self._findings.omitted,
            ok=not self._findings.bad,
            writers=len(folders),
            records=self._records,
            segments=self._segments,
            checkpoints=count,
            checkpoint=self._checkpoints.number,
            checkpoint_time=self._checkpoints.time,
        )

    def _check_checkpoints(self) -> int:
        count = 0
        for path in sorted(self._directory.glob("checkpoints/*.json")):
            if not path.stem.isdecimal():
                continue
            count += 1
            number = int(path.stem)
            try:
                description, signature = read_signed_document(path.read_bytes())
            except DocumentInvalid:
                description, signature = b"", b""
            checkpoint = self._checkpoints.feed(number, description, signature)
            if self._known is not None:
                self._known.compare(number, description, self._findings)
            for head in checkpoint.heads if checkpoint else ():
                self._heads.setdefault(head.writer, {})[head.sequence] = (head.hash, number)
        if self._known is not None:
            self._known.require_reached(self._checkpoints.number, self._findings)
            self._checkpoints.learn(self._known.checkpoint)
        return count

    def _check_writer(self, number: int, folder: Path | None) -> None:
        checker: ChainChecker | None = None
        end = 0
        for path, first, last in _segment_files(folder):
            if first > end + 1:
                self._add(Kind.MISSING_SEGMENT, number, end + 1, "no segment is there", first - 1)
                checker = None
            if first <= end:
                self._add(Kind.REORDERED, number, first, f"{path.name} covers what another segment does")
                continue
            end = last
            self._segments += 1
            segment = self._signed(path, number, first, last)
            if segment is None:
                checker = None
                continue
            if checker is None:
                checker = self._checker(number, segment)
            elif segment.previous != checker.hash:
                self._add(Kind.FORGED_SEGMENT, number, first, "it does not continue the segment before it")
            self._check_file(path.with_suffix(".jsonl"), segment, checker)
        sealed = self._checkpoints.sealed.get(number, 0)
        if sealed > end:
            self._add(Kind.MISSING_SEGMENT, number, end + 1, "a checkpoint says that it was sealed", sealed)

    def _checker(self, number: int, segment: Segment) -> ChainChecker:
        checker = ChainChecker(number, segment.first_sequence - 1, segment.previous, self._findings)
        for sequence, (digest, by) in self._heads.get(number, {}).items():
            text = f"checkpoint {by} is signed for another record in its place"
            checker.expect(sequence, digest, text, Kind.ROLLED_BACK)
        return checker

    def _signed(self, path: Path, number: int, first: int, last: int) -> Segment | None:
        wrong = "its signature is not of a key that is trusted"
        try:
            description, signature = read_signed_document(path.read_bytes())
            if self._verifier.good(signature, audit.segment_statement(description)):
                segment = Segment.from_bytes(description)
                if (segment.writer, segment.first_sequence, segment.last_sequence) == (number, first, last):
                    return segment
                wrong = "it is another segment's, under this one's name"
        except DocumentInvalid as error:
            wrong = f"{path.name}: {error}"
        self._add(Kind.FORGED_SEGMENT, number, first, wrong, last)
        return None

    def _check_file(self, path: Path, segment: Segment, checker: ChainChecker) -> None:
        checker.expect(segment.last_sequence, segment.hash, "the segment is signed for another in its place")
        if not path.exists():
            if self._checkpoints.removed.get(segment.writer, 0) < segment.last_sequence:
                checker.missing(segment.last_sequence, f"the file {path.name} is not there")
            checker.skip_to(segment.last_sequence, segment.hash)
            return
        before, digest = self._findings.bad, hashlib.sha256()
        with path.open("rb") as file:
            for lines in iter(lambda: list(itertools.islice(file, _MANY)), []):
                for content in lines:
                    digest.update(content)
                    self._check_line(content, segment, checker)
                self._records += len(lines)
                self._progress(self._records, self._records)
        if checker.sequence < segment.last_sequence:
            checker.missing(segment.last_sequence, f"the file {path.name} ends before")
            checker.skip_to(segment.last_sequence, segment.hash)
        if digest.digest() != segment.file_sha256 and self._findings.bad == before:
            text = f"the file {path.name} is not the one that was signed, though its records are"
            self._add(Kind.CHANGED, segment.writer, segment.first_sequence, text, segment.last_sequence)

    def _check_line(self, text: bytes, segment: Segment, checker: ChainChecker) -> None:
        here = checker.sequence + 1
        try:
            row = read_line(text)
        except DocumentInvalid as error:
            self._add(Kind.CHANGED, segment.writer, here, f"its line {error}")
            return
        if row.writer != segment.writer or row.sequence > segment.last_sequence:
            self._add(Kind.INSERTED, segment.writer, here, "a record of another place is there")
        else:
            checker.feed(row)

    def _add(self, kind: Kind, writer: int, sequence: int, explanation: str, last: int | None = None) -> None:
        self._findings.add(Finding(kind, writer, sequence, explanation, last=last))


def _segment_files(folder: Path | None) -> Iterator[tuple[Path, int, int]]:
    """The descriptions in a writer's folder, in the order of their records."""
    found = []
    for path in folder.iterdir() if folder is not None else ():
        name = _SEGMENT_NAME.fullmatch(path.name)
        if name is not None:
            found.append((path, int(name[1]), int(name[2])))
    yield from sorted(found, key=lambda each: each[1:])
