"""A receiver of webhooks that behaves as a test says: real sockets, real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from support.pki import Authority

HANG = b""
"""An answer that never comes."""


def status(number: int, *headers: str, body: bytes = b"") -> bytes:
    """An answer of that status."""
    lines = [f"HTTP/1.1 {number} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


OK = status(204)


@dataclass
class Came:
    """A request that came."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """Of the notice."""
        return self.headers["webhook-id"]

    @property
    def told(self) -> dict[str, Any]:
        """The body."""
        return dict(json.loads(self.body))


@dataclass
class Receiver:
    """Takes webhooks.

    Attributes:
        answer: What is answered to each; HANG waits for the test to end.
        came: What came, whole.
        most: How many were under way at once.
        connections: How many connections there were.
    """

    answer: Callable[[Came], bytes] = lambda _: OK
    came: list[Came] = field(default_factory=list)
    port: int = 0
    most: int = 0
    connections: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _now: int = 0
    _end: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"https://localhost:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        """Ids of the notices, in the order in which they came."""
        return [one.id for one in self.came]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest if one)}
            came = Came(line, headers, await reader.readexactly(int(headers["content-length"])))
            self.came.append(came)
            self.arrived.set()
            answer = self.answer(came)
            if answer == HANG:
                await self._end.wait()
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self._now -= 1
            writer.close()

    def end(self) -> None:
        self._end.set()


@contextlib.asynccontextmanager
async def receiving(authority: Authority | None, name: str = "localhost") -> AsyncIterator[Receiver]:
    """A receiver on a free port of 127.0.0.1, with a certificate for ``name``, or without TLS."""
    receiver = Receiver()
    context = None
    if authority is not None:
        issued = authority.issue(name, hosts=[name])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.pem, issued.key)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=context)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.end()
        server.close()
