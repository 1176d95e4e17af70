"""The command line as its users run it, against a running server."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import server
from support.server import OWNKEY, ServerProcess

FACTS = ("--class", "phone_recording", "--asset-id", "call-1")


class Cli:
    """Runs ``ownkey`` against a server."""

    def __init__(self, address: str, folder: Path) -> None:
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("OWNKEY_")}
        self.environment |= {"OWNKEY_ADDRESS": address, "OWNKEY_TENANT": "acme"}
        self.folder = folder

    def __call__(self, *arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [OWNKEY, *arguments],
            input=stdin,
            capture_output=True,
            env=self.environment | environment,
            cwd=self.folder,
            check=False,
            timeout=60,
        )

    def ok(self, *arguments: str, stdin: bytes = b"") -> dict[str, object]:
        done = self("--json", *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    def fail(self, code: int, *arguments: str, stdin: bytes = b"") -> dict[str, object]:
        done = self("--json", *arguments, stdin=stdin)
        assert done.returncode == code, (done.returncode, done.stderr.decode())
        assert done.stdout == b""
        error: dict[str, object] = json.loads(done.stderr)
        assert error["exit_code"] == code
        return error


@pytest.fixture
def cli(ownkey_server: ServerProcess, tmp_path: Path) -> Cli:
    return Cli(ownkey_server.address, tmp_path)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "call.wav"
    path.write_bytes(os.urandom(1_000_003))
    return path


@pytest.mark.parametrize("mode", ["stream", "local"])
def test_a_file_comes_back_the_same(cli: Cli, recording: Path, mode: str) -> None:
    made = cli.ok("encrypt", "call.wav", *FACTS, "--mode", mode)
    assert made["key"] == "tenants/acme/keys/main"
    cli.ok("decrypt", "call.wav.ownkey", "-o", "again.wav", "--mode", mode)
    again = recording.with_name("again.wav")
    assert again.read_bytes() == recording.read_bytes()
    assert again.stat().st_mode & 0o777 == 0o600
    shown = cli.ok("inspect", "call.wav.ownkey")
    assert shown["message_id"] == made["message_id"]


@pytest.mark.parametrize("mode", ["stream", "local"])
def test_pipes_work_both_ways(cli: Cli, mode: str) -> None:
    sealed = cli("encrypt", "-", *FACTS, "--mode", mode, stdin=b"content" * 1000)
    assert (sealed.returncode, sealed.stderr) == (0, b"")
    opened = cli("decrypt", "-", "--mode", mode, stdin=sealed.stdout)
    assert (opened.returncode, opened.stdout) == (0, b"content" * 1000)


@pytest.mark.parametrize("mode", ["stream", "local"])
def test_a_range_of_a_file(cli: Cli, recording: Path, mode: str) -> None:
    cli.ok("encrypt", "call.wav", *FACTS)
    arguments = ("decrypt", "call.wav.ownkey", "-o", "-", "--offset", "500000", "--length", "1000", "--mode", mode)
    assert cli(*arguments).stdout == recording.read_bytes()[500_000:501_000]


def test_an_output_that_is_there_is_not_replaced(cli: Cli, recording: Path) -> None:
    cli.ok("encrypt", "call.wav", *FACTS)
    error = cli.fail(10, "encrypt", "call.wav", *FACTS)
    assert "is there already" in str(error["error"])
    cli.ok("encrypt", "call.wav", *FACTS, "--force")


def test_an_input_is_never_its_own_output(cli: Cli, recording: Path) -> None:
    before = recording.read_bytes()
    error = cli.fail(2, "encrypt", "call.wav", "-o", "./call.wav", "--force", *FACTS)
    assert "is the input itself" in str(error["error"])
    assert recording.read_bytes() == before


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("call.wav", "call.wav.ownkey"))


MANGLED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda s: s[:-1], "CONTAINER_TRUNCATED"),
    "cut in half": (lambda s: s[: len(s) // 2], "CONTAINER_TRUNCATED"),
    "longer": (lambda s: s + b"x", "CONTAINER_TRAILING_DATA"),
    "changed at the end": (lambda s: s[:-1] + bytes([s[-1] ^ 1]), "CONTAINER_INVALID"),
    "another kind of file": (lambda s: b"RIFF" + s, "CONTAINER_UNSUPPORTED"),
    "empty": (lambda s: b"", "CONTAINER_TRUNCATED"),
}


@pytest.mark.parametrize("mode", ["stream", "local"])
@pytest.mark.parametrize("how", MANGLED)
def test_a_damaged_object_leaves_no_file(cli: Cli, recording: Path, mode: str, how: str) -> None:
    cli.ok("encrypt", "call.wav", *FACTS)
    mangle, reason = MANGLED[how]
    sealed = recording.with_name("call.wav.ownkey")
    sealed.write_bytes(mangle(sealed.read_bytes()))
    error = cli.fail(6, "decrypt", "call.wav.ownkey", "-o", "never.wav", "--mode", mode)
    assert error["reason"] == reason
    assert error["hint"]
    assert leftovers(recording.parent) == []


@pytest.mark.parametrize("mode", ["stream", "local"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--asset-id", "call-2"), 6),
        (("--class", "phone_voicemail"), 6),
        (("--tenant", "globex"), 6),
        (("--user", "frida@acme.example", "--group", "finance"), 6),
        (("--group", "nobody"), 2),
    ],
)
def test_another_asset_s_object_leaves_no_file(
    cli: Cli, recording: Path, mode: str, arguments: tuple[str, ...], code: int
) -> None:
    cli.ok("encrypt", "call.wav", *FACTS)
    done = cli("--json", "decrypt", "call.wav.ownkey", "-o", "never.wav", "--mode", mode, *arguments)
    assert done.returncode in (code, 6, 8), done.stderr
    assert leftovers(recording.parent) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("mode", ["stream", "local"])
def test_a_signal_in_the_middle_leaves_no_file(cli: Cli, recording: Path, mode: str, number: int, code: int) -> None:
    cli.ok("encrypt", "call.wav", *FACTS)
    sealed = recording.with_name("call.wav.ownkey").read_bytes()
    command = [OWNKEY, "decrypt", "-", "-o", "never.wav", "--mode", mode, *FACTS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=cli.environment, cwd=cli.folder
    ) as running:
        assert running.stdin is not None
        running.stdin.write(sealed[:900_000])
        running.stdin.flush()
        wait_for(lambda: any(name.endswith(".ownkey-partial") for name in leftovers(recording.parent)))
        running.send_signal(number)
        assert running.wait(timeout=30) == code
    assert leftovers(recording.parent) == []


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    tick = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        tick.wait(0.02)
    raise AssertionError("it did not come")


def test_a_full_disk_leaves_no_file(cli: Cli, recording: Path) -> None:
    cli.ok("encrypt", "call.wav", *FACTS)
    script = f"ulimit -f 100; exec {OWNKEY} --json decrypt call.wav.ownkey -o never.wav"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, env=cli.environment, cwd=cli.folder, check=False, timeout=60
    )
    assert done.returncode == 1, done
    assert leftovers(recording.parent) == []


def test_a_data_key_can_be_unwrapped_from_the_shell(cli: Cli) -> None:
    made = cli.ok("datakey", *FACTS, "--context", "purpose=test")
    assert "plaintext" not in made
    context = json.dumps(made["encryption_context"])
    wrapped = str(made["wrapped_key"])
    first = cli.ok("unwrap", *FACTS, "--wrapped-key", wrapped, "--context-json", context)
    second = cli.ok("unwrap", *FACTS, "--wrapped-key", "-", "--context-json", context, stdin=wrapped.encode())
    assert len(base64.b64decode(str(first["plaintext"]))) == 32
    assert first["plaintext"] == second["plaintext"]
    cli.fail(6, "unwrap", *FACTS, "--wrapped-key", wrapped, "--context-json", context, "--context", "purpose=other")
    cli.fail(2, "unwrap", *FACTS, "--wrapped-key", "%%%", "--context-json", context)
    cli.fail(2, "unwrap", *FACTS, "--wrapped-key", wrapped, "--context-json", "[1]")
    for command in ("unwrap", "rewrap"):
        assert "--context-json" in cli.fail(2, command, *FACTS, "--wrapped-key", wrapped)["error"]


def test_the_plaintext_is_shown_only_when_asked_for(cli: Cli) -> None:
    assert "plaintext" in cli.ok("datakey", *FACTS, "--with-plaintext")
    assert b"plaintext" not in cli("datakey", *FACTS).stdout


def test_answers_say_by_their_exit_code_what_they_are(cli: Cli) -> None:
    assert cli.ok("check", *FACTS)["decision"] == "allow"
    assert cli("check", "--class", "phone_mms", "--asset-id", "x").returncode == 3
    assert cli("status").returncode == 0
    assert cli("call", "--callee", "+1555", "--stores", "phone_recording").returncode == 0
    assert cli("call", "--callee", "911").returncode == 0


def test_failures_say_by_their_exit_code_what_they_are(cli: Cli) -> None:
    assert cli.fail(8, "status", "--tenant", "nobody")["reason"] == "TENANT_NOT_FOUND"
    assert cli.fail(3, "datakey", "--class", "phone_mms", "--asset-id", "x")["reason"] == "POLICY_DENIED"
    assert cli.fail(2, "datakey", *FACTS, "--user", "u" * 300)["violations"] == {
        "asset.user": "must be at most 256 bytes"
    }
    assert cli.fail(2, "check", "--class", "fax", "--asset-id", "x")["hint"] == "ownkey check --help"
    assert cli.fail(5, "--address", "127.0.0.1:1", "status")["hint"]
    assert "credentials" in str(cli.fail(2, "--address", "10.1.2.3:7400", "status")["error"])


def test_json_and_address_may_stand_on_either_side_of_the_command(cli: Cli) -> None:
    address = cli.environment.pop("OWNKEY_ADDRESS")
    for arguments in (("--json", "--address", address, "status"), ("status", "--json", "--address", address)):
        assert json.loads(cli(*arguments).stdout)["keys"]


def test_people_get_lines_an_error_and_a_hint(cli: Cli) -> None:
    assert b"tenants/acme/keys/main" in cli("status").stdout
    error = cli("status", "--tenant", "nobody").stderr.decode().splitlines()
    assert error[0].startswith("ownkey: error: tenant 'nobody' is not known")
    assert error[1].startswith("ownkey: hint: ")
    assert len(error) == 2


@pytest.mark.parametrize(
    "command",
    ["", "encrypt", "decrypt", "inspect", "datakey", "unwrap", "status", "check", "call", "init", "serve", "keystore"],
)
def test_every_command_explains_itself(cli: Cli, command: str) -> None:
    done = cli(*([command] if command else []), "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Usage: ownkey" in done.stdout


def test_a_client_without_the_server_s_packages_says_what_is_missing(cli: Cli) -> None:
    blocker = "import sys; sys.modules['pydantic'] = None; from ownkey.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", blocker, "serve"], capture_output=True, env=cli.environment, check=False, timeout=60
    )
    assert done.returncode == 1
    assert b"pip install 'ownkey[server]'" in done.stderr
    light = "import sys; sys.modules['pydantic'] = None; sys.modules['protovalidate'] = None; import ownkey.cli.media"
    subprocess.run([sys.executable, "-c", light], check=True, timeout=60)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server.process(tmp_path / "server") as running:
        yield running


def test_a_key_taken_away_stops_what_it_protects_and_given_back_opens_it(
    own_server: ServerProcess, tmp_path: Path, recording: Path
) -> None:
    cli = Cli(own_server.address, tmp_path)
    cli.ok("encrypt", "call.wav", *FACTS)
    own_server.disable()
    for mode in ("stream", "local"):
        assert cli.fail(4, "decrypt", "call.wav.ownkey", "-o", "never.wav", "--mode", mode)["reason"] == "KEY_REVOKED"
        assert cli.fail(4, "encrypt", "call.wav", "-o", "never.ownkey", *FACTS, "--mode", mode)
    assert cli("status", "--key", "main").returncode == 4
    assert cli("call", "--callee", "+1555", "--stores", "phone_recording").returncode == 7
    assert cli("call", "--callee", "911", "--stores", "phone_recording").returncode == 0
    own_server.enable()
    cli.ok("decrypt", "call.wav.ownkey", "-o", "again.wav")
    assert (tmp_path / "again.wav").read_bytes() == recording.read_bytes()
    assert not (tmp_path / "never.wav").exists()
    assert not (tmp_path / "never.ownkey").exists()


def test_a_server_stops_by_signal_and_says_what_is_wrong_with_its_settings(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OWNKEY_")}

    def serve(config: Path) -> subprocess.CompletedProcess[bytes]:
        command = [OWNKEY, "serve", "--config", str(config)]
        return subprocess.run(command, capture_output=True, env=environment, check=False, timeout=60)

    missing = serve(tmp_path / "none.toml")
    assert (missing.returncode, b"ownkey init" in missing.stderr) == (2, True)
    config = server.write_settings(tmp_path / "bad", tenants="tenants = 3\n")
    assert b"tenants.toml: provider_key: is missing" in serve(config).stderr
    with server.process(tmp_path / "good") as running:
        taken = server.write_settings(tmp_path / "taken")
        taken.write_text(taken.read_text(encoding="utf-8").replace("127.0.0.1:0", running.address), encoding="utf-8")
        done = serve(taken)
        assert (done.returncode, b"is the port taken?" in done.stderr) == (1, True)


def test_init_touches_nothing_that_is_there(tmp_path: Path) -> None:
    def init() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([OWNKEY, "init", str(tmp_path / "lab")], capture_output=True, check=False, timeout=60)

    assert init().returncode == 0
    (tmp_path / "lab" / "ownkey.toml").write_text("mine", encoding="utf-8")
    again = init()
    assert (again.returncode, b"is there already" in again.stderr) == (10, True)
    assert (tmp_path / "lab" / "ownkey.toml").read_text(encoding="utf-8") == "mine"
