"""Why a server is not reached, as the command line tells it: what is wrong, whose fault it is, and what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ownkey import pki
from support import server
from support.server import OWNKEY, ServerProcess


@dataclass
class Lab:
    """A server that speaks mutual TLS, and two authorities, of which it trusts one."""

    folder: Path
    address: str

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command, with nothing of ownkey's or gRPC's in its environment."""
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("OWNKEY_", "GRPC_"))}
        bare |= {"OWNKEY_TENANT": "acme", "OWNKEY_ADDRESS": self.address}
        return subprocess.run(
            [OWNKEY, *arguments],
            text=True,
            capture_output=True,
            env=bare | environment,
            cwd=self.folder,
            check=False,
            timeout=60,
        )

    def fail(self, code: int, *arguments: str) -> tuple[str, str]:
        """The error and the hint, which are all that is printed."""
        done = self.run(*arguments)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        error, hint = done.stderr.splitlines()
        assert error.startswith("ownkey: error: ")
        assert hint.startswith("ownkey: hint: ")
        return error.removeprefix("ownkey: error: "), hint.removeprefix("ownkey: hint: ")


def shown(name: str, ca: str = "lab", key: str = "") -> tuple[str, ...]:
    return "--tls-ca", f"{ca}/ca.pem", "--tls-cert", f"{name}.pem", "--tls-key", f"{key or name}.key"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("reaching")
    now = datetime.now(UTC)
    for name in ("lab", "other"):
        pki.create(folder / name, trust_domain="example.org")
        pki.issue(folder / name, "admin")
        pki.issue(folder / name, "server", ips=["127.0.0.1"], server=True)
    pki.issue(folder / "lab", "recorder")
    pki.issue(folder / "lab", "ended", not_before=now - timedelta(days=3), not_after=now - timedelta(days=2))
    access = f"""
[server.tls]
certificate_file = "{folder}/lab/server.pem"
private_key_file = "{folder}/lab/server.key"
client_ca_file = "{folder}/lab/ca.pem"
[identity.certificates]
spiffe_trust_domains = ["example.org"]
[authorization]
operators = ["spiffe://example.org/admin"]
"""
    with server.process(folder / "server", access=access) as running:
        yield Lab(folder, running.address)


def test_who_shows_what_is_asked_for_is_let_in(lab: Lab) -> None:
    assert lab.run("status", *shown("lab/admin")).returncode == 0


def test_the_key_of_another_certificate_is_named(lab: Lab) -> None:
    error, _ = lab.fail(2, "status", *shown("lab/admin", key="lab/recorder"))
    assert error == "lab/recorder.key is not the key of lab/admin.pem"


def test_an_encrypted_key_is_told_to_be_one(lab: Lab) -> None:
    command = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", "lab/admin.key", "-out", "sealed.key"]
    subprocess.run(command, check=True, capture_output=True, cwd=lab.folder)
    error, _ = lab.fail(2, "status", *shown("lab/admin", key="sealed"))
    assert error == "sealed.key is encrypted: give a file with the key in clear"


def test_a_certificate_that_has_ended_is_told_with_its_end(lab: Lab) -> None:
    error, _ = lab.fail(11, "status", *shown("lab/ended"))
    assert error.startswith("your certificate lab/ended.pem ended at 20")
    assert error.endswith("Z")


def test_a_certificate_that_is_missing_is_asked_for_by_its_options(lab: Lab) -> None:
    error, hint = lab.fail(11, "status", "--tls-ca", "lab/ca.pem")
    assert error == "the server wants a certificate of yours, and none was given"
    assert "--tls-cert and --tls-key" in hint


def test_a_server_that_speaks_tls_is_told_to_whoever_does_not(lab: Lab) -> None:
    error, hint = lab.fail(2, "status")
    assert error == f"the server at {lab.address} speaks TLS"
    assert "--tls-ca" in hint
    assert "--tls-cert and --tls-key" in hint


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("other/admin", "the server closed the TLS handshake: it may not accept your certificate (its authority,"),
        ("lab/server", "your certificate lab/server.pem is not for clients"),
    ],
)
def test_a_certificate_that_is_not_taken_is_no_outage(lab: Lab, name: str, told: str) -> None:
    error, hint = lab.fail(11, "status", *shown(name))
    assert error.startswith(told)
    assert "--tls-cert" in hint


def test_a_server_of_another_authority_is_told_with_the_file(lab: Lab) -> None:
    error, hint = lab.fail(2, "status", *shown("lab/admin", ca="other"))
    assert error == "the server's certificate is not of an authority in other/ca.pem"
    assert "--tls-ca" in hint


def test_a_server_of_another_name_is_told(lab: Lab) -> None:
    port = lab.address.rpartition(":")[2]
    error, _ = lab.fail(2, "status", *shown("lab/admin"), "--address", f"localhost:{port}")
    assert error == "the server's certificate is not for localhost"


def test_a_server_without_tls_is_told_to_whoever_speaks_it(lab: Lab, ownkey_server: ServerProcess) -> None:
    error, hint = lab.fail(2, "status", *shown("lab/admin"), "--address", ownkey_server.address)
    assert error == "the server does not speak TLS"
    assert "--tls-ca" in hint


def test_administration_is_told_the_same(lab: Lab) -> None:
    error, _ = lab.fail(11, "admin", "tenant", "list", "--tls-ca", "lab/ca.pem")
    assert error == "the server wants a certificate of yours, and none was given"


@pytest.mark.parametrize("address", ["127.0.0.1", "http://127.0.0.1:7400", "127.0.0.1:7400/", "x" * 100_000])
@pytest.mark.parametrize("tls", [True, False])
def test_what_is_no_address_is_refused_and_shortened(lab: Lab, address: str, tls: bool) -> None:
    error, _ = lab.fail(2, "status", "--address", address, *(shown("lab/admin") if tls else ()))
    assert "is no address: give HOST:PORT, such as 127.0.0.1:7400, or unix:PATH" in error
    assert len(error) < 200


def test_what_grpc_says_is_shown_when_it_is_asked_for(lab: Lab) -> None:
    quiet = lab.run("status", *shown("lab/admin", ca="other"))
    assert "ssl_transport_security" not in quiet.stderr
    loud = lab.run("status", *shown("lab/admin", ca="other"), GRPC_VERBOSITY="INFO")
    assert "ssl_transport_security" in loud.stderr
    assert "ssl_transport_security" in lab.run("-v", "status", *shown("lab/admin", ca="other"), GRPC_TRACE="").stderr


def test_a_taken_port_is_told_in_our_words_alone(lab: Lab, tmp_path: Path) -> None:
    config = server.write_settings(tmp_path, listen=lab.address)
    done = lab.run("serve", "--config", str(config))
    assert done.returncode == 1
    assert f"ownkey: error: cannot listen on {lab.address}: is the port taken?" in done.stderr
    assert "add_port.cc" not in done.stderr


def test_waiting_for_a_server_ends_when_it_answers_or_the_time_is_over(lab: Lab, tmp_path: Path) -> None:
    begun = time.monotonic()
    missing = lab.run("status", "--wait", "0.5", "--address", "127.0.0.1:1")
    assert missing.returncode == 5
    assert time.monotonic() - begun >= 0.5
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    command = [OWNKEY, "status", "--wait", "50", "--json", "--address", address, "--tenant", "acme"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        with server.process(tmp_path / "late", listen=address):
            out, err = waiting.communicate(timeout=60)
        assert (waiting.returncode, err) == (0, "")
    answer: dict[str, Any] = json.loads(out)
    assert {one["state"] for one in answer["keys"]} == {"available"}


PATTERNS = [
    (("check", "--tenant", "X y", "--class", "team_chat", "--asset-id", "a b"), ("--tenant: ", "--asset-id: ")),
    (("admin", "principal", "create", "x y"), ("PRINCIPAL: must be letters, digits",)),
    (("admin", "approval", "approve", "5f0c..."), ("APPROVAL: must be lower-case letters and digits alone",)),
    (("admin", "tenant", "create", "Acme"), ("TENANT: must be lower-case letters, digits and hyphens",)),
    (("status", "--key", "Main"), ("--key: must be lower-case letters, digits and hyphens",)),
]


@pytest.mark.parametrize(("arguments", "told"), PATTERNS, ids=lambda value: " ".join(value[:3]))
def test_what_may_not_be_so_is_told_by_its_option_in_words(
    lab: Lab, arguments: tuple[str, ...], told: tuple[str, ...]
) -> None:
    error, _ = lab.fail(2, *arguments, *shown("lab/admin"))
    assert all(one in error for one in told)
    assert "regex" not in error
    assert "[a-z" not in error
