"""The check of a ceremony log: its chain, who confirmed what, and whether each ceremony came to an end."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from ownkey_server.domain import audit
from ownkey_server.domain.audit_chain import ChainChecker, ChainRow
from ownkey_server.domain.audit_documents import DocumentInvalid, read_line
from ownkey_server.domain.audit_findings import Findings
from ownkey_server.domain.ceremonies import (
    WRITER,
    Action,
    CeremonyInvalid,
    Description,
    Phase,
    Record,
    Register,
    confirmed_by,
)
from ownkey_server.hsm.custodians import good
from ownkey_server.hsm.errors import HsmError, Trouble

LARGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class Head:
    """How far a log has come: enough to tell later whether it still is that log."""

    sequence: int
    hash: bytes

    @classmethod
    def parse(cls, text: str) -> Head:
        """What ``str`` gave.

        Raises:
            HsmError: It is no head.
        """
        sequence, _, digest = text.partition(":")
        try:
            head = cls(int(sequence), bytes.fromhex(digest))
        except ValueError:
            head = cls(-1, b"")
        if head.sequence < 0 or len(head.hash) != audit.HASH_LENGTH:
            raise HsmError("a head is a number, a colon and 64 hexadecimal digits, as each ceremony prints it")
        return head

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash.hex()}"


@dataclass(slots=True)
class Checked:
    """A log, as far as it was read.

    Attributes:
        problems: What is wrong with it, a line each; empty when all is well.
        notes: What is to be known and no fault of the log.
        unfinished: Ceremonies that began and have no end, by number.
        records: All of them, by number.
        register: Who confirms, as the last record leaves it.
        end: Offset in bytes after the last whole line.
        cut_off: Bytes after that: a line that was not written to its end.
    """

    description: Description
    register: Register
    head: Head
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unfinished: dict[int, Record] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)
    end: int = 0
    cut_off: bytes = b""

    def require_sound(self, path: Path) -> None:
        """Refuse to go on with a log that is not right.

        Raises:
            HsmError: It is not.
        """
        if self.problems:
            more = f", and {len(self.problems) - 1} more" if len(self.problems) > 1 else ""
            raise HsmError(
                f"{path} is not as it was written: {self.problems[0]}{more}",
                Trouble.FORGED,
                "`ownkey hsm ceremony verify` tells all; put back a copy that verifies, or open a new log",
            )

    def published(self, key: str, serial: str) -> Record | None:
        """The last record by which a key of this label was made in the token of this serial number."""
        made = (Action.KEYGEN, Action.ROTATE, Action.IMPORT, Action.LOAD)
        found = [r for r in self.records.values() if r.key == key and r.phase is Phase.DONE and r.action in made]
        return next((r for r in reversed(found) if any(token.get("serial") == serial for token in r.tokens)), None)


def check(path: Path, known: Head | None = None) -> Checked:
    """Check a log from its first line to its last.

    Args:
        path: The file.
        known: A head that a ceremony printed once: the log must have come by it.

    Raises:
        HsmError: There is no log to check.
    """
    descriptor = open_log(path, os.O_RDONLY)
    try:
        return check_opened(path, descriptor, known)
    finally:
        os.close(descriptor)


def check_opened(path: Path, descriptor: int, known: Head | None = None) -> Checked:
    """Check a log that is open: this very file, whatever has its name by now.

    Raises:
        HsmError: It is no log.
    """
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(0)
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise HsmError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise HsmError(f"{path} is larger than {LARGEST >> 20} MiB: no ceremony log is")
    end = content.rfind(b"\n") + 1
    lines, rest = content[:end].splitlines(keepends=True), content[end:]
    try:
        description = Description.from_bytes(lines[0].removesuffix(b"\n") if lines else b"")
    except CeremonyInvalid as error:
        raise HsmError(f"{path} is no ceremony log: {error}", Trouble.FORGED) from None
    return _Check(description, known).run(lines[1:], end, rest)


def open_log(path: Path, flags: int) -> int:
    """A descriptor of a log's file: the file itself, for a link may point elsewhere a moment later.

    Raises:
        HsmError: There is none, or it is no file.
    """
    try:
        # Without waiting: a pipe of that name would have us wait for somebody to write to it.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            hint = f"--log {path.resolve()}, if that is the log"
            raise HsmError(f"{path} is a symbolic link, and a ceremony log must not be", hint=hint) from None
        hint = "`ownkey hsm ceremony open` begins a log; --log names another"
        raise HsmError(f"{path}: the ceremony log: {error.strerror}", Trouble.NOT_FOUND, hint) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise HsmError(f"{path} is no file: a ceremony log is one")
    return descriptor


class _Check:
    def __init__(self, description: Description, known: Head | None) -> None:
        genesis = audit.genesis(description.to_bytes())
        self._found = Checked(description, description.register, Head(0, genesis))
        self._chain_findings = Findings()
        self._chain = ChainChecker(WRITER, 0, genesis, self._chain_findings)
        self._known = known
        self._has_known = known is None or known == self._found.head

    def run(self, lines: list[bytes], end: int, rest: bytes) -> Checked:
        found = self._found
        for line in lines:
            self._line(line)
        found.problems[:0] = [
            f"record {each.sequence}: {each.explanation}" for each in self._chain_findings if not each.informational
        ]
        found.head = Head(self._chain.sequence, self._chain.hash)
        found.end, found.cut_off = end, rest
        if not self._has_known:
            found.problems.append(
                f"the head {self._known} is not in it: it is another log, or an older copy, or changed"
            )
        if rest:
            found.notes.append(
                f"its last line was cut off while it was written ({len(rest)} bytes): nothing counts on it"
            )
        if not lines:
            found.problems.append("it has no record: not even that of its opening")
        unsigned = [str(number) for number, record in found.records.items() if not record.confirmations]
        if unsigned and found.register.needed:
            found.notes.append(
                f"confirmed by nobody, as settlements are, and failures with all custodians elsewhere: record"
                f" {', '.join(unsigned)}. Whoever can write the file can say so of a ceremony that has no end, or"
                " whose end they cut off: a head kept apart tells"
            )
        for number, record in found.unfinished.items():
            what = f"{record.action.value} {record.key}".strip()
            found.notes.append(f"ceremony {number} ({what}) began and has no end: it was cut off")
        return found

    def _line(self, line: bytes) -> None:
        here = self._chain.sequence + 1
        try:
            row = read_line(line)
        except DocumentInvalid as error:
            self._found.problems.append(f"record {here}: its line {error}")
            return
        if row.writer != WRITER:
            self._found.problems.append(f"record {here}: it is of another log")
            return
        previous = self._chain.hash
        self._chain.feed(row)
        if self._known is not None and Head(row.sequence, row.hash) == self._known:
            self._has_known = True
        try:
            record = Record.from_body(row.body)
        except CeremonyInvalid as error:
            self._found.problems.append(f"record {row.sequence}: {error}")
            return
        self._record(row, record, previous)

    def _record(self, row: ChainRow, record: Record, previous: bytes) -> None:
        found, number = self._found, row.sequence
        problems = [*self._order(number, record), *self._confirmations(record, previous)]
        found.problems.extend(f"record {number}: {what}" for what in problems)
        found.records[number] = record
        if record.phase is Phase.BEGUN:
            found.unfinished[number] = record
        else:
            found.unfinished.pop(record.ceremony, None)
        if record.action is Action.CUSTODIANS and record.phase is Phase.DONE:
            try:
                found.register = Register.from_fields(record.detail)
            except CeremonyInvalid as error:
                found.problems.append(f"record {number}: {error}")

    def _order(self, number: int, record: Record) -> list[str]:
        if number == 1:
            # Only that record is signed by all whom the first line names.
            opens = record.action is Action.OPEN_LOG and record.phase is Phase.DONE and not record.ceremony
            return [] if opens else ["it is not the opening of the log"]
        if record.phase is Phase.BEGUN:
            wrong = record.ceremony != 0
            return ["it begins a ceremony and says that it belongs to another"] if wrong else []
        begun = self._found.unfinished.get(record.ceremony)
        if begun is None:
            return [f"it ends ceremony {record.ceremony}, which is not under way"]
        same = (begun.action, begun.key, begun.tokens) == (record.action, record.key, record.tokens)
        initialized = record.action is Action.INITIALIZE  # which gives the token another serial number
        return [] if same or initialized else [f"it ends ceremony {record.ceremony}, which was about something else"]

    def _confirmations(self, record: Record, previous: bytes) -> list[str]:
        register = self._found.register
        names, wrong = confirmed_by(record, previous, _with_joining(register, record), good)
        needed = register.needed_for(record.action)
        if record.action is Action.OPEN_LOG:
            needed = len(register.custodians)
        if record.phase is not Phase.FAILED and len(names & {*register.custodians}) < needed:
            by = ", ".join(sorted(names)) or "nobody"
            wrong.append(f"{needed} custodians had to confirm it, and it is confirmed by {by}")
        return wrong


def _with_joining(register: Register, record: Record) -> Register:
    """Those who confirm a change of custodians: the old ones, and the new ones that show that they have their keys."""
    if record.action is not Action.CUSTODIANS:
        return register
    try:
        joining = Register.from_fields(record.detail).custodians
    except CeremonyInvalid:
        return register
    return Register({**joining, **register.custodians}, register.needed)


def fingerprint(public_key: bytes) -> str:
    """Which key it is: SHA-256 of its 32 bytes, in hex."""
    return hashlib.sha256(public_key).hexdigest()
