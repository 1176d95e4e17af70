"""A ceremony log is one file: what is locked is what is checked and added to, by one ceremony at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ownkey_server.domain.ceremonies import Action, Phase, Register
from ownkey_server.hsm import ceremony_log
from ownkey_server.hsm.ceremony_check import check
from ownkey_server.hsm.ceremony_log import Intent, open_new, opened
from ownkey_server.hsm.errors import HsmError

NOW = datetime(2026, 11, 28, tzinfo=UTC)
INTENT = Intent(Action.KEYGEN, key="acme-main/v1")


def clock() -> datetime:
    return NOW


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "ceremonies.jsonl"
    open_new(path, clock, Register({}, 0), ())
    return path


def one_ceremony(path: Path) -> None:
    with opened(path, clock) as book:
        book.begin(INTENT, ()).done({})


def another_in_place_of(path: Path) -> bytes:
    """Put another log, as sound, in the place of this one; what it holds."""
    aside = path.with_name("aside")
    open_new(aside, clock, Register({}, 0), ())
    aside.replace(path)
    return path.read_bytes()


def test_a_file_that_was_replaced_before_it_was_locked_is_not_added_to(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def replaced(descriptor: int, how: int) -> None:
        other.append(another_in_place_of(log))
        lock(descriptor, how)

    other: list[bytes] = []
    monkeypatch.setattr(ceremony_log.fcntl, "flock", replaced)
    with pytest.raises(HsmError, match="was replaced by another file"):
        one_ceremony(log)
    assert log.read_bytes() == other[0]


def test_a_file_that_was_replaced_during_a_ceremony_is_not_added_to(log: Path) -> None:
    with opened(log, clock) as book:
        begun = book.begin(INTENT, ())
        other = another_in_place_of(log)
        with pytest.raises(HsmError, match="was replaced by another file"):
            begun.done({})
    assert log.read_bytes() == other


def test_a_log_that_is_gone_during_a_ceremony_is_told(log: Path) -> None:
    with opened(log, clock) as book:
        log.rename(log.with_name("moved"))
        with pytest.raises(HsmError, match="was moved or removed"):
            book.begin(INTENT, ())


def test_what_another_program_writes_or_cuts_off_in_a_ceremony_ends_it(log: Path) -> None:
    before = log.read_bytes()
    for changed in (before + before.splitlines(keepends=True)[-1], before[:-20]):
        log.write_bytes(before)
        with opened(log, clock) as book:
            log.write_bytes(changed)
            with pytest.raises(HsmError, match="was written to by something else"):
                book.begin(INTENT, ())
        assert log.read_bytes() == changed


def test_a_symbolic_link_is_no_log(log: Path) -> None:
    link = log.with_name("link")
    link.symlink_to(log)
    for use in (one_ceremony, check):
        with pytest.raises(HsmError, match="is a symbolic link") as caught:
            use(link)
        assert str(log.resolve()) in caught.value.hint
    assert len(check(log).records) == 1


def test_a_pipe_or_a_folder_is_no_log_and_nobody_waits_for_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(HsmError, match="is no file"):
            check(tmp_path / name)
        with pytest.raises(HsmError):
            one_ceremony(tmp_path / name)


def test_two_who_write_at_once_write_one_after_the_other(log: Path) -> None:
    ceremonies, refused, together = 12, list[str](), threading.Barrier(2)

    def write() -> None:
        together.wait(30)
        left = ceremonies
        while left:
            try:
                one_ceremony(log)
            except HsmError as error:
                refused.append(str(error))
            else:
                left -= 1

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    checked = check(log)
    assert (checked.problems, len(checked.records)) == ([], 1 + 2 * 2 * ceremonies)
    assert not [message for message in refused if "another ceremony is under way" not in message]


def test_a_last_line_that_was_cut_off_counts_for_nothing_wherever_it_was(log: Path, tmp_path: Path) -> None:
    one_ceremony(log)
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    start = len(whole) - len(lines[-1])
    for end in (start + 1, start + 10, len(whole) - 1):
        copy = tmp_path / "cut"
        copy.write_bytes(whole[:end])
        checked = check(copy)
        assert (checked.problems, len(checked.records), [*checked.unfinished]) == ([], 2, [2])
        one_ceremony(copy)
        after = check(copy)
        assert (after.problems, after.records[3].detail) == ([], {"cut_off_before": end - start})
        assert copy.read_bytes().startswith(whole[:start])


def test_a_record_that_does_not_fit_on_the_disk_is_not_there_at_all(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(descriptor: int, content: bytes) -> int:
        return write(descriptor, content[: len(content) // 2])

    write: Any = os.write
    before = log.read_bytes()
    with opened(log, clock) as book:
        with monkeypatch.context() as patch:
            patch.setattr(ceremony_log.os, "write", half)
            with pytest.raises(HsmError, match="no space is left"):
                book.begin(INTENT, ())
        assert log.read_bytes() == before
        book.begin(INTENT, ()).failed("no space was left")
    assert [record.phase for record in check(log).records.values()] == [Phase.DONE, Phase.BEGUN, Phase.FAILED]


def test_a_copy_of_a_log_is_a_log(log: Path, tmp_path: Path) -> None:
    shutil.copy(log, tmp_path / "copy")
    one_ceremony(tmp_path / "copy")
    assert len(check(tmp_path / "copy").records) == 3
