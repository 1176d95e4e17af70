"""A real Kamailio with clients/kamailio, and telephones that speak to it over loopback."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.server import wait_until

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients" / "kamailio"
# The interpreter inside Kamailio is the system's: its packages are in an environment of their own (make test).
VENV = Path(sys.prefix) / "kamailio"
SECONDS = 20
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


@dataclass(frozen=True)
class Message:
    """A SIP message, as far as the tests look at it."""

    first: str
    headers: tuple[tuple[str, str], ...]

    @property
    def status(self) -> int:
        """A response's status."""
        return int(self.first.split()[1])

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str:
        """The first value of a header, or nothing."""
        return next(iter(self.all(name)), "")


def parse(data: bytes) -> Message:
    """Read a message."""
    first, *lines = data.decode("utf-8", "surrogateescape").partition("\r\n\r\n")[0].split("\r\n")
    return Message(first, tuple((k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in lines)))


@dataclass(frozen=True)
class Dialog:
    """What a request within a call says of it, in the order in which one end sends it."""

    call_id: str
    from_tag: str
    to_tag: str
    routes: tuple[str, ...]

    def of_the_other(self) -> Dialog:
        """The same as the other end says it."""
        return Dialog(self.call_id, self.to_tag, self.from_tag, self.routes[::-1])


def dialog_of(answer: Message) -> Dialog:
    """The call that an answer is about, as its caller says it."""
    tags = [answer.get(name).partition("tag=")[2] for name in ("From", "To")]
    return Dialog(answer.get("Call-ID"), *tags, tuple(answer.all("Record-Route")[::-1]))


class Callee:
    """The next hop: answers every INVITE with 486, BYE and others with 200, and keeps what it got, by Call-ID.

    486 is an answer that ends the transaction at once; nobody but the next hop says it here.
    """

    ANSWER = 486

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.got: dict[str, list[Message]] = {}
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                data, sender = self._socket.recvfrom(65536)
            except OSError:
                return
            if data == b"end":
                return
            request = parse(data)
            self.got.setdefault(request.get("Call-ID"), []).append(request)
            if not request.first.startswith("ACK"):
                answer = "486 Busy Here" if request.first.startswith("INVITE") else "200 OK"
                self._socket.sendto(response(request, answer), sender)

    def close(self) -> None:
        """Stop."""
        self._socket.sendto(b"end", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


def response(request: Message, status: str) -> bytes:
    """The answer to a request."""
    to = request.get("To")
    lines = [
        f"SIP/2.0 {status}",
        *(f"Via: {via}" for via in request.all("Via")),
        *(f"Record-Route: {route}" for route in request.all("Record-Route")),
        f"From: {request.get('From')}",
        f"To: {to if 'tag=' in to else to + ';tag=callee'}",
        f"Call-ID: {request.get('Call-ID')}",
        f"CSeq: {request.get('CSeq')}",
        "Content-Length: 0",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


class Caller:
    """A telephone that sends one request at a time."""

    _numbers = itertools.count(1)

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(SECONDS)
        self._proxy = ("127.0.0.1", port)
        self.port: int = self._socket.getsockname()[1]
        self.call_id = ""

    def invite(
        self,
        uri: str,
        *,
        headers: Mapping[str, str] | None = None,
        sender: str = "sip:alice@outside.example",
        to_tag: str = "",
        method: str = "INVITE",
        within: Dialog | None = None,
    ) -> Message:
        """Send an INVITE, or another request, and give its final answer."""
        lines = self.begin(uri, headers=headers, sender=sender, to_tag=to_tag, method=method, within=within)
        answer = self.final(self.call_id)
        if method == "INVITE":
            self._acknowledge(lines, answer)
        return answer

    def begin(
        self,
        uri: str,
        *,
        headers: Mapping[str, str] | None = None,
        sender: str = "sip:alice@outside.example",
        to_tag: str = "",
        method: str = "INVITE",
        within: Dialog | None = None,
    ) -> list[str]:
        """Send a request, and wait for nothing; gives its lines."""
        number = next(self._numbers)
        self.call_id = within.call_id if within else f"{number}-{self.port}@test"
        from_tag, to_tag = (within.from_tag, within.to_tag) if within else (f"caller{number}", to_tag)
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{number}x{self.port}",
            "Max-Forwards: 70",
            f"From: <{sender}>;tag={from_tag}",
            "To: <sip:somebody@test.invalid>" + (f";tag={to_tag}" if to_tag else ""),
            f"Call-ID: {self.call_id}",
            f"CSeq: {number} {method}",
            *(f"Route: {route}" for route in (within.routes if within else ())),
            f"Contact: <sip:alice@127.0.0.1:{self.port}>",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
            "Content-Length: 0",
        ]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape"))
        return lines

    def answers(self, least: int = 0) -> list[Message]:
        """All that has come and was not read, once it is so many."""
        found: list[Message] = []
        while len(found) < least or select.select([self._socket], [], [], 0)[0]:
            found.append(parse(self._socket.recv(65536)))
        return found

    def send(self, data: bytes) -> None:
        """Send whatever it is."""
        self._socket.sendto(data, self._proxy)

    def final(self, call_id: str) -> Message:
        """The final answer to a request of that Call-ID."""
        while True:
            answer = parse(self._socket.recv(65536))
            if answer.get("Call-ID") == call_id and answer.status >= 200:
                return answer

    def _acknowledge(self, invite: list[str], answer: Message) -> None:
        lines = [line.replace("INVITE", "ACK", 1) if line.startswith(("INVITE", "CSeq")) else line for line in invite]
        lines = [f"To: {answer.get('To')}" if line.startswith("To:") else line for line in lines]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape"))

    def close(self) -> None:
        """Hang up for good."""
        self._socket.close()


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
