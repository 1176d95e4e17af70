"""The check of one chain of audit records, a record at a time: pure, and with bounded memory however long the chain."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from ownkey_server.domain import audit
from ownkey_server.domain.audit_findings import Finding, Findings, Kind

# After a break, how many hashes and places are remembered to tell where things have gone.
_MEMORY = 32


class ChainRow(NamedTuple):
    """A record as it is stored: columns, the bytes that are hashed, and the hash."""

    writer: int
    sequence: int
    time: int
    tenant: str
    body: bytes
    hash: bytes


class ChainChecker:
    """Checks that each record is the one that was written after the record before it.

    A record that is not is told, and the check goes on from what is stored, so that one change is one finding.

    Args:
        sequence: The last record that is known to be right; 0 to begin with the first.
        previous: Its hash; for 0 the writer's genesis.
        findings: Where what is found goes.
        on_event: Called with the sequence and the fields of each record about the trail itself.
    """

    def __init__(
        self,
        writer: int,
        sequence: int,
        previous: bytes,
        findings: Findings,
        on_event: Callable[[int, Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.writer = writer
        self.sequence = sequence
        self.hash = previous
        self.last_action = ""
        self._findings = findings
        self._on_event = on_event
        self._anchors: dict[int, tuple[bytes, Kind, str]] = {}
        self._before = (0, b"")
        self._suspicious = False
        self._hashes: deque[bytes] = deque(maxlen=_MEMORY)
        self._holes: deque[tuple[int, bytes]] = deque(maxlen=_MEMORY)

    def expect(self, sequence: int, digest: bytes, explanation: str, kind: Kind = Kind.CHANGED) -> None:
        """Have a signed statement compared: that this record has this hash."""
        if sequence == self.sequence:
            self._compare(sequence, self.hash, (digest, kind, explanation), None)
        elif sequence > self.sequence:
            self._anchors[sequence] = (digest, kind, explanation)

    def feed(self, row: ChainRow) -> None:
        """Check the next record."""
        if row.sequence <= self.sequence:
            text = f"it stands after record {self.sequence}: a second one of its number, or moved"
            self._add(Kind.REORDERED, row, text)
            return
        time = _time(row.time)
        after_gap = row.sequence != self.sequence + 1
        if after_gap:
            self.missing(row.sequence - 1, "no record is there, and no signed statement of retention explains it", time)
        computed = audit.chained(self.hash, self.writer, row.sequence, row.body)
        # What follows a gap cannot be compared with what was before it; what comes after it can.
        good = computed == row.hash or after_gap
        if not good and self._suspicious:
            good = any(audit.chained(p, self.writer, row.sequence, row.body) == row.hash for p in self._hashes)
        if good:
            self._read(row)
        else:
            self._broken(row, computed)
        self._suspicious = not good
        anchor = self._anchors.pop(row.sequence, None)
        if anchor and good:
            self._compare(row.sequence, row.hash, anchor, time)
        self._before = (self.sequence, self.hash)
        self.sequence, self.hash = row.sequence, row.hash

    def missing(self, last: int, explanation: str, time: datetime | None = None) -> None:
        """Tell that the records up to ``last`` are not there."""
        self._findings.add(Finding(Kind.MISSING, self.writer, self.sequence + 1, explanation, time, last))

    def skip_to(self, sequence: int, digest: bytes) -> None:
        """Go on after a record that is not there, whose hash a signed statement tells."""
        for passed in [number for number in self._anchors if number <= sequence]:
            anchor = self._anchors.pop(passed)
            if passed == sequence:
                self._compare(sequence, digest, anchor, None)
        self.sequence, self.hash = sequence, digest
        self.last_action = ""
        self._suspicious = False

    def _broken(self, row: ChainRow, computed: bytes) -> None:
        self.last_action = ""
        home = self._home(row)
        if home is not None:
            self._add(Kind.REORDERED, row, f"what stands there is what was written as record {home}")
        elif row.sequence == 1:
            self._add(Kind.CHANGED, row, "it does not follow from the writer's description: one of them was changed")
        elif self._suspicious:
            self._add(Kind.CHANGED, row, "its hash does not follow from it and the record before either")
        else:
            before = row.sequence - 1
            text = f"its hash does not follow from it and record {before}: it was changed, or record {before} was, with"
            self._add(Kind.CHANGED, row, f"{text} its hash computed anew")
        if not self._suspicious:
            self._holes.append((row.sequence, self.hash))
        self._hashes.extend((row.hash, computed))

    def _home(self, row: ChainRow) -> int | None:
        """The place that this record was written for, when it can be told."""
        places = [
            *self._holes,
            (row.sequence, self.hash),
            (row.sequence - 1, self._before[1]),
            (row.sequence - 1, self.hash),
            (row.sequence + 1, self.hash),
            (row.sequence + 1, self._before[1]),
        ]
        for sequence, previous in places:
            if 0 < sequence != row.sequence and audit.chained(previous, self.writer, sequence, row.body) == row.hash:
                return sequence
        return None

    def _compare(self, sequence: int, digest: bytes, anchor: tuple[bytes, Kind, str], time: datetime | None) -> None:
        expected, kind, explanation = anchor
        if digest != expected:
            self._findings.add(Finding(kind, self.writer, sequence, explanation, time))

    def _read(self, row: ChainRow) -> None:
        """Compare the columns that are searched by with the record, whose hash is good."""
        fields = body_fields(row.body)
        if fields is None:
            self._add(Kind.COLUMN_MISMATCH, row, "it is no JSON object, which ownkey does not write")
            return
        wrong = []
        if _timestamp(row.time) != fields.get("time"):
            wrong.append("time")
        if row.tenant != fields.get("tenant", ""):
            wrong.append("tenant")
        if wrong:
            what = " and ".join(wrong)
            self._add(Kind.COLUMN_MISMATCH, row, f"the column {what} says something else than the record")
        self.last_action = str(fields.get("action", ""))
        if self._on_event is not None and self.last_action.startswith("audit."):
            self._on_event(row.sequence, fields)

    def _add(self, kind: Kind, row: ChainRow, explanation: str) -> None:
        self._findings.add(Finding(kind, self.writer, row.sequence, explanation, _time(row.time)))


def body_fields(body: bytes) -> Mapping[str, Any] | None:
    """The record's fields; None when it is no JSON object."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _time(microseconds: int) -> datetime | None:
    try:
        return audit.from_microseconds(microseconds)
    except OverflowError:
        return None


def _timestamp(microseconds: int) -> str | None:
    time = _time(microseconds)
    return audit.timestamp(time) if time else None
