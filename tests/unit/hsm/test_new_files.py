"""Files of ceremonies are written whole or not at all, over nothing, and through no link."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ownkey_server.hsm import new_files
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.new_files import reserved, write_new


def test_what_is_there_is_not_written_over_and_no_link_is_followed(tmp_path: Path) -> None:
    there, target, link = tmp_path / "there", tmp_path / "target", tmp_path / "link"
    there.write_bytes(b"mine")
    link.symlink_to(target)
    for path in (there, link):
        with pytest.raises(HsmError, match="is there already") as caught:
            write_new(path, b"theirs")
        assert caught.value.trouble is Trouble.TAKEN
    assert (there.read_bytes(), target.exists(), {*tmp_path.iterdir()}) == (b"mine", False, {there, link})


@pytest.mark.parametrize("links", [True, False])
def test_of_two_files_both_are_there_or_neither(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are no hard links, as on FAT."""

    def no_link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(new_files.os, "link", no_link)
    one, other = tmp_path / "new" / "one", tmp_path / "new" / "other"
    with reserved(one, other) as files:
        # Laid there by somebody after it was seen that nothing was.
        other.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(HsmError, match="other is there already"):
            files.write({one: b"1", other: b"2"})
    assert [*one.parent.iterdir()] == [other]
    other.unlink()
    with reserved(one, other) as files:
        files.write({one: b"1", other: b"2"})
    assert {path.name: path.read_bytes() for path in one.parent.iterdir()} == {"one": b"1", "other": b"2"}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_does_not_fit_is_not_there(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def half(descriptor: int, content: bytes) -> int:
        written.append(descriptor)
        # The first is the one aside: where there are no links, it is the second that is the file itself.
        return write(descriptor, content if len(written) == 1 and not links else content[:1])

    written: list[int] = []
    write: Any = os.write
    if not links:
        monkeypatch.setattr(new_files.os, "link", no_link)
    monkeypatch.setattr(new_files.os, "write", half)
    with pytest.raises(HsmError, match="No space left"):
        write_new(tmp_path / "file", b"content")
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_takes_no_file_is_told_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HsmError, match="cannot be written"), reserved(tmp_path / "file" / "under"):
        pytest.fail("nothing is done")
