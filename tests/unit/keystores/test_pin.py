from __future__ import annotations

import os
from pathlib import Path

import pytest

from ownkey_server.keystores.pkcs11.pin import Pin, PinUnusable
from ownkey_server.secret_sources import SecretReference

PIN = "314159265"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "pin"
    made.touch(mode=0o600)
    made.write_text(f"{PIN}\nnot the PIN\n", encoding="utf-8")
    return made


def write_anew(path: Path, pin: str) -> None:
    """Write the file at a later time, whatever the file system's clock can tell apart."""
    found = path.stat()
    path.write_text(pin, encoding="utf-8")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000))


def test_the_first_line_is_the_pin(path: Path) -> None:
    assert Pin(SecretReference.file(path)).read() == PIN


def test_a_changed_pin_needs_no_restart(path: Path) -> None:
    file = Pin(SecretReference.file(path))
    file.read()
    write_anew(path, "2718")
    assert file.read() == "2718"


def test_a_refused_pin_is_not_tried_again(path: Path) -> None:
    file = Pin(SecretReference.file(path))
    file.read()
    file.was_refused()
    for _ in range(3):
        with pytest.raises(PinUnusable, match="has refused"):
            file.read()


@pytest.mark.parametrize("pin", ["2718", PIN])
def test_a_file_written_anew_allows_one_more_try(path: Path, pin: str) -> None:
    file = Pin(SecretReference.file(path))
    file.read()
    file.was_refused()
    write_anew(path, pin)
    assert file.read() == pin
    file.was_refused()
    with pytest.raises(PinUnusable):
        file.read()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_may_read_is_refused_with_the_command_that_mends_it(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(PinUnusable, match=f"chmod 600 {path}"):
        Pin(SecretReference.file(path)).read()


@pytest.mark.parametrize("content", [b"", b"\n", b"\n4711\n", b"\xff\xfe\n"])
def test_a_file_without_a_pin_says_so_and_shows_nothing(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(PinUnusable) as caught:
        Pin(SecretReference.file(path)).read()
    assert str(path) in str(caught.value)
    assert "4711" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PinUnusable, match="cannot be read"):
        Pin(SecretReference.file(tmp_path / "none")).read()


def test_the_pin_is_never_shown(path: Path) -> None:
    file = Pin(SecretReference.file(path))
    file.read()
    assert PIN not in repr(file) + str(file)
    assert PIN not in repr([getattr(file, name) for name in vars(file)])


def test_a_refused_credential_is_tried_again_only_when_it_is_written_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    pin = Pin(SecretReference.parse("credential:pin"))
    assert pin.read() == PIN
    pin.was_refused()
    with pytest.raises(PinUnusable, match="has refused the PIN in credential:pin: write the right one there"):
        pin.read()
    write_anew(path, "2718")
    assert pin.read() == "2718"


def test_a_pin_that_cannot_change_while_the_process_runs_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNKEY_TEST_PIN", PIN)
    for source in (SecretReference.parse("env:OWNKEY_TEST_PIN"), SecretReference.typed(PIN)):
        pin = Pin(source)
        assert pin.read() == pin.read() == PIN
        pin.was_refused()
        monkeypatch.setenv("OWNKEY_TEST_PIN", "2718")
        for _ in range(3):
            with pytest.raises(PinUnusable, match=r"has refused .* start again"):
                pin.read()
        assert PIN not in repr(vars(pin))


def test_a_pin_that_is_no_text_is_in_no_part_of_the_error(path: Path) -> None:
    path.write_bytes(b"2718\xff\n")
    with pytest.raises(PinUnusable, match="no text") as caught:
        Pin(SecretReference.file(path)).read()
    error: BaseException | None = caught.value
    while error:
        assert "2718" not in repr(error)
        assert "2718" not in repr(vars(error))
        error = error.__cause__ or error.__context__
