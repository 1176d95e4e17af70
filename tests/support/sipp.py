"""sipp as the telephones: calls at a steady rate, each with when it was begun, when it was answered, and with what."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SCENARIO = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="call">
  <send retrans="500"><![CDATA[
    INVITE sip:[service]@[field0] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
    From: <sip:alice@outside.example>;tag=[pid]c[call_number]
    To: <sip:[service]@[field0]>
    Call-ID: [call_id]
    CSeq: 1 INVITE
    Contact: <sip:alice@[local_ip]:[local_port]>
    Max-Forwards: 70
    Content-Length: 0

  ]]></send>
  <recv response="100" optional="true"/>
  <recv response="180" optional="true"/>
  <recv response="403" optional="true" next="2"/>
  <recv response="503" optional="true" next="2"/>
  <recv response="200" rrs="true"/>
  <send><![CDATA[
    ACK [next_url] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
    From: <sip:alice@outside.example>;tag=[pid]c[call_number]
    To: <sip:[service]@[field0]>[peer_tag_param]
    [routes]
    Call-ID: [call_id]
    CSeq: 1 ACK
    Max-Forwards: 70
    Content-Length: 0

  ]]></send>
  <send retrans="500"><![CDATA[
    BYE [next_url] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
    From: <sip:alice@outside.example>;tag=[pid]c[call_number]
    To: <sip:[service]@[field0]>[peer_tag_param]
    [routes]
    Call-ID: [call_id]
    CSeq: 2 BYE
    Max-Forwards: 70
    Content-Length: 0

  ]]></send>
  <recv response="200" next="3"/>
  <label id="2"/>
  <send><![CDATA[
    ACK sip:[service]@[field0] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch-8]
    From: <sip:alice@outside.example>;tag=[pid]c[call_number]
    To: <sip:[service]@[field0]>[peer_tag_param]
    Call-ID: [call_id]
    CSeq: 1 ACK
    Max-Forwards: 70
    Content-Length: 0

  ]]></send>
  <label id="3"/>
</scenario>
"""
_REQUEST = """
  <send{attributes}><![CDATA[
    {method} {uri} SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
    From: <sip:alice@outside.example>;tag=[pid]c[call_number]
    To: <sip:[service]@acme.example>{to}
    {routes}
    Call-ID: [call_id]
    CSeq: {number}
    Contact: <sip:alice@[local_ip]:[local_port]>
    Max-Forwards: 70
    Content-Length: 0

  ]]></send>
"""
_ANSWER = """
  <recv request="{method}"{more}/>
  <send><![CDATA[
    SIP/2.0 200 OK
    [last_Via:]
    [last_From:]
    [last_To:];tag=[pid]e[call_number]
    [last_Record-Route:]
    [last_Call-ID:]
    [last_CSeq:]
    Contact: <sip:bob@[local_ip]:[local_port]>
    Content-Length: 0

  ]]></send>
"""


def _request(method: str, number: str, *, within: bool = True, to: str = "", retrans: bool = True) -> str:
    return _REQUEST.format(
        attributes=' retrans="500"' if retrans else "",
        method=method,
        uri="[next_url]" if within else "sip:[service]@acme.example",
        to="[peer_tag_param]" if within else to,
        routes="[routes]" if within else "X-Nothing: x",
        number=f"{number} {method}",
    )


def _scenario(*steps: str) -> str:
    return '<?xml version="1.0" encoding="ISO-8859-1" ?>\n<scenario name="s">' + "".join(steps) + "</scenario>"


_TRYING = '<recv response="100" optional="true"/>'
WITH_A_SECOND_INVITE = _scenario(
    _request("INVITE", "1", within=False),
    _TRYING + '<recv response="200" rrs="true"/>',
    _request("ACK", "1", retrans=False),
    _request("INVITE", "2"),
    _TRYING + '<recv response="200"/>',
    _request("ACK", "2", retrans=False),
    _request("BYE", "3"),
    '<recv response="200"/>',
)
"""A call is set up, and one more INVITE is within it."""
WITH_AN_INVENTED_TAG = _scenario(
    _request("INVITE", "1", within=False, to=";tag=invented"), _TRYING + '<recv response="{status}"/>'
)
"""An INVITE says that it is within a call, and gets ``{status}``."""
_ANSWERING = _scenario(
    _ANSWER.format(method="INVITE", more=' rrs="true"'),
    '<recv request="ACK"/>',
    _ANSWER.format(method="INVITE", more="").replace(";tag=[pid]e[call_number]", ""),
    '<recv request="ACK"/>',
    _ANSWER.format(method="BYE", more="").replace(";tag=[pid]e[call_number]", ""),
)
CALLEE = "+15551234567"
SECONDS = 30


@dataclass
class Call:
    """One call: when its INVITE was sent, and the final answer; seconds of the epoch."""

    begun: float
    answered: float = 0.0
    status: int = 0


class Sipp:
    """sipp that makes calls."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self._messages = folder / "messages.csv"
        self._process = process

    def calls(self) -> list[Call]:
        """All calls so far, in the order in which they were begun."""
        calls: dict[str, Call] = {}
        if not self._messages.exists():
            return []
        lines = self._messages.read_text(encoding="latin-1").splitlines()
        # What is being written at this moment comes next time.
        for line in lines[:-1] if self.running else lines:
            fields = line.split("\t")
            if len(fields) < 7 or "INVITE" not in fields[5]:
                continue
            when, call_id, first = float(fields[2]), fields[4], fields[6]
            if first.startswith("INVITE"):
                # Sent again after half a second, it is the same call.
                calls.setdefault(call_id, Call(when))
            elif first.startswith("SIP/2.0") and int(first.split()[1]) >= 200:
                call = calls[call_id]
                call.answered, call.status = call.answered or when, call.status or int(first.split()[1])
        return list(calls.values())

    @property
    def running(self) -> bool:
        """Whether it still makes calls, or waits for answers."""
        return self._process.poll() is None

    def wait(self) -> list[Call]:
        """Wait until all calls are made; gives them."""
        self._process.wait(timeout=SECONDS * 2)
        return self.calls()

    def stop(self) -> list[Call]:
        """Begin no further call, and wait for the others; gives all."""
        self._process.send_signal(signal.SIGUSR1)
        return self.wait()


@contextlib.contextmanager
def calling(folder: Path, proxy: int, port: int, *, domain: str, rate: int, calls: int = 1_000_000) -> Iterator[Sipp]:
    """Make calls to a proxy, from a port, until the block ends or all are made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "call.xml").write_text(SCENARIO, encoding="ascii")
    (folder / "domains.csv").write_text(f"SEQUENTIAL\n{domain}\n", encoding="ascii")
    command = [
        *("sipp", f"127.0.0.1:{proxy}", "-sf", "call.xml", "-inf", "domains.csv", "-s", CALLEE),
        *("-i", "127.0.0.1", "-p", str(port), "-m", str(calls), "-r", str(rate), "-nostdin"),
        *("-recv_timeout", "20000", "-trace_shortmsg", "-shortmessage_file", "messages.csv", "-trace_err"),
    ]
    with _running(command, folder) as process:
        yield Sipp(folder, process)


def play(folder: Path, proxy: int, port: int, scenario: str, calls: int = 20) -> int:
    """Make calls as a scenario says; gives 0 if all went as it says."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "play.xml").write_text(scenario, encoding="ascii")
    command = [
        *("sipp", f"127.0.0.1:{proxy}", "-sf", "play.xml", "-s", CALLEE, "-i", "127.0.0.1", "-p", str(port)),
        *("-m", str(calls), "-r", "20", "-nostdin", "-recv_timeout", "20000", "-trace_err"),
    ]
    with _running(command, folder) as process:
        return process.wait(timeout=SECONDS * 2)


@contextlib.contextmanager
def answering(folder: Path, port: int, *, twice: bool = False) -> Iterator[None]:
    """Answer calls on a port: 180, 200, and 200 to the BYE; ``twice``: and 200 to a second INVITE within them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answering.xml").write_text(_ANSWERING, encoding="ascii")
    script = ["-sf", "answering.xml"] if twice else ["-sn", "uas"]
    command = ["sipp", *script, "-i", "127.0.0.1", "-p", str(port), "-nostdin"]
    with _running(command, folder):
        yield


@contextlib.contextmanager
def _running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
