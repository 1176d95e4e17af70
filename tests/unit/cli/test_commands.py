"""What the command line does before, and after, it asks a service."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from ownkey import errors, files
from ownkey.cli import main, output
from ownkey.cli.main import COMMANDS, Shared, run
from ownkey.cli.options import optional_tenant_option, tenant_option
from ownkey.container import EncryptedDataKey, Encryptor

FACTS = ("--class", "phone_recording", "--asset-id", "call-1")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OWNKEY_ADDRESS", "OWNKEY_TENANT", "OWNKEY_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """A command's exit code and what it printed."""
    shared = Shared()
    shared.address = "127.0.0.1:1"  # whatever serves at the usual one, it is not asked
    shared.as_json = "--json" in arguments
    code = run(list(arguments), shared)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands ``probe`` and ``loose``, which note their tenant."""
    seen: list[str] = []

    @click.command()
    @tenant_option
    def strict(tenant: str) -> None:
        seen.append(tenant)

    @click.command()
    @optional_tenant_option
    def loose(tenant: str) -> None:
        seen.append(tenant)

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *a: {"probe": strict, "loose": loose}.get(a[2]))
    return seen


@pytest.mark.parametrize(
    ("variable", "before", "after", "counts"),
    [
        ("env", "", "", "env"),
        ("", "before", "", "before"),
        ("", "", "after", "after"),
        ("env", "before", "", "before"),
        ("env", "", "after", "after"),
        ("env", "before", "after", "after"),
    ],
)
def test_a_tenant_counts_the_more_the_later_it_is_given(
    probe: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    before: str,
    after: str,
    counts: str,
) -> None:
    if variable:
        monkeypatch.setenv("OWNKEY_TENANT", variable)
    for command in ("probe", "loose"):
        front = ("--tenant", before) if before else ()
        back = ("--tenant", after) if after else ()
        assert ran(capsys, *front, command, *back) == (0, "", "")
    assert probe == [counts, counts]


def test_a_missing_tenant_is_named(probe: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, "probe")
    assert (code, out) == (2, "")
    error, hint = err.splitlines()
    assert error.startswith("ownkey: error: Missing option '--tenant'")
    assert hint == "ownkey: hint: ownkey probe --help"
    assert ran(capsys, "loose")[0] == 0
    assert probe == [""]


def test_no_command_shows_help_to_people_and_an_error_to_machines(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: ownkey")
    code, out, err = ran(capsys, "--json")
    assert (code, out) == (2, "")
    assert json.loads(err) == {"error": "no command was given", "exit_code": 2, "hint": "ownkey --help"}


def test_help_tells_every_command_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, "--help")
    assert code == 0
    words = " ".join(out.split())
    assert all(f" {name} " in words for name in COMMANDS)
    assert all(f"{number} {meaning}" in words for number, meaning in output.EXIT_CODES.items())


@pytest.mark.parametrize("group", ["", "admin", "keystore", "pki", "audit"])
def test_help_cuts_no_sentence(capsys: pytest.CaptureFixture[str], group: str) -> None:
    code, out, _ = ran(capsys, *([group] if group else []), "--help")
    assert code == 0
    assert "..." not in out[out.index("Commands:") :]


def test_help_names_the_variable_of_the_tenant_and_no_option_that_does_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "OWNKEY_TENANT" in ran(capsys, "--help")[1]
    shown = ran(capsys, "inspect", "--help")[1]
    assert "--json" in shown
    assert "--address" not in shown


def test_inspect_tells_which_key_of_aws_wrapped_an_object(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    entries = [EncryptedDataKey("aws-kms", arn.encode(), b"z"), EncryptedDataKey("raw", b"\x00\xff", b"zz")]
    made = Encryptor(bytes(32), encryption_context={}, encrypted_data_keys=entries)
    (tmp_path / "x.ownkey").write_bytes(made.header.to_bytes() + made.finish())
    code, out, _ = ran(capsys, "inspect", str(tmp_path / "x.ownkey"))
    assert (code, f"aws-kms {arn}, raw\n" in out) == (0, True)
    shown = json.loads(ran(capsys, "inspect", "--json", str(tmp_path / "x.ownkey"))[1])
    assert shown["wrapped_keys"] == [
        {"provider_id": "aws-kms", "length": 1, "key": arn},
        {"provider_id": "raw", "length": 2},
    ]


def test_a_version_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ran(capsys, "admin", "policy", "activate", "x", "--tenant", "acme")
    assert (code, "'x' is not the number of a version, such as 3" in err) == (2, True)
    assert "range" not in err


def test_the_page_tells_every_exit_code() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
    for number in output.EXIT_CODES:
        assert f"\n| {number} | " in page


def test_a_missing_server_is_an_error_with_a_hint_for_machines_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, "serve", "ownkey_server.no_such_module:serve")
    code, out, err = ran(capsys, "--json", "serve")
    assert (code, out) == (1, "")
    assert json.loads(err)["hint"] == "pip install 'ownkey[server]'"
    code, _, err = ran(capsys, "serve", "--config", "x")
    assert (code, err.splitlines()[1]) == (1, "ownkey: hint: pip install 'ownkey[server]'")


ENDINGS: list[tuple[BaseException, int]] = [
    (errors.OwnkeyError("x"), 1),
    (errors.InvalidRequest("x"), 2),
    (errors.PolicyDenied("x"), 3),
    (errors.KeyRevoked("x"), 4),
    (errors.KeyUnreachable("x"), 5),
    (errors.ServiceUnavailable("x"), 5),
    (errors.CiphertextInvalid("x"), 6),
    (errors.NotFound("x"), 8),
    (errors.KeyMisconfigured("x"), 9),
    (errors.ServiceFailed("x"), 1),
    (KeyboardInterrupt(), 130),
    (files.Terminated(signal.SIGTERM), 143),
    (click.UsageError("x"), 2),
    (OSError(5, "x", "file"), 1),
    (RuntimeError("x"), 1),
    (files.OutputExists(17, "x", "file"), 10),
    (output.Failure("x", output.NOT_FOUND), 8),
]


@pytest.mark.parametrize(("error", "code"), ENDINGS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("as_json", [True, False])
def test_everything_that_ends_a_command_has_its_exit_code_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    as_json: bool,
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: failing)
    ended, out, err = ran(capsys, *(["--json"] if as_json else []), "failing")
    assert (ended, out) == (code, "")
    if as_json:
        assert json.loads(err)["exit_code"] == code
    else:
        assert err.lstrip("\n").startswith("ownkey: error: ")  # after ^C the line is the terminal's
        assert "Traceback" not in err


def test_a_defect_shows_where_when_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def failing() -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: failing)
    with pytest.raises(RuntimeError, match="boom"):
        run(["-v", "failing"], Shared())


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "call.wav"
    path.write_bytes(b"content")
    yield path
    assert path.read_bytes() == b"content"


def never_asked(*_: Any) -> None:
    raise AssertionError("a service was asked")


@pytest.mark.parametrize("mode", ["stream", "local"])
def test_an_output_in_the_way_is_told_before_a_key_is_used(
    recording: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    monkeypatch.setattr(Shared, "client", never_asked)
    recording.with_name("call.wav.ownkey").write_bytes(b"")
    options = ("--tenant", "acme", *FACTS, "--mode", mode)
    code, _, err = ran(capsys, "encrypt", str(recording), *options)
    assert (code, err.splitlines()[1]) == (10, "ownkey: hint: --force replaces it")
    code, _, err = ran(capsys, "decrypt", str(recording.with_name("call.wav.ownkey")), *options)
    assert (code, err.splitlines()[1]) == (10, "ownkey: hint: --force replaces it")
    code, _, err = ran(capsys, "encrypt", str(recording), "-o", str(recording.parent / "none" / "x"), *options)
    assert (code, err) == (1, f"ownkey: error: {recording.parent / 'none'}: there is no such folder\n")


def test_an_object_without_our_suffix_needs_a_name_for_its_content(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = ran(capsys, "decrypt", str(recording), "--tenant", "acme")
    assert (code, "name the output with -o" in err) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "--class", "fax", "--asset-id", "1", "--tenant", "acme"),
        ("check", *FACTS, "--tenant", "acme", "--created", "yesterday"),
        ("check", *FACTS, "--tenant", "acme", "--created", "2026-01-31T09:30:00"),
        ("datakey", *FACTS, "--tenant", "acme", "--context", "novalue"),
        ("datakey", *FACTS, "--tenant", "acme", "--context", "=x"),
        ("status", "--tenant", "acme", "--timeout", "nan"),
        ("status", "--tenant", "acme", "--timeout", "0"),
        ("status", "--tenant", "acme", "--address", "127.0.0.1:99999"),
        ("status", "--tenant", "acme", "--address", "10.0.0.1:7400"),
        ("frobnicate",),
        ("status", "--no-such-option"),
    ],
)
def test_a_wrong_command_is_told_in_a_line_with_a_hint(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    code, out, err = ran(capsys, *arguments)
    assert (code, out) == (2, "")
    error, hint = err.splitlines()
    assert error.startswith("ownkey: error: ")
    assert hint.startswith("ownkey: hint: ")


def test_what_a_service_says_does_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.Output(as_json=False, verbose=True).failure(
        errors.PolicyDenied("\x1b[2J", metadata={"rule": "\x1b]0;x\x07"}, reason="\x1b[31m")
    )
    assert "\x1b" not in capsys.readouterr().err
