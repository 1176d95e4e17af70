"""``ownkey audit``: what the commands print, and how they end."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from click.testing import Result as Done

from ownkey.cli.main import Shared
from ownkey_server.commands import audit as audit_commands
from ownkey_server.commands.audit import audit
from ownkey_server.domain.assets import Asset, AssetClass
from ownkey_server.domain.audit import Action, AuditRecord, Caller, Result
from ownkey_server.domain.audit_documents import line, read_line
from ownkey_server.domain.clock import system_clock
from ownkey_server.storage import upgrade
from ownkey_server.storage.audit.export import read_records
from ownkey_server.storage.audit.signing import load_or_make_signer
from ownkey_server.storage.database import Database
from support.audit_trails import Trail, record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sink").mkdir()
    (tmp_path / "ownkey.toml").write_text(
        '[audit]\nsegment_records = 5\n[audit.sink]\nkind = "directory"\ndirectory = "sink"\n'
        '[key_stores.embedded]\nkind = "embedded"\ndirectory = "keys"\n',
        encoding="utf-8",
    )
    return tmp_path


@pytest.fixture
def trail(folder: Path) -> Trail:
    """A trail of 13 records where the settings say it is, of now, for the commands take the system's time."""
    database = Database(f"sqlite:///{folder / 'ownkey.db'}")
    upgrade.upgrade(database)
    made = Trail.__new__(Trail)
    made.database, made.now = database, system_clock() - timedelta(minutes=1)
    made.signer, _ = load_or_make_signer(folder / "audit-signing.pem")
    writer = made.writer()
    made.write(writer, 8)
    made.write(writer, 4, tenant="umbrella")
    return made


def run(folder: Path, *arguments: str) -> Done:
    command, *rest = arguments
    shared = Shared()
    return CliRunner().invoke(audit, [command, "--config", str(folder / "ownkey.toml"), *rest], obj=shared)


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in output.splitlines()]


def test_an_untouched_trail(folder: Path, trail: Trail) -> None:
    done = run(folder, "verify")
    assert done.exit_code == 0, done.output
    assert done.output == "good: checked 13 records of 1 writers, 0 segments and 0 checkpoints\n"


def test_what_is_found_ends_with_exit_code_1_and_its_place(folder: Path, trail: Trail) -> None:
    trail.run("DELETE FROM audit_records WHERE sequence IN (5, 6)")
    done = run(folder, "verify")
    assert done.exit_code == 1
    first, last = done.output.splitlines()
    assert first.startswith("FOUND: writer 1, records 5 to 6")
    assert "missing" in first
    assert last.startswith("CHANGED: checked 11 records")
    (finding,) = json.loads(run(folder, "verify", "--json").output)["findings"]
    assert (finding["kind"], finding["writer"], finding["sequence"], finding["last"]) == ("missing", 1, 5, 6)


def test_keep_then_checkpoint_then_verify_against_it(folder: Path, trail: Trail) -> None:
    assert run(folder, "checkpoint").exit_code == 1
    done = run(folder, "keep")
    assert done.exit_code == 0, done.output
    assert "segments sealed     2" in done.output
    kept = folder / "kept.json"
    kept.write_text(run(folder, "checkpoint").output, encoding="utf-8")
    assert run(folder, "verify", "--checkpoint", str(kept)).exit_code == 0
    sink = str(folder / "sink")
    done = run(folder, "verify", "--directory", sink, "--checkpoint", str(kept))
    assert done.exit_code == 0, done.output
    assert "checked 10 records" in done.output
    # A file of the sink's serves as well.
    (copied,) = (folder / "sink/checkpoints").iterdir()
    assert copied.read_bytes() == kept.read_bytes()
    trail.run("DELETE FROM audit_checkpoints")
    done = run(folder, "verify", "--checkpoint", str(kept))
    assert done.exit_code == 1
    assert "checkpoint 1" in done.output
    done = run(folder, "verify", "--checkpoint", str(folder / "ownkey.toml"))
    assert done.exit_code == 1
    assert "the kept checkpoint cannot be used" in done.output


def test_a_directory_needs_no_settings_with_a_public_key(folder: Path, trail: Trail) -> None:
    run(folder, "keep")
    (folder / "ownkey.toml").unlink()
    key = str(folder / "audit-signing.pem.pub")
    done = run(folder, "verify", "--directory", str(folder / "sink"), "--public-key", key)
    assert done.exit_code == 0, done.output
    done = run(folder, "verify", "--directory", str(folder / "sink"), "--public-key", str(folder / "sink"))
    assert done.exit_code != 0


def test_keep_tells_what_it_did_in_json_and_what_is_wrong(folder: Path, trail: Trail) -> None:
    done = json.loads(run(folder, "keep", "--json").output)
    assert (done["segments"], done["checkpoints"], done["exported"], done["findings"]) == (2, 1, 3, [])
    trail.run("UPDATE audit_writers SET head_time = 1, seen_time = 1")
    done = run(folder, "keep")
    assert done.exit_code == 1
    assert "forged_head" in done.output


def test_export_to_standard_output_and_by_tenant_and_time(folder: Path, trail: Trail) -> None:
    done = run(folder, "export")
    assert [record["sequence"] for record in lines(done.output)] == list(range(1, 14))
    done = run(folder, "export", "--tenant", "umbrella")
    assert [record["sequence"] for record in lines(done.output)] == [10, 11, 12, 13]
    sixth = lines(run(folder, "export").output)[5]["time"]
    before, after = run(folder, "export", "--to", sixth), run(folder, "export", "--from", sixth)
    assert (len(lines(before.output)), len(lines(after.output))) == (5, 8)
    assert run(folder, "export", "--from", "yesterday").exit_code == 2
    assert run(folder, "export", "--from", "2026-01-01").exit_code == 2
    assert run(folder, "export", "--resume").exit_code == 2


def test_an_export_goes_on_wherever_it_was_cut(folder: Path, trail: Trail) -> None:
    output = folder / "out.jsonl"
    assert run(folder, "export", "-o", str(output)).exit_code == 0
    whole = output.read_bytes()
    last_lines = whole.splitlines(keepends=True)[-3:]
    assert run(folder, "export", "-o", str(output)).exit_code == 10, "it is there already"
    for length in [*range(len(whole) - len(b"".join(last_lines)), len(whole) + 1), 0, 1]:
        output.write_bytes(whole[:length])
        done = run(folder, "export", "-o", str(output), "--resume")
        assert done.exit_code == 0, done.output
        assert output.read_bytes() == whole, f"cut at {length}"
    output.unlink()
    assert run(folder, "export", "-o", str(output), "--resume").exit_code == 0
    assert output.read_bytes() == whole


def test_an_export_of_something_else_is_not_continued(folder: Path, trail: Trail) -> None:
    output = folder / "out.jsonl"
    output.write_bytes(b'{"something":"else"}\n')
    done = run(folder, "export", "-o", str(output), "--resume")
    assert done.exit_code == 1
    assert "cannot be continued" in done.output
    assert output.read_bytes() == b'{"something":"else"}\n'


def test_long_lines_are_continued_too(folder: Path, trail: Trail) -> None:
    writer = trail.writer()
    for _ in range(2):
        trail.after(seconds=1)
        writer.write([record(trail.now, 1, "t" * 100_000)])
    output = folder / "out.jsonl"
    run(folder, "export", "-o", str(output))
    whole = output.read_bytes()
    for length in (len(whole) - 1, len(whole) - 250_000, len(whole) // 2):
        with output.open("r+b") as file:
            os.ftruncate(file.fileno(), length)
        run(folder, "export", "-o", str(output), "--resume")
        assert output.read_bytes() == whole


def test_tail_shows_the_last_ones(folder: Path, trail: Trail) -> None:
    rows = read_records(trail.database)
    done = run(folder, "tail", "-n", "3", "--json")
    assert done.exit_code == 0, done.output
    assert done.stdout_bytes == b"".join(map(line, rows[-3:]))
    done = run(folder, "tail", "-n", "2", "--tenant", "acme", "--json")
    assert [record["sequence"] for record in lines(done.stdout)] == [8, 9]


def test_tail_is_a_table_for_people(folder: Path, trail: Trail) -> None:
    asset = Asset("acme", AssetClass.PHONE_RECORDING, "call-1\x1b[2J")
    refused = AuditRecord(
        trail.now, Action.UNWRAP, Result.REFUSED, Caller("ann"), "KEY_REVOKED", "acme", "tenants/acme/keys/main",
        asset=asset,
    )  # fmt: skip
    trail.after(hours=1)
    trail.writer().write([refused])
    done = run(folder, "tail", "-n", "2")
    heading, first, second = done.stdout.splitlines()
    assert heading.split() == ["time", "principal", "action", "asset", "key", "result"]
    assert [line.index("unwrap" if "unwrap" in line else "audit.") for line in (first, second)] == [
        heading.index("action")
    ] * 2
    shown = next(line for line in (first, second) if "ann" in line)
    assert shown.split() == [
        f"{refused.time:%Y-%m-%dT%H:%M:%SZ}", "ann", "unwrap", "phone_recording", "call-1\\x1b[2J",
        "tenants/acme/keys/main", "refused", "KEY_REVOKED",
    ]  # fmt: skip
    started = next(line for line in (first, second) if "audit.writer_started" in line)
    assert "ownkey serve" in started
    trail.run("UPDATE audit_records SET body = 'x' WHERE sequence = 2 AND writer = 2")
    assert "not a record any more: ownkey audit verify" in run(folder, "tail", "-n", "2").stdout


def test_tail_follows(folder: Path, trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter(range(3))

    def wait(_seconds: float) -> None:
        if next(waits, None) is None:
            raise KeyboardInterrupt
        trail.write(trail.writer(), 1)

    monkeypatch.setattr(audit_commands.time, "sleep", wait)
    done = run(folder, "tail", "-n", "1", "--follow", "--tenant", "acme", "--json")
    assert [(read_line(text).writer, read_line(text).sequence) for text in done.stdout_bytes.splitlines()] == [
        (1, 9),
        (2, 2),
        (3, 2),
        (4, 2),
    ]


def test_a_database_without_tables_and_keys_that_are_not_there(folder: Path) -> None:
    done = run(folder, "verify")
    assert done.exit_code == 1
    assert "the public key cannot be read" in done.output
    load_or_make_signer(folder / "audit-signing.pem")
    Database(f"sqlite:///{folder / 'ownkey.db'}").close()
    for command in ("verify", "export", "tail", "checkpoint", "keep"):
        done = run(folder, command)
        assert done.exit_code == 1
        assert "ownkey db upgrade" in done.output


def test_a_new_signing_key(folder: Path, trail: Trail) -> None:
    """What the old one signed stays good, as long as it is named."""
    assert run(folder, "keep").exit_code == 0
    settings = (folder / "ownkey.toml").read_text(encoding="utf-8")
    new = settings.replace("[audit]\n", '[audit]\nsigning_key_file = "new.pem"\n')
    (folder / "ownkey.toml").write_text(new, encoding="utf-8")
    trail.signer, _ = load_or_make_signer(folder / "new.pem")
    trail.now = system_clock()
    trail.write(trail.writer(), 8)
    assert run(folder, "verify").exit_code == 1
    both = new.replace("[audit]\n", '[audit]\npublic_key_files = ["audit-signing.pem.pub"]\n')
    (folder / "ownkey.toml").write_text(both, encoding="utf-8")
    assert run(folder, "verify").exit_code == 0
    done = run(folder, "keep")
    assert done.exit_code == 0, done.output
    assert "segments sealed     1" in done.output
    assert run(folder, "verify").exit_code == 0
    (folder / "new.pem.pub").write_bytes((folder / "audit-signing.pem.pub").read_bytes())
    assert "is not the public half" in run(folder, "keep").output


def test_a_directory_that_holds_nothing_is_no_good_trail(folder: Path, trail: Trail) -> None:
    (folder / "not-mounted").mkdir()
    done = run(folder, "verify", "--directory", str(folder / "not-mounted"))
    assert done.exit_code == 1
    assert "holds no segment and no checkpoint" in done.output


@pytest.mark.parametrize("command", ["tail", "verify", "export"])
def test_a_command_that_reads_makes_no_database(folder: Path, command: str) -> None:
    load_or_make_signer(folder / "audit-signing.pem")
    done = run(folder, command)
    assert done.exit_code == 8
    assert f"there is no database at {folder / 'ownkey.db'}" in done.output
    assert not (folder / "ownkey.db").exists()
