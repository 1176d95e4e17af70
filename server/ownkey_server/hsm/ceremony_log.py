"""The ceremony log: a file of JSON lines that is only ever added to, by one ceremony at a time."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ownkey_server.domain import audit
from ownkey_server.domain.audit_chain import ChainRow
from ownkey_server.domain.audit_documents import line
from ownkey_server.domain.ceremonies import (
    WRITER,
    Action,
    CeremonyInvalid,
    Description,
    Phase,
    Record,
    Register,
)
from ownkey_server.domain.clock import Clock
from ownkey_server.hsm.ceremony_check import Checked, Head, check_opened, open_log
from ownkey_server.hsm.custodians import Confirming, Custodian
from ownkey_server.hsm.errors import HsmError, Trouble


@dataclass(frozen=True, slots=True)
class Intent:
    """What is to be done.

    Attributes:
        tokens: The tokens concerned, as they describe themselves.
        key: The key's label.
        detail: What else there is to say, never a secret.
    """

    action: Action
    tokens: tuple[Mapping[str, str], ...] = ()
    key: str = ""
    detail: Mapping[str, Any] | None = None


class CeremonyLog:
    """A log that is open for one ceremony.

    Args:
        path: The file.
        clock: Tells the time.
        checked: What is in it.
        descriptor: The file, locked and open for adding to it.
    """

    def __init__(self, path: Path, clock: Clock, checked: Checked, descriptor: int) -> None:
        self.path = path
        self.checked = checked
        self._clock = clock
        self._descriptor = descriptor
        self._cut_off = len(checked.cut_off)

    @property
    def register(self) -> Register:
        """Who confirms."""
        return self.checked.register

    @property
    def head(self) -> Head:
        """How far it has come."""
        return self.checked.head

    def begin(self, intent: Intent, custodians: Sequence[Confirming]) -> Ceremony:
        """Begin a ceremony, confirmed by custodians: nothing is done before this is on disk.

        Raises:
            HsmError: They are not who must confirm it, or it cannot be written.
        """
        self._require(intent.action, custodians)
        detail = {**(intent.detail or {})}
        if self._cut_off:
            detail["cut_off_before"] = self._cut_off
            self._cut_off = 0
        record = self.record(intent, Phase.BEGUN, 0, detail)
        number = self.append(self.confirmed(record, custodians))
        return Ceremony(self, number, intent, tuple(custodians))

    def _require(self, action: Action, custodians: Sequence[Confirming]) -> None:
        present = {each.name for each in custodians if self.register.custodians.get(each.name) == each.public_key}
        strangers = sorted({each.name for each in custodians} - present)
        if strangers and action is not Action.CUSTODIANS:
            raise HsmError(
                f"{strangers[0]} is no custodian of {self.path}, or that is not the key that the log knows",
                Trouble.REFUSED,
                f"its custodians are: {', '.join(sorted(self.register.custodians)) or 'none'}",
            )
        needed = self.register.needed_for(action)
        if len(present) < needed:
            names = ", ".join(sorted(self.register.custodians)) or "none: `ownkey hsm ceremony custodians` names some"
            raise HsmError(
                f"{needed} custodians must confirm this, and {len(present)} did",
                Trouble.REFUSED,
                f"--custodian NAME=KEYFILE for each; the custodians are {names}",
            )

    def record(self, intent: Intent, phase: Phase, ceremony: int, detail: Mapping[str, Any]) -> Record:
        """A record of a ceremony as of now, not confirmed and not written; ``ceremony`` is 0 for its first."""
        return Record(
            action=intent.action,
            phase=phase,
            time=self._clock(),
            ceremony=ceremony,
            operator=_operator(),
            tokens=intent.tokens,
            key=intent.key,
            detail=detail,
        )

    def confirmed(self, record: Record, custodians: Sequence[Confirming]) -> Record:
        """The record with their confirmations, once all have given theirs. Nothing is written.

        Raises:
            HsmError: Somebody does not confirm it.
        """
        previous, number = self.head.hash, self.head.sequence + 1
        with contextlib.ExitStack() as asking:
            waits = [asking.enter_context(each.asked(record, previous, number)) for each in custodians]
            return replace(record, confirmations=tuple(wait() for wait in waits))

    def append(self, record: Record) -> int:
        """Write a record, which must be confirmed in this very place; its number."""
        previous, number = self.head.hash, self.head.sequence + 1
        body = record.body()
        digest = audit.chained(previous, WRITER, number, body)
        row = ChainRow(WRITER, number, audit.microseconds(record.time), "", body, digest)
        content = line(row)
        require_same_file(self.path, self._descriptor, self.checked.end)
        _write(self.path, self._descriptor, content)
        self.checked.end += len(content)
        require_same_file(self.path, self._descriptor, self.checked.end)
        self.checked.records[number] = record
        self.checked.head = Head(number, digest)
        return number


class Ceremony:
    """A ceremony that has begun. It must end, one way or the other."""

    def __init__(self, log: CeremonyLog, number: int, intent: Intent, custodians: tuple[Confirming, ...]) -> None:
        self.number = number
        self._log = log
        self._intent = intent
        self._custodians = custodians

    def agreed(
        self, outcome: Mapping[str, Any], tokens: tuple[Mapping[str, str], ...] | None = None
    ) -> Callable[[], Head]:
        """Have the same custodians confirm what came of it; what is given records it.

        Args:
            outcome: What there is to say of it, never a secret.
            tokens: The tokens, where they are others than before: one that was initialized.

        Raises:
            HsmError: Somebody does not confirm it. Nothing is recorded.
        """
        intent = self._intent if tokens is None else replace(self._intent, tokens=tokens)
        record = self._log.confirmed(self._log.record(intent, Phase.DONE, self.number, outcome), self._custodians)
        return lambda: self._recorded(record)

    def done(self, outcome: Mapping[str, Any], tokens: tuple[Mapping[str, str], ...] | None = None) -> Head:
        """Record what came of what cannot be undone, confirmed by the same custodians; arguments of :meth:`agreed`.

        Raises:
            HsmError: Somebody does not confirm it, or it cannot be written. The log then shows that it began alone.
        """
        try:
            record = self.agreed(outcome, tokens)
        except HsmError as error:
            what = f"{error}; it was done all the same, and the log says only that it began"
            raise HsmError(what, error.trouble, error.hint) from error
        return record()

    def failed(self, why: str) -> Head:
        """Record that nothing came of it.

        Custodians whose keys are open here sign it; nobody is asked elsewhere, for it lets nobody do anything. So a
        failure that somebody without their keys has made up is seen by what it lacks.
        """
        record = self._log.record(self._intent, Phase.FAILED, self.number, {"why": why})
        known = self._log.register.custodians
        here = [
            each for each in self._custodians if isinstance(each, Custodian) and known.get(each.name) == each.public_key
        ]
        return self._recorded(self._log.confirmed(record, here))

    def _recorded(self, record: Record) -> Head:
        self._log.append(record)
        return self._log.head


def open_new(path: Path, clock: Clock, register: Register, custodians: Sequence[Custodian]) -> Head:
    """Begin a log, confirmed by all its custodians.

    Raises:
        HsmError: There is a file already, or it cannot be written.
    """
    try:
        register.require_sound()
    except CeremonyInvalid as error:
        raise HsmError(str(error)) from None
    now = clock()
    description = Description(secrets.token_hex(16), now, register)
    genesis = audit.genesis(description.to_bytes())
    record = Record(Action.OPEN_LOG, Phase.DONE, now, 0, _operator(), (), "")
    record = replace(record, confirmations=tuple(each.confirm(record, genesis) for each in custodians))
    body = record.body()
    digest = audit.chained(genesis, WRITER, 1, body)
    row = ChainRow(WRITER, 1, audit.microseconds(now), "", body, digest)
    content = description.to_bytes() + b"\n" + line(row)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            _write(aside, descriptor, content)
            os.link(aside, path)
        finally:
            os.close(descriptor)
            aside.unlink()
        _sync_folder(path)
    except FileExistsError:
        raise HsmError(f"{path} is there already: a log is never overwritten", Trouble.TAKEN) from None
    except OSError as error:
        raise HsmError(f"{path}: the log cannot be written: {error.strerror}") from None
    return Head(1, digest)


@contextlib.contextmanager
def opened(path: Path, clock: Clock) -> Iterator[CeremonyLog]:
    """A log to add to, until the block ends. Nobody else adds to it meanwhile.

    It is opened once: what is locked, checked and added to is one file, and it still has that name.

    Raises:
        HsmError: It is not there, not right, or in use.
    """
    descriptor = open_log(path, os.O_RDWR | os.O_APPEND)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HsmError(f"{path}: another ceremony is under way", Trouble.TAKEN, "wait until it has ended") from None
        checked = check_opened(path, descriptor)
        checked.require_sound(path)
        require_same_file(path, descriptor, checked.end + len(checked.cut_off))
        if checked.cut_off:
            # It was never told to anybody as written; the next record says that it was here.
            os.ftruncate(descriptor, checked.end)
            os.fsync(descriptor)
        yield CeremonyLog(path, clock, checked, descriptor)
    finally:
        os.close(descriptor)


def require_same_file(path: Path, descriptor: int, length: int) -> None:
    """Refuse to add to a file that its name does not lead to any more, or that another program has written to.

    Raises:
        HsmError: It is so. A record added to it would be read by nobody, or would not fit the one before.
    """
    ours = os.fstat(descriptor)
    try:
        named = path.lstat()
    except OSError:
        named = None
    if named is None or (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
        what = "was replaced by another file" if named else "was moved or removed"
        raise HsmError(
            f"{path} {what} while a ceremony was under way", Trouble.FORGED, "find out by whom; then verify the log"
        )
    if ours.st_size != length:
        raise HsmError(
            f"{path} was written to by something else while a ceremony was under way",
            Trouble.FORGED,
            "find out by whom; then verify the log",
        )


def _write(path: Path, descriptor: int, content: bytes) -> None:
    """Write all of it, or nothing."""
    before = os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, content)
        os.fsync(descriptor)
        why = "" if written == len(content) else "no space is left"
    except OSError as error:
        why = error.strerror or "it fails"
    if why:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, before)
        raise HsmError(f"{path}: the log cannot be written: {why}")


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _operator() -> str:
    """Who runs this, as the system says: whoever is root can be anybody."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
