"""Telephones that speak SIP over loopback: one that calls, and the next hop that answers."""

from __future__ import annotations

import itertools
import select
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass

SECONDS = 20


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
