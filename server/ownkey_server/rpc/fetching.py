"""One document over HTTP, from a server that may be slow, hostile or broken: bounded in size, and ended from outside.

The timeout of a socket counts from byte to byte, so that a server that drips holds a thread for days. Here the whole
connection can be cut off from another thread, at whatever it is: the handshake, the headers or the content.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from urllib.parse import urlsplit

from ownkey_server.rpc.reloading import UnusableFile

# From one byte to the next. Whoever fetches bounds the whole.
SILENCE_SECONDS = 5.0


class Fetch:
    """One GET, without redirects and without proxies: where it goes is set, and nobody else says it.

    Args:
        url: An https URL, or an http one of this machine.
        most: Bytes that the document may have.

    Attributes:
        place: The URL as logs tell it, without a query.
    """

    def __init__(self, url: str, most: int) -> None:
        self._url = url
        # What follows may be a secret of some issuers.
        self.place = url.partition("?")[0]
        self._most = most
        self._socket: socket.socket | None = None
        self._aborted = False

    def get(self) -> bytes:
        """The document. Blocks; call it once, in a thread.

        Raises:
            UnusableFile: It cannot be had.
        """
        try:
            return self._get()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise UnusableFile(f"{self.place} cannot be fetched: {str(error) or type(error).__name__}") from None
        finally:
            self._close()

    def abort(self) -> None:
        """End it, from another thread."""
        self._aborted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Not the method of ssl.SSLSocket, which is not made to be called while its thread reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _get(self) -> bytes:
        parts = urlsplit(self._url)
        secure = parts.scheme == "https"
        assert parts.hostname is not None  # noqa: S101 - the settings have looked
        connection = http.client.HTTPConnection(parts.hostname, parts.port or (443 if secure else 80))
        connection.sock = self._connected(parts.hostname, connection.port, secure=secure)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Accept": "application/json", "User-Agent": "ownkey"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise UnusableFile(f"{self.place} cannot be fetched: it answers {answer.status}")
        text = answer.read(self._most + 1)
        if len(text) > self._most:
            raise UnusableFile(f"{self.place} gives more than {self._most} bytes")
        return text

    def _connected(self, host: str, port: int, *, secure: bool) -> socket.socket:
        self._hold(socket.create_connection((host, port), SILENCE_SECONDS))
        assert self._socket is not None  # noqa: S101 - just now
        if secure:
            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            wrapped = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
            self._hold(wrapped)
            wrapped.do_handshake()
        return self._socket

    def _hold(self, connected: socket.socket) -> None:
        self._socket = connected
        if self._aborted:
            raise TimeoutError("it took too long")

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
