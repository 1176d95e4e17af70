"""A real Kamailio with clients/kamailio, in front of a telephone that answers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.server import wait_until
from support.telephones import SECONDS, Callee, Caller, Message

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients" / "kamailio"
# The interpreter inside Kamailio is the system's: its packages are in an environment of their own (make test).
VENV = Path(sys.prefix) / "kamailio"
SECRET = "5f" * 32


def require_kamailio() -> None:
    """Skip without Kamailio and sipp, and fail in CI: there, nothing that can be installed may be missing."""
    missing = [program for program in ("kamailio", "sipp") if not shutil.which(program, path=_path())]
    if not list(Path("/usr/lib").glob("**/kamailio/modules/app_python3.so")):
        missing.append("app_python3.so")
    if not VENV.exists():
        missing.append(str(VENV))
    if missing:
        reason = f"{' and '.join(missing)} not found: make test installs Kamailio, sipp and the SDK for its Python"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin"


def free_port() -> int:
    """A UDP port of loopback that nobody uses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Kamailio:
    """A running Kamailio."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    callee: Callee
    children: int

    @property
    def log(self) -> str:
        """What it has written so far."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def running(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    @contextlib.contextmanager
    def caller(self) -> Iterator[Caller]:
        """A telephone."""
        caller = Caller(self.port)
        try:
            yield caller
        finally:
            caller.close()

    def invite(self, uri: str, **options: object) -> Message:
        """One INVITE and its final answer."""
        with self.caller() as caller:
            return caller.invite(uri, **options)  # type: ignore[arg-type]


GATE = """
[python]
venv = "{venv}"
[service]
address = "{address}"
timeout_ms = {timeout_ms}
at_once = {at_once}
{service}
[no_answer]
{no_answer}
[tenants]
{tenants}
[tenants.domains]
"acme.example" = "acme"
"quiet.example" = "quiet"
"ghost.example" = "ghost"
[calls]
stores = ["phone_recording"]
{calls}
"""


def write(
    folder: Path,
    address: str,
    port: int,
    next_hop: int,
    *,
    gate: str | None = None,
    trusted: bool = False,
    timeout_ms: int = 2000,
    children: int = 4,
    at_once: int = 3,
    service: str = "",
    no_answer: str = "",
    tenants: str = "",
    calls: str = "",
    secret: str = SECRET,
) -> Path:
    """Install clients/kamailio in a folder; gives the configuration. ``gate`` replaces all of gate.toml."""
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    site = (CLIENT / "site.cfg").read_text(encoding="utf-8")
    for old, new in (
        ("udp:127.0.0.1:5060", f"udp:127.0.0.1:{port}"),
        ("/etc/kamailio/ownkey", str(folder)),
        ("OWNKEY_CHILDREN 8", f"OWNKEY_CHILDREN {children}"),
        ("sip:127.0.0.1:5080", f"sip:127.0.0.1:{next_hop}"),
        *([("return -1;", "return 1;")] if trusted else []),
    ):
        assert old in site
        site = site.replace(old, new)
    (folder / "site.cfg").write_text(site, encoding="utf-8")
    if gate is None:
        gate = GATE.format(
            venv=VENV,
            address=address,
            timeout_ms=timeout_ms,
            at_once=at_once,
            service=service,
            no_answer=no_answer,
            tenants=tenants,
            calls=calls,
        )
    (folder / "gate.toml").write_text(gate, encoding="utf-8")
    if secret:
        (folder / "secret.cfg").write_text(f'#!define OWNKEY_SECRET "{secret}"\n', encoding="utf-8")
    return folder / "kamailio.cfg"


@contextlib.contextmanager
def process(
    folder: Path,
    address: str,
    *,
    next_hop: int | None = None,
    children: int = 4,
    harm: Callable[[Path], None] | None = None,
    **options: object,
) -> Iterator[Kamailio]:
    """Kamailio in front of a callee, until the block ends.

    Args:
        folder: Where it is installed.
        address: Where ownkey is.
        next_hop: Another callee's port.
        children: How many workers it has.
        harm: Is done to the folder before it starts.
        options: Of :func:`write`.
    """
    require_kamailio()
    callee, port = Callee(), free_port()
    config = write(folder, address, port, next_hop or callee.port, children=children, **options)  # type: ignore[arg-type]
    if harm is not None:
        harm(folder)
    run = folder / "run"
    run.mkdir()
    command = [
        shutil.which("kamailio", path=_path()) or "kamailio",
        *(
            "-f",
            str(config),
            "-DD",
            "-E",
            "-P",
            str(run / "pid"),
            "-Y",
            str(run),
            "-w",
            str(run),
            "-m",
            "64",
            "-M",
            "8",
        ),
    ]
    with (folder / "log").open("wb") as log:
        # The SDK of this checkout; what it needs is in the environment that gate.toml names.
        environment = {"PATH": _path(), "PYTHONPATH": str(ROOT / "clients" / "python"), "PYTHONDONTWRITEBYTECODE": "1"}
        started = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    running = Kamailio(folder, port, started, callee, children)
    try:
        _wait_until_serving(running)
        yield running
        assert running.running(), running.log
    finally:
        started.terminate()
        try:
            started.wait(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            # Its workers would outlive it.
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
        callee.close()


def _wait_until_serving(kamailio: Kamailio) -> None:
    """Ask until it answers: it does once its workers are there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        probe.settimeout(0.1)
        port = probe.getsockname()[1]
        # Max-Forwards of zero: answered by the proxy itself.
        request = (
            f"OPTIONS sip:ping@test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bKping\r\n"
            "Max-Forwards: 0\r\nFrom: <sip:ping@test>;tag=1\r\nTo: <sip:ping@test>\r\nCall-ID: ping\r\n"
            "CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        ).encode()

        def answered() -> bool:
            assert kamailio.running(), f"Kamailio did not start:\n{kamailio.log}"
            log = kamailio.log
            # A worker that is still being made does not hear that it is to end; one without a gate says so.
            if log.count("is ready") < kamailio.children and "the gate is out of order" not in log:
                return False
            probe.sendto(request, ("127.0.0.1", kamailio.port))
            try:
                return probe.recv(4096).startswith(b"SIP/2.0 483")
            except (TimeoutError, ConnectionRefusedError):
                return False

        wait_until(answered, "Kamailio answered")
