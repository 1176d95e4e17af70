"""TLS before a fake that has none: shows a certificate that is believed or one that is not, as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from support.pki import Authority


class TlsGate:
    """A listener in a thread of its own.

    Args:
        target: URL of what is behind it.
        folder: Where the authority is that is believed, in ``authority/ca.pem``; it is made by the first gate.
    """

    def __init__(self, target: str, folder: Path) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._contexts = {
            believed: _context(Authority(folder / name)) for believed, name in ((True, "authority"), (False, "other"))
        }
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls-gate", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.show(believed=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    def show(self, *, believed: bool) -> None:
        """Show that certificate from now on; connections that are there are cut."""
        self._run(self._listen(believed))

    def _run(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)  # type: ignore[arg-type]

    async def _listen(self, believed: bool) -> None:
        await self._close()
        context = self._contexts[believed]
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self._port, ssl=context)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        behind = None
        try:
            with contextlib.suppress(OSError, ssl.SSLError):
                from_target, behind = await asyncio.open_connection(*self._target)
                await asyncio.gather(_copy(reader, behind), _copy(from_target, writer))
        finally:
            self._writers.discard(writer)
            for one in (writer, behind):
                if one is not None:
                    one.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def _context(authority: Authority) -> ssl.SSLContext:
    issued = authority.issue("localhost", hosts=["localhost"], addresses=["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.pem, issued.key)
    return context
