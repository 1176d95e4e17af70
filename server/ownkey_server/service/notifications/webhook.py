"""Webhooks: a signed POST to an address that was checked, over one connection that is used once.

No redirect is followed, no proxy of the environment is asked, and of what the receiver says only its status is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import h11

from ownkey_server.domain.addresses import Address, Network
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.notifications import Channel, Notice
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.webhooks import Target, WebhookUrlInvalid, headers, parse_url
from ownkey_server.service.notifications.resolving import Resolve, checked_addresses
from ownkey_server.service.notifications.sending import DeliveryFailed

MAX_HEAD = 16 * 1024
MAX_BODY = 64 * 1024
PIECE = 16 * 1024
# What comes after the status decides nothing: a receiver that goes on for longer is left.
BODY_SECONDS = 1.0
# Parsing costs time that keys and calls have to wait for, so that neither a crowd of 1xx nor a body in tiny chunks is.
MAX_INTERIM = 16
_MAX_RETRY_AFTER = 86_400
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """How webhooks are sent.

    Attributes:
        connect: Seconds for the name, the connection and its TLS.
        attempt: Seconds for everything until the receiver's status.
        allowed: Networks that are connected to although they are not the public Internet.
        allow_http: Whether a webhook may be sent in clear.
        agent: For the User-Agent header.
    """

    connect: float = 5.0
    attempt: float = 10.0
    allowed: Collection[Network] = ()
    allow_http: bool = False
    agent: str = "ownkey"


class WebhookSender:
    """Sends webhooks.

    Args:
        resolve: Names to addresses.
        context: Whose certificates are believed.
        clock: For the time that is signed.
    """

    def __init__(self, resolve: Resolve, context: ssl.SSLContext, clock: Clock, options: WebhookOptions) -> None:
        self._resolve = resolve
        self._context = context
        self._clock = clock
        self._options = options

    async def send(self, channel: Channel, secrets: Sequence[SecretBytes], notice: Notice, *, slow: bool) -> str:
        """Send one; arguments and errors as for :class:`~ownkey_server.service.notifications.sending.Sender`."""
        options = self._options
        try:
            target = parse_url(channel.url, allow_http=options.allow_http)
        except WebhookUrlInvalid as error:
            raise DeliveryFailed(f"the channel's URL {error}") from None
        body = notice.payload()
        signed = headers([one.reveal() for one in secrets], notice.id, int(self._clock().timestamp()), body)
        try:
            async with asyncio.timeout(options.attempt):
                reader, writer = await self._connected(target, slow=slow)
                try:
                    return await _exchange(reader, writer, _request(target, signed, body, options.agent), body)
                finally:
                    writer.transport.abort()
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {options.attempt:g} s") from None
        except (OSError, ssl.SSLError) as error:
            raise DeliveryFailed(_cause(error)) from None
        except h11.RemoteProtocolError:
            raise DeliveryFailed("the answer is no HTTP") from None

    async def _connected(self, target: Target, *, slow: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        options = self._options
        failed: Exception | None = None
        try:
            async with asyncio.timeout(options.connect):
                places = await checked_addresses(self._resolve, target.host, target.port, options.allowed, slow=slow)
                for place in places:
                    try:
                        return await self._connect(target, place)
                    except OSError as error:
                        failed = error
        except TimeoutError:
            raise DeliveryFailed(f"no connection within {options.connect:g} s") from None
        raise failed or DeliveryFailed("no connection")

    async def _connect(self, target: Target, place: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not target.secure:
            return await asyncio.open_connection(str(place), target.port, limit=MAX_BODY)
        # By the address that was checked; the name is for the certificate alone.
        return await asyncio.open_connection(
            str(place), target.port, limit=MAX_BODY, ssl=self._context, server_hostname=target.host
        )


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """TLS as receivers need it: the system's authorities, and those of a file besides."""
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def _request(target: Target, signed: Mapping[str, str], body: bytes, agent: str) -> h11.Request:
    lines = {
        "Host": target.authority,
        "User-Agent": agent,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Accept-Encoding": "identity",
        "Connection": "close",
        **signed,
    }
    return h11.Request(method="POST", target=target.path, headers=list(lines.items()))


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: h11.Request, body: bytes
) -> str:
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    for part in (request, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(peer.send(part) or b"")
    await writer.drain()
    response: h11.Response | None = None
    interim = 0
    while response is None:
        event = peer.next_event()
        if event is h11.NEED_DATA:
            peer.receive_data(await reader.read(PIECE))
        elif isinstance(event, h11.Response):
            response = event
        elif not isinstance(event, h11.InformationalResponse):
            raise DeliveryFailed("the connection was closed without an answer")
        elif (interim := interim + 1) > MAX_INTERIM:
            raise DeliveryFailed(f"more than {MAX_INTERIM} interim answers (1xx) came, and no final one")
    await _see_out(reader, len(peer.trailing_data[0]), _length(response))
    return _judged(response)


async def _see_out(reader: asyncio.StreamReader, seen: int, length: int) -> None:
    """Let the receiver say the rest, within bounds: none of it is kept, nor looked at."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(BODY_SECONDS):
            while seen < min(length, MAX_BODY):
                piece = await reader.read(PIECE)
                if not piece or piece.endswith(_LAST_CHUNK):
                    return
                seen += len(piece)


def _length(response: h11.Response) -> int:
    """Of the body, as far as it is told; of one in chunks, and of one that ends with the connection, no end is."""
    if response.status_code in (204, 304):
        return 0
    told = next((value for name, value in response.headers if name == b"content-length"), b"")
    return int(told) if told.isdigit() and len(told) < 10 else MAX_BODY


def _judged(response: h11.Response) -> str:
    status = response.status_code
    if 200 <= status < 300:
        return f"HTTP {status}"
    if 300 <= status < 400:
        raise DeliveryFailed(f"HTTP {status}: redirects are not followed; give the channel the URL that it leads to")
    after = next((value for name, value in response.headers if name == b"retry-after"), b"")
    wait = min(int(after), _MAX_RETRY_AFTER) if after.isdigit() and len(after) < 10 else 0
    raise DeliveryFailed(f"HTTP {status}", timedelta(seconds=wait))


def _cause(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not believed: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {error.reason or 'the connection was closed'}"
        case ConnectionRefusedError():
            return "the connection was refused"
        case ConnectionError():
            return "the connection was closed"
        case OSError():
            return f"the connection failed: {error.strerror or type(error).__name__}"
    return type(error).__name__
