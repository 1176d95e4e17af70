"""An output is there whole, or not at all."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ownkey.files import ENDING_SIGNALS, OutputExists, OutputFile, Terminated, require_free, write_file


class Broken(Exception):
    """What a source raised."""


def breaking(path: Path) -> Iterator[bytes]:
    yield b"first"
    assert not path.exists()
    assert len(list(path.parent.iterdir())) == 1
    raise Broken


def test_an_output_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with OutputFile(path) as output:
        output.write(b"content")
        assert not path.exists()
        output.commit()
        assert path.read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_committed_never_was(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "out") as output:
        output.write(b"content")
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Broken):
        write_file(breaking(tmp_path / "out"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_what_was_there_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise Broken

    with pytest.raises(Broken):
        write_file(pieces(), path, overwrite=True)
    assert path.read_bytes() == b"old"
    assert write_file([b"new"], path, overwrite=True) == 3
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_content_in_clear_is_its_owner_s_alone_from_its_first_byte(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"secret"
        (partial,) = tmp_path.iterdir()
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600

    open_to_all = tmp_path / "out"
    write_file(pieces(), open_to_all, private=True)
    assert stat.S_IMODE(open_to_all.stat().st_mode) == 0o600
    open_to_all.chmod(0o666)
    write_file([b"secret"], open_to_all, private=True, overwrite=True)
    assert stat.S_IMODE(open_to_all.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["file", "folder", "link to nowhere"])
def test_what_is_there_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    match kind:
        case "file":
            path.write_bytes(b"old")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputExists, match="is there already"):
        write_file([b"new"], path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("hard_links", [True, False])
def test_what_comes_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    if not hard_links:
        monkeypatch.setattr(os, "link", no_hard_links)
    path = tmp_path / "out"

    def pieces() -> Iterator[bytes]:
        yield b"ours"
        path.write_bytes(b"theirs")

    with pytest.raises(OutputExists):
        write_file(pieces(), path)
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def no_hard_links(source: Path, target: Path) -> None:
    """As link(2) answers on FAT and some network file systems."""
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(source))


def test_file_systems_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_hard_links)
    assert write_file([b"content"], tmp_path / "out") == 7
    assert (tmp_path / "out").read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("name", ["n" * 255, "\u00e9" * 127, "\U0001f4de" * 63])
def test_the_longest_names_will_do(tmp_path: Path, name: str) -> None:
    write_file([b"content"], tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"content"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        require_free(tmp_path / "none" / "out")
    assert caught.value.filename == str(tmp_path / "none")


@pytest.fixture
def default_handlers() -> Iterator[None]:
    """Signals as a program of its own has them."""
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("default_handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_leaves_nothing_and_the_next_does_not_disturb(tmp_path: Path, number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)

    def pieces() -> Iterator[bytes]:
        yield b"content"
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)

    with pytest.raises(Terminated) as caught:
        write_file(pieces(), tmp_path / "out")
    assert caught.value.number == number
    assert caught.value.__context__ is None
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.usefixtures("default_handlers")
def test_a_program_s_own_handler_stays(tmp_path: Path) -> None:
    came: list[int] = []

    def drain(number: int, frame: object) -> None:
        came.append(number)

    signal.signal(signal.SIGTERM, drain)
    with OutputFile(tmp_path / "out") as output:
        os.kill(os.getpid(), signal.SIGTERM)
        output.write(b"content")
        output.commit()
    assert came == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is drain
    assert (tmp_path / "out").read_bytes() == b"content"


@pytest.mark.usefixtures("default_handlers")
def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with OutputFile(tmp_path / "out") as output:
        os.kill(os.getpid(), signal.SIGHUP)
        output.commit()
    assert (tmp_path / "out").exists()


def test_other_threads_can_write_files(tmp_path: Path) -> None:
    thread = threading.Thread(target=write_file, args=([b"content"], tmp_path / "out"))
    thread.start()
    thread.join(20)
    assert (tmp_path / "out").read_bytes() == b"content"


KILLED = """
import os, signal, sys
from pathlib import Path
from ownkey.files import write_file

def pieces():
    yield b"content"
    os.kill(os.getpid(), signal.SIGKILL)

write_file(pieces(), Path(sys.argv[1]), private=True)
"""


def test_sigkill_leaves_no_output_and_what_it_leaves_is_private_and_named_so(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".ownkey-partial")
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
