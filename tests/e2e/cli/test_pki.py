"""``ownkey pki`` as its users run it: what it prints makes a server speak mutual TLS, and revocations count there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from support import server
from support.server import OWNKEY

COMMANDS = ("init", "issue", "revoke", "crl", "list")
PATIENCE_SECONDS = 20.0
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "pki.md").read_text(encoding="utf-8")


class Cli:
    """Runs ``ownkey`` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("OWNKEY_")}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [OWNKEY, *arguments],
            text=True,
            capture_output=True,
            env=self.environment | environment,
            cwd=self.folder,
            check=False,
            timeout=60,
        )

    def text(self, *arguments: str, **environment: str) -> str:
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ok(self, *arguments: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.text(*arguments, "--json"))
        return answer

    def fail(self, code: int, *arguments: str, **environment: str) -> dict[str, Any]:
        done = self.run(*arguments, "--json", **environment)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        error: dict[str, Any] = json.loads(done.stderr)
        assert error["exit_code"] == code
        return error


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def printed(text: str) -> tuple[str, dict[str, str]]:
    """The settings and the environment in what ``ownkey pki init`` prints."""
    settings = text[text.index("[server.tls]") : text.index("# Where commands")]
    exports = re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE)
    return settings, {name: shlex.split(value)[0] for name, value in exports}


def test_a_server_speaks_mutual_tls_with_what_init_prints(cli: Cli) -> None:
    settings, admin = printed(cli.text("pki", "init", "my lab", "--trust-domain", "lab.example"))
    cli.text("pki", "issue", "my lab", "nobody")
    nobody = admin | {
        "OWNKEY_CERTIFICATE_FILE": str(cli.folder / "my lab" / "nobody.pem"),
        "OWNKEY_PRIVATE_KEY_FILE": str(cli.folder / "my lab" / "nobody.key"),
    }
    with server.process(cli.folder / "server", access=settings) as running:
        asking = ("admin", "tenant", "list", "--address", running.address)
        assert "acme" in cli.text(*asking, **admin)
        assert cli.fail(3, *asking, **nobody)["reason"] == "PERMISSION_DENIED"
        servers = {name: path.replace("admin.", "server.") for name, path in admin.items()}
        assert "is not for clients" in cli.fail(11, *asking, **servers)["error"]
        cli.text("pki", "revoke", "my lab", "admin")
        until = time.monotonic() + PATIENCE_SECONDS
        while cli.run(*asking, **admin).returncode == 0:
            assert time.monotonic() < until, "the revocation was not seen"
        assert "the certificate was revoked" in cli.fail(11, *asking, **admin)["error"]
        cli.text("pki", "issue", "my lab", "admin", "--force")
        assert "acme" in cli.text(*asking, **admin)


def test_init_tells_all_in_json_too(cli: Cli) -> None:
    told = cli.ok("pki", "init", "lab")
    assert [one["identity"] for one in told["certificates"]] == [
        "spiffe://example.org/ownkey",
        "spiffe://example.org/admin",
    ]
    server_side, operator = told["certificates"]
    assert (server_side["dns"], server_side["ips"]) == (["localhost"], ["127.0.0.1", "::1"])
    assert (server_side["server"], server_side["client"]) == (True, False)
    assert (operator["server"], operator["client"]) == (False, True)
    assert "lab" in told["warning"]
    for path in (*told["server_settings"]["server.tls"].values(), *told["client_environment"].values()):
        assert Path(path).is_relative_to(cli.folder / "lab")
        assert Path(path).is_file()
    settings, environment = printed(cli.text("pki", "init", "second"))
    assert environment.keys() == told["client_environment"].keys()
    tables = tomllib.loads(settings)
    assert tables["identity"]["certificates"] == told["server_settings"]["identity.certificates"]
    assert tables["authorization"] == told["server_settings"]["authorization"]
    assert tables["server"]["tls"].keys() == told["server_settings"]["server.tls"].keys()


def test_a_certificates_life_in_json(cli: Cli) -> None:
    cli.ok("pki", "init", "lab")
    made = cli.ok("pki", "issue", "lab", "keys", "--dns", "a.example", "--ip", "::1", "--server", "--client",
                  "--spiffe", "/keys/one", "--days", "5")  # fmt: skip
    certificate = made["certificate"]
    assert certificate["identity"] == "spiffe://example.org/keys/one"
    assert (certificate["server"], certificate["client"]) == (True, True)
    assert (made["certificate_file"], made["private_key_file"]) == ("lab/keys.pem", "lab/keys.key")
    revoked = cli.ok("pki", "revoke", "lab", "keys")
    assert (revoked["revoked_now"], revoked["crl_number"]) == (True, 2)
    again = cli.ok("pki", "revoke", "lab", "--serial", certificate["serial"])
    assert (again["revoked_now"], again["crl_number"]) == (False, 2)
    renewed = cli.ok("pki", "crl", "lab", "--days", "30")
    assert (renewed["crl_number"], renewed["revoked"]) == (3, 1)
    cli.ok("pki", "issue", "lab", "keys", "--force")
    listed = cli.ok("pki", "list", "lab")["certificates"]
    assert [one["name"] for one in listed] == ["admin", "keys", "keys", "server"]
    rows = {one["serial"]: (bool(one["revoked"]), one["current"]) for one in listed if one["name"] == "keys"}
    assert rows.pop(certificate["serial"]) == (True, False)
    assert list(rows.values()) == [(False, True)]


def test_people_are_told_the_same(cli: Cli) -> None:
    cli.text("pki", "init", "lab")
    assert "lab/keys.pem, lab/keys.key" in cli.text("pki", "issue", "lab", "keys")
    assert cli.text("pki", "revoke", "lab", "keys").startswith("revoked  keys, spiffe://example.org/keys, serial ")
    assert cli.text("pki", "revoke", "lab", "keys").startswith("nothing done  keys, ")
    cli.text("pki", "issue", "lab", "keys", "--force")
    rows = [line.split(maxsplit=2) for line in cli.text("pki", "list", "lab").splitlines()]
    assert [row[1] for row in rows] == ["admin", "keys", "keys", "server"]
    assert "revoked" in rows[1][2]
    assert "not the one in keys.pem" in rows[1][2]
    assert "revoked" not in rows[2][2]
    assert "number 3" in cli.text("pki", "crl", "lab")


def test_what_the_page_shows_works(cli: Cli) -> None:
    shell = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert len(shell) == 1
    path = f"{Path(OWNKEY).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euc", shell[0]],
        check=True,
        capture_output=True,
        cwd=cli.folder,
        env=cli.environment | {"PATH": path},
    )
    revoked = [one["name"] for one in cli.ok("pki", "list", "lab")["certificates"] if one["revoked"]]
    assert revoked == ["recorder"]
    example = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(example) == 1
    (cli.folder / "python").mkdir()
    subprocess.run([sys.executable, "-c", example[0]], check=True, capture_output=True, cwd=cli.folder / "python")
    assert {one["name"] for one in cli.ok("pki", "list", "python/lab")["certificates"]} == {
        "server",
        "recorder",
        "ended",
    }


def test_help_says_that_it_is_for_labs(cli: Cli) -> None:
    assert "Not for production" in " ".join(cli.text("pki", "--help").split())
    shown = " ".join(cli.text("pki", "init", "--help").split())
    assert "for labs only" in shown
    for command in COMMANDS:
        assert "--json" in cli.text("pki", command, "--help")
    told = cli.run("pki", "init", "lab")
    assert "for labs only: the authority's key lies unencrypted beside the certificates" in told.stdout


def test_errors_tell_what_to_change(cli: Cli) -> None:
    cli.text("pki", "init", "lab")
    again = cli.fail(10, "pki", "init", "lab")
    assert (again["error"], again["hint"]) == (
        "lab/ca.key is there already: the key of an authority is never overwritten",
        "take a folder that is new or empty",
    )
    taken = cli.fail(10, "pki", "issue", "lab", "admin")
    assert (taken["error"], taken["hint"]) == ("lab/admin.pem: is there already", "--force replaces it")
    assert cli.fail(2, "pki", "issue", "lab", "ca")["error"].startswith("'ca' is the authority's own file")
    assert cli.fail(2, "pki", "issue", "lab", "x", "--days", "9999")["error"].startswith(
        "the certificate would outlive its authority, which ends at "
    )
    assert cli.fail(2, "pki", "issue", "lab", "x", "--days", "0")["hint"] == "ownkey pki issue --help"
    assert cli.fail(2, "pki", "revoke", "lab")["error"] == "give either NAME or --serial"
    assert cli.fail(8, "pki", "revoke", "lab", "x")["error"] == "lab/x.pem is not there"
    (cli.folder / "lab" / "crl.pem").write_text("garbage")
    broken = cli.fail(1, "pki", "list", "lab")
    assert broken["error"] == "lab/crl.pem holds no numbered certificate revocation list in PEM"
    assert broken["hint"].startswith("restore the file from a copy")
    missing = cli.fail(1, "pki", "issue", "none", "x")
    assert missing["error"] == "none cannot be opened as a folder: No such file or directory"
    assert missing["hint"] == "make an authority there: ownkey pki init none"
    told = re.findall(r"\d{4}-\d\d-\d\d.\S*", cli.text("pki", "init", "second") + cli.text("pki", "list", "second"))
    assert told
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ[,;]?", one) for one in told)
