"""What a check of the audit trail finds: each finding says what, where, and in plain words why."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

# How many are kept; what comes after these is counted. A log that is wrong everywhere must not fill the memory.
MAX_FINDINGS = 1000


class Kind(StrEnum):
    """What is wrong; the last three are no fault of the log, and only to be known."""

    CHANGED = "changed"
    MISSING = "missing"
    REORDERED = "reordered"
    INSERTED = "inserted"
    TRUNCATED = "truncated"
    COLUMN_MISMATCH = "column_mismatch"
    FORGED_HEAD = "forged_head"
    FORGED_SEGMENT = "forged_segment"
    FORGED_CHECKPOINT = "forged_checkpoint"
    MISSING_WRITER = "missing_writer"
    MISSING_SEGMENT = "missing_segment"
    MISSING_CHECKPOINT = "missing_checkpoint"
    ROLLED_BACK = "rolled_back"
    NOT_CLOSED = "not_closed"
    CHAIN_BROKEN = "chain_broken"
    RECORDS_LOST = "records_lost"


INFORMATIONAL = frozenset({Kind.NOT_CLOSED, Kind.CHAIN_BROKEN, Kind.RECORDS_LOST})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or to be known.

    Attributes:
        writer: Number of the chain; 0 for the chain of checkpoints.
        sequence: The record's number, or the checkpoint's. 0 is the writer's description.
        explanation: What it means, for people.
        time: When the record was made, as far as it is known.
        last: The last record's number, when it is about several in a row.
    """

    kind: Kind
    writer: int
    sequence: int
    explanation: str
    time: datetime | None = None
    last: int | None = None

    @property
    def informational(self) -> bool:
        """Whether the log is as it should be all the same."""
        return self.kind in INFORMATIONAL

    @property
    def place(self) -> str:
        """Where, for people."""
        several = self.last is not None and self.last != self.sequence
        if self.kind is Kind.MISSING_WRITER:
            return f"writers {self.writer} to {self.last}" if several else f"writer {self.writer}"
        what = f"writer {self.writer}, record" if self.writer else "checkpoint"
        return f"{what}s {self.sequence} to {self.last}" if several else f"{what} {self.sequence}"


class Findings:
    """Gathers findings; the same of neighbouring records becomes one."""

    def __init__(self, limit: int = MAX_FINDINGS) -> None:
        self._limit = limit
        self._findings: list[Finding] = []
        self.omitted = 0
        self.bad = 0

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._findings)

    def __len__(self) -> int:
        return len(self._findings)

    def add(self, finding: Finding) -> None:
        """Note one."""
        before = self._findings[-1] if self._findings else None
        if before is not None and not self.omitted and _continues(before, finding):
            self._findings[-1] = dataclasses.replace(before, last=finding.last or finding.sequence)
            return
        if not finding.informational:
            self.bad += 1
        if len(self._findings) >= self._limit:
            self.omitted += 1
        else:
            self._findings.append(finding)


def _continues(before: Finding, finding: Finding) -> bool:
    return (
        before.kind is finding.kind
        and before.writer == finding.writer
        and before.explanation == finding.explanation
        and finding.sequence == (before.last or before.sequence) + 1
    )
