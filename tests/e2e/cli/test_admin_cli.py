"""Administration on the command line, against a server of this module's own."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ownkey import AdminClient, errors
from ownkey.wrapped_key import WrappedKey
from support import server
from support.server import OWNKEY, ServerProcess


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server.process(tmp_path_factory.mktemp("admin")) as process:
        yield process


class Cli:
    """Runs ``ownkey`` against a server."""

    def __init__(self, running: ServerProcess, folder: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OWNKEY_")}
        self.environment = environment | {"OWNKEY_ADDRESS": running.address, "OWNKEY_TENANT": "acme"}
        self.config = running.directory / "ownkey.toml"
        self.folder = folder

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [OWNKEY, *arguments],
            input=stdin,
            text=True,
            capture_output=True,
            env=self.environment,
            cwd=self.folder,
            check=False,
            timeout=60,
        )

    def at_a_terminal(self, *arguments: str, typed: str) -> tuple[int, str]:
        """The exit code, and what stood on standard error, of a command whose input is a terminal."""
        ours, theirs = os.openpty()
        try:
            os.write(ours, typed.encode())
            done = subprocess.run(
                [OWNKEY, *arguments],
                stdin=theirs,
                capture_output=True,
                text=True,
                env=self.environment,
                cwd=self.folder,
                check=False,
                timeout=60,
            )
        finally:
            os.close(ours)
            os.close(theirs)
        return done.returncode, done.stderr

    def text(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ok(self, *arguments: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.text("--json", *arguments))
        return answer

    def fail(self, code: int, *arguments: str) -> dict[str, Any]:
        done = self.run("--json", *arguments)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        error: dict[str, Any] = json.loads(done.stderr)
        return error


@pytest.fixture
def cli(running: ServerProcess, tmp_path: Path) -> Cli:
    return Cli(running, tmp_path)


def test_what_is_exported_and_applied_differs_in_nothing(cli: Cli) -> None:
    cli.text("export", "-o", "tenants.toml")
    assert cli.text("apply", "-f", "tenants.toml") == "nothing to change\n"
    assert cli.text("apply", "-f", "-", stdin=(cli.folder / "tenants.toml").read_text()) == "nothing to change\n"
    assert cli.fail(10, "export", "-o", "tenants.toml")["hint"] == "--force replaces it"


def test_a_dry_run_shows_the_difference_and_the_change_makes_it(cli: Cli) -> None:
    cli.text("export", "-o", "before.toml")
    text = (cli.folder / "before.toml").read_text()
    (cli.folder / "after.toml").write_text(text.replace('mode = "refuse"', 'mode = "allow_no_recording"'))
    shown = cli.text("apply", "-f", "after.toml", "--dry-run").splitlines()
    assert shown[0].startswith("~ tenants/acme call_gate: ")
    assert shown[-1].startswith("1 changes to make; nothing was changed. To make just these: --etag ")
    etag = shown[-1].rpartition(" ")[2]
    assert cli.ok("admin", "tenant", "show", "acme")["call_gate"]["mode"] == "refuse"
    answer = cli.ok("apply", "-f", "after.toml", "--reason", "a trial")
    assert (answer["applied"], [step["kind"] for step in answer["steps"]]) == (True, ["change"])
    assert cli.ok("admin", "tenant", "show", "acme")["call_gate"]["mode"] == "allow_no_recording"
    assert cli.fail(10, "apply", "-f", "before.toml", "--etag", etag)["reason"] == "ETAG_MISMATCH"
    cli.text("apply", "-f", "before.toml")
    assert cli.text("export") == text


def test_a_simulation_without_a_trail_says_what_to_give(cli: Cli) -> None:
    cli.text("admin", "tenant", "create", "quiet")
    (cli.folder / "quiet.toml").write_text('default = "deny"\n')
    done = cli.run("admin", "policy", "simulate", "--tenant", "quiet", "-f", "quiet.toml")
    assert done.returncode == 0
    assert done.stderr == "ownkey: note: the audit trail of the last 7 days has no assets: give --facts FILE\n"
    cli.text("admin", "tenant", "delete", "quiet", "--yes")


def test_a_document_with_a_mistake_says_where(cli: Cli) -> None:
    (cli.folder / "bad.toml").write_text('[provider_key]\nkey_store = "embedded"\nreference = "provider"\nextra = 1\n')
    error = cli.fail(2, "apply", "-f", "bad.toml")
    assert "provider_key.extra" in error["error"]


def test_a_tenant_a_group_a_key_and_a_policy_from_the_command_line(cli: Cli) -> None:
    cli.text("keystore", "create", "beta-main", "--config", str(cli.config))
    assert cli.ok("admin", "tenant", "create", "beta", "--display-name", "Beta")["display_name"] == "Beta"
    beta = ("--tenant", "beta")
    cli.text("admin", "group", "create", "legal", *beta, "--user", "lea")
    assert cli.ok("admin", "group", "update", "legal", *beta, "--add", "leo", "--remove", "lea")["users"] == ["leo"]
    error = cli.fail(9, "admin", "key", "enrol", "main", *beta, "--store", "embedded", "--reference", "missing")
    assert error["reason"] == "ENROLMENT_FAILED"
    key = cli.ok("admin", "key", "enrol", "main", *beta, "--store", "embedded", "--reference", "beta-main")
    assert (key["lifecycle"], key["replicas"][0]["place"]["reference"]) == ("active", "beta-main")
    remove = ("admin", "key", "remove-replica", "main", *beta, "--store", "embedded")
    assert "embedded/beta-main" in cli.fail(8, *remove, "--reference", "other")["hint"]
    assert "only replica" in cli.fail(10, *remove, "--reference", "beta-main")["error"]
    (cli.folder / "policy.toml").write_text(
        'default = "key:main"\n[[rules]]\nname = "legal"\ngroups = ["legal"]\nasset_classes = ["team_chat"]\n'
        'created_from = 2026-01-01T00:00:00Z\nuse = "deny"\n'
    )
    version = cli.ok("admin", "policy", "create", *beta, "-f", "policy.toml", "--activate", "--reason", "first")
    assert (version["number"], version["in_force"], version["reason"]) == (1, True, "first")
    assert version["policy"]["rules"][0]["asset_classes"] == ["team_chat"]
    assert cli.ok("check", *beta, "--class", "team_chat", "--asset-id", "x", "--user", "zoe")["rule"] == "default"
    (cli.folder / "open.toml").write_text('default = "key:main"\n')
    facts = [{"class": "team_chat", "id": "1", "user": "leo"}, {"class": "team_chat", "id": "2"}]
    (cli.folder / "facts.json").write_text(json.dumps(facts))
    report = cli.ok("admin", "policy", "simulate", *beta, "-f", "open.toml", "--facts", "facts.json")
    assert (report["total"], report["changed"]) == (2, 1)
    assert report["transitions"] == [{"before": "deny", "after": "allow key main", "count": 1}]
    assert cli.fail(10, "admin", "key", "retire", "main", *beta)["reason"] == "RESOURCE_IN_USE"
    cli.text("admin", "policy", "create", *beta, "-f", "open.toml")
    assert [one["number"] for one in cli.ok("admin", "policy", "list", *beta)["policy_versions"]] == [2, 1]
    cli.text("admin", "policy", "activate", "2", *beta)
    assert cli.ok("admin", "policy", "show", *beta)["number"] == 2
    assert "beta" in [one["id"] for one in cli.ok("admin", "tenant", "list")["tenants"]]


def test_removing_a_key_asks_first(cli: Cli) -> None:
    cli.text("keystore", "create", "gamma-main", "--config", str(cli.config))
    cli.text("admin", "tenant", "create", "gamma")
    gamma = ("--tenant", "gamma")
    cli.text("admin", "key", "enrol", "main", *gamma, "--store", "embedded", "--reference", "gamma-main")
    cli.text("admin", "key", "retire", "main", *gamma)
    code, said = cli.at_a_terminal("admin", "key", "remove", "main", *gamma, typed="n\n")
    assert "can then not be opened any more" in said
    assert "it was not confirmed: nothing was changed" in said
    assert code == 1
    nobody = cli.fail(2, "admin", "key", "remove", "main", *gamma)
    assert nobody["error"] == "this is asked about, and nobody is at a terminal to answer: give --yes"
    assert cli.ok("admin", "key", "show", "main", *gamma)["lifecycle"] == "retired"
    assert cli.ok("admin", "key", "remove", "main", *gamma, "--yes")["lifecycle"] == "removed"
    assert cli.fail(2, "admin", "tenant", "delete", "gamma")["error"] == nobody["error"]
    code, said = cli.at_a_terminal("admin", "tenant", "delete", "gamma", typed="\n")
    assert (code, "Delete it? [y/N]" in said) == (1, True)
    assert cli.ok("admin", "tenant", "show", "gamma")["id"] == "gamma"
    cli.text("admin", "tenant", "delete", "gamma", "--yes")
    assert cli.fail(8, "admin", "tenant", "show", "gamma")["reason"] == "RESOURCE_NOT_FOUND"


def test_branch_keys_from_the_command_line(cli: Cli) -> None:
    for reference in ("delta-main", "delta-next"):
        cli.text("keystore", "create", reference, "--config", str(cli.config))
    cli.text("admin", "tenant", "create", "delta")
    delta = ("--tenant", "delta")
    for key in ("main", "next"):
        cli.text("admin", "key", "enrol", key, *delta, "--store", "embedded", "--reference", f"delta-{key}")
    (cli.folder / "main.toml").write_text('default = "key:main"\nwrapping = { phone_recording = "branch" }\n')
    version = cli.ok("admin", "policy", "create", *delta, "-f", "main.toml", "--activate")
    assert version["policy"]["wrapping"] == [{"asset_class": "phone_recording", "wrapping": "branch"}]
    assert "wrapping of phone_recording  branch" in cli.text("admin", "policy", "show", *delta)
    facts = ("--class", "phone_recording", "--asset-id", "1")
    assert "through a branch key" in cli.ok("check", *delta, *facts)["explanation"]
    assert cli.ok("admin", "branch-key", "list", *delta)["branch_keys"] == []
    first = cli.ok("admin", "branch-key", "rotate", "main", *delta, "--reason", "the first")
    assert (first["state"], first["version"], first["key"]) == ("active", 1, "tenants/delta/keys/main")
    assert first["encryption_context"]["ownkey:branch"] == first["id"]
    assert WrappedKey.from_bytes(base64.b64decode(first["wrapped_key"])).key == first["key"]
    cli.text("admin", "branch-key", "rotate", "main", *delta)
    listed = cli.ok("admin", "branch-key", "list", *delta, "--key", "main")["branch_keys"]
    assert sorted(one["state"] for one in listed) == ["active", "decrypt_only"]
    assert "number 2 under tenants/delta/keys/main" in cli.text("admin", "branch-key", "list", *delta)
    (cli.folder / "next.toml").write_text('default = "key:next"\n')
    cli.text("admin", "policy", "create", *delta, "-f", "next.toml", "--activate")
    cli.text("admin", "key", "retire", "main", *delta)
    error = cli.fail(10, "admin", "key", "remove", "main", *delta, "--yes")
    assert "ownkey admin branch-key rewrap --tenant delta --from main --to OTHER" in str(error)
    one = ("--from", "main", "--to", "next", *delta)
    assert cli.ok("admin", "branch-key", "rewrap", *one, "--max", "1") == {"rewrapped": 1, "remaining": 1}
    assert cli.ok("admin", "branch-key", "rewrap", *one) == {"rewrapped": 1, "remaining": 0}
    assert cli.ok("admin", "key", "remove", "main", *delta, "--yes")["lifecycle"] == "removed"
    assert cli.ok("admin", "branch-key", "list", *delta, "--key", "main")["branch_keys"] == []
    assert len(cli.ok("admin", "branch-key", "list", *delta)["branch_keys"]) == 2


def test_an_etag_that_was_read_earlier_is_told_when_it_is_stale(cli: Cli) -> None:
    etag = cli.ok("admin", "principal", "create", "recorder-1")["etag"]
    cli.text("admin", "principal", "update", "recorder-1", "--display-name", "One", "--etag", etag)
    error = cli.fail(10, "admin", "principal", "update", "recorder-1", "--display-name", "Two", "--etag", etag)
    assert error["reason"] == "ETAG_MISMATCH"
    assert cli.ok("admin", "principal", "show", "recorder-1")["display_name"] == "One"
    assert "recorder-1  may do nothing" in cli.text("admin", "principal", "list")
    cli.text("admin", "principal", "delete", "recorder-1")


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        ("default = ", "is not valid TOML"),
        ("", "says nothing"),
        ('defualt = "deny"', "there is no 'defualt' in a policy"),
        ('[[rules]]\nname = "a"\nuze = "deny"', "rules[0]: there is no 'uze' in a rule"),
        ('[[rules]]\nname = "a"\nuse = "deny"\nasset_classes = ["fax"]', "rules[0].asset_classes: there is no 'fax'"),
        ('[[rules]]\nname = 1\nuse = "deny"', "rules[0]: "),
    ],
)
def test_a_policy_file_with_a_mistake_says_where(cli: Cli, policy: str, complaint: str) -> None:
    (cli.folder / "policy.toml").write_text(policy)
    assert complaint in cli.fail(2, "admin", "policy", "create", "-f", "policy.toml")["error"]


def test_every_group_of_commands_shows_its_help(cli: Cli) -> None:
    for group in ((), ("tenant",), ("key",), ("group",), ("policy",), ("principal",)):
        shown = cli.run("admin", *group)
        assert shown.returncode == 2
        assert shown.stderr.startswith("Usage: ownkey admin")


def test_the_sdk_s_example_of_the_control_plane(running: ServerProcess) -> None:
    from ownkey.v1 import policy_pb2

    config = str(running.directory / "ownkey.toml")
    subprocess.run([OWNKEY, "keystore", "create", "sdk-main", "--config", config], check=True, capture_output=True)
    with AdminClient(running.address, author="ann") as admin:
        tenant = admin.create_tenant("sdk", display_name="Sdk")
        admin.enrol_key("sdk", "main", "embedded", "sdk-main", reason="enrolment")
        admin.create_policy_version("sdk", policy_pb2.Policy(default_use="key:main"), activate_with=tenant.etag)
        with pytest.raises(errors.Conflict):
            admin.update_tenant("sdk", tenant.etag, display_name="Late")
        with pytest.raises(errors.AlreadyExists):
            admin.create_tenant("sdk")
        with pytest.raises(errors.InUse):
            admin.retire_key("sdk", "main", "*")
        assert [record.action for record in admin.list_audit_records("sdk") if record.result == "ok"] == [
            "admin.create_tenant",
            "admin.enrol_key",
            "admin.create_policy_version",
        ]
        assert "sdk" in [one.id for one in admin.list_tenants()]


def test_something_is_taken_back_shown_and_given_back(cli: Cli) -> None:
    facts = ("--class", "team_chat", "--asset-id", "chat-1", "--user", "ann@example.com")
    assert cli.run("datakey", *facts).returncode == 0
    assert cli.run("admin", "revocation", "create", "--yes").returncode == 2
    assert cli.run("admin", "revocation", "create", "--everything", "--user", "ann", "--yes").returncode == 2
    unmeant = cli.run("admin", "revocation", "create", "--user", "ann@example.com")
    assert (unmeant.returncode, "give --yes" in unmeant.stderr) == (2, True)
    made = cli.run(
        *("admin", "revocation", "create", "--user", "ann@example.com", "--from", "2026-01-01T00:00:00Z"),
        *("--reason", "left the company", "--yes", "--json"),
    )
    assert made.returncode == 0, made.stderr
    one = json.loads(made.stdout)["id"]
    end = time.monotonic() + 1
    while (refused := cli.run("datakey", *facts)).returncode == 0:
        assert time.monotonic() < end
    assert (refused.returncode, "left the company" in refused.stderr) == (4, True)
    assert cli.run("datakey", "--class", "team_chat", "--asset-id", "chat-1").returncode == 0
    listed = cli.run("admin", "revocation", "list").stdout
    assert "user ann@example.com, created from 2026-01-01T00:00:00Z, since" in listed
    kept = cli.folder / "receipt.json"
    receipt = cli.run("admin", "revocation", "receipt", one, "--wait", "10", "-o", str(kept))
    assert (receipt.returncode, "in force at" in receipt.stdout) == (0, True), receipt.stdout + receipt.stderr
    public = ("--public-key", str(cli.config.with_name("audit-signing.pem.pub")))
    checked = cli.run("admin", "revocation", "verify", str(kept), *public, "--json")
    assert json.loads(checked.stdout)["revocation"]["id"] == one
    kept.write_bytes(kept.read_bytes().replace(b"acme", b"beta"))
    forged = cli.run("admin", "revocation", "verify", str(kept), *public)
    assert (forged.returncode, "was changed" in forged.stderr) == (6, True)
    shown = cli.run("admin", "revocation", "get", one)
    assert "in force" in shown.stdout
    assert cli.run("admin", "revocation", "restore", one).returncode == 0
    assert cli.run("admin", "revocation", "restore", one).returncode == 10
    assert cli.run("datakey", *facts).returncode == 0
    assert "restored" in cli.run("admin", "revocation", "list", "--restored").stdout
