from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey_server.secret_sources import LONGEST, ReferenceInvalid, SecretReference, SecretUnusable, ask

SECRET = "correct horse"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "secret"
    made.touch(mode=0o600)
    made.write_text(f"{SECRET}\nnot the secret\n", encoding="utf-8")
    return made


def text_of(reference: SecretReference) -> str:
    return reference.read().reveal().decode()


def test_the_first_line_of_a_file(path: Path) -> None:
    assert text_of(SecretReference.parse(f"file:{path}")) == SECRET


@pytest.mark.parametrize("content", [b"correct horse" + end for end in (b"", b"\n", b"\r\n", b"\n\n")])
def test_the_end_of_the_line_is_not_part_of_it(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert text_of(SecretReference.file(path)) == SECRET


def test_spaces_and_any_other_byte_are_part_of_it(path: Path) -> None:
    path.write_bytes(b" \xff\x00\t \n")
    assert SecretReference.file(path).read().reveal() == b" \xff\x00\t "


def test_a_relative_path_starts_where_it_is_told_to(path: Path) -> None:
    assert text_of(SecretReference.parse("file:secret").under(path.parent)) == SECRET
    assert text_of(SecretReference.file(path).under(Path("/elsewhere"))) == SECRET


def test_a_changed_file_is_another_version_and_an_unchanged_one_is_not(path: Path) -> None:
    reference = SecretReference.file(path)
    before = reference.look().version
    assert reference.look().version == before
    found = path.stat()
    path.write_text("another", encoding="utf-8")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    assert reference.look().version != before
    assert text_of(reference) == "another"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620])
def test_a_file_that_others_may_read_is_refused_with_the_command_that_mends_it(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(SecretUnusable, match=f"chmod 600 {path}"):
        SecretReference.file(path).read()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\ncorrect horse\n", "is empty"),
        (b"x" * (LONGEST + 1), "longer than 4096"),
        (b"x" * (LONGEST + 2), "longer than 4096"),
        (b"x" * 100_000, "longer than 4096"),
    ],
)
def test_a_file_without_a_secret_is_told_and_not_shown(path: Path, content: bytes, complaint: str) -> None:
    path.write_bytes(content)
    with pytest.raises(SecretUnusable, match=complaint) as caught:
        SecretReference.file(path).read()
    assert str(path) in str(caught.value)
    assert "horse" not in str(caught.value)
    assert "xx" not in str(caught.value).replace(str(path), "")


def test_the_longest_secret_is_whole(path: Path) -> None:
    path.write_bytes(b"x" * LONGEST + b"\n")
    assert len(SecretReference.file(path).read()) == LONGEST


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, complaint in (
        ("pipe", "is not a file"),
        ("none", "No such file"),
        (".", "directory"),
        ("x" * 300, "long"),
    ):
        with pytest.raises(SecretUnusable, match=complaint):
            SecretReference.file(tmp_path / name).read()


def test_a_variable_is_taken_when_the_settings_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNKEY_TEST_SECRET", "häst")
    reference = SecretReference.parse("env:OWNKEY_TEST_SECRET")
    monkeypatch.setenv("OWNKEY_TEST_SECRET", "another")
    assert text_of(reference) == "häst"
    reference.read().wipe()
    assert text_of(reference) == "häst"


@pytest.mark.parametrize(
    ("value", "complaint"), [(None, "no such environment variable"), ("", "1 to 4096"), ("x" * 5000, "1 to 4096")]
)
def test_a_variable_without_a_secret_is_told_at_its_use(
    monkeypatch: pytest.MonkeyPatch, value: str | None, complaint: str
) -> None:
    monkeypatch.delenv("OWNKEY_TEST_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("OWNKEY_TEST_SECRET", value)
    reference = SecretReference.parse("env:OWNKEY_TEST_SECRET")
    with pytest.raises(SecretUnusable, match=complaint) as caught:
        reference.read()
    assert "env:OWNKEY_TEST_SECRET" in str(caught.value)


def test_a_credential_of_systemd(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = SecretReference.parse("credential:secret")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(SecretUnusable, match="LoadCredential=secret:PATH"):
        reference.read()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert text_of(reference) == SECRET
    # As systemd gives it to a user who is not root: by an access list, whose mask shows as the group's permission.
    path.chmod(0o440)
    assert text_of(reference) == SECRET
    path.chmod(0o444)
    with pytest.raises(SecretUnusable, match="others may read it"):
        reference.read()


def test_somebody_is_asked_once_and_only_for_a_prompt() -> None:
    asked: list[str] = []

    def prompt() -> str:
        asked.append("asked")
        return SECRET

    reference = ask("prompt", prompt)
    assert [text_of(reference), text_of(reference), str(reference), asked] == [SECRET, SECRET, "prompt", ["asked"]]
    assert ask("file:x", prompt) == SecretReference("file", "x")
    assert asked == ["asked"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "471100", "prompt", "file:", "env:", "credential:", "FILE:x", "vault:x", "file", " file:x", "env:a b"),
        *("env:1X", "env:A=B", "credential:../x", "credential:..", "credential:.", "credential:a/b", "file:a\0b"),
        *("file:a\nb", "credential:" + "x" * 256, "env:Ä"),
    ],
)
def test_what_is_no_reference_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ReferenceInvalid) as caught:
        SecretReference.parse(text)
    assert str(caught.value) == (
        "must say where the secret is, and not hold it: file:PATH, env:NAME or credential:NAME (of systemd)"
    )


@given(st.text())
def test_whatever_is_given_is_parsed_or_refused_and_never_repeated(text: str) -> None:
    try:
        shown = str(SecretReference.parse(text))
    except ReferenceInvalid as error:
        shown = str(error).replace(str(ReferenceInvalid()), text)
    assert shown == text


@given(st.text(alphabet="0123456789abcdefXYZ!$%&/()=?", min_size=6, max_size=60))
def test_a_secret_is_in_nothing_that_is_shown(tmp_path_factory: pytest.TempPathFactory, secret: str) -> None:
    path = tmp_path_factory.getbasetemp() / "shown-secret"
    path.touch(mode=0o600)
    path.write_text(secret, encoding="utf-8")
    os.environ["OWNKEY_TEST_SHOWN"] = secret
    try:
        references = [
            SecretReference.file(path),
            SecretReference.parse("env:OWNKEY_TEST_SHOWN"),
            SecretReference.typed(secret),
        ]
    finally:
        del os.environ["OWNKEY_TEST_SHOWN"]
    for reference in references:
        found = reference.look()
        assert bytes(found.value.reveal()) == secret.encode()
        shown = f"{reference!r} {reference} {found!r} {found} {[getattr(reference, n) for n in reference.__slots__]}"
        assert secret not in shown


def test_a_secret_that_was_read_is_never_serialized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNKEY_TEST_SECRET", SECRET)
    with pytest.raises(TypeError):
        pickle.dumps(SecretReference.parse("env:OWNKEY_TEST_SECRET"))
