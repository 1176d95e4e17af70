"""Where webhooks may lead, and what a receiver cannot do to us: no address of ours, no redirect, no endless answer."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey_server.domain.addresses import refusal
from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.notifications import Channel, ChannelKind, Notice, NoticeKind
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.webhooks import WebhookUrlInvalid, parse_url
from ownkey_server.service.notifications.sending import DeliveryFailed
from ownkey_server.service.notifications.webhook import WebhookOptions, WebhookSender, client_context
from support.pki import Authority
from support.receiver import Receiver, receiving, status

NOW = datetime(2026, 11, 28, tzinfo=UTC)
NOTICE = Notice("0" * 32, "acme", NoticeKind.TEST, NOW, position=1)
SECRET = [SecretBytes(b"s" * 32)]
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


class Resolver:
    """Answers what a test says, one answer after the other, and counts the questions."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int, slow: bool) -> Sequence[str]:
        self.asked += 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def channel(url: str) -> Channel:
    return Channel("1" * 32, "acme", ChannelKind.WEBHOOK, "", NOW, NOW, url=url)


def sender(authority: Authority, resolver: Any = None, **options: Any) -> WebhookSender:
    fields = {"connect": 5.0, "attempt": 5.0, "allowed": LOOPBACK, **options}
    found = resolver or Resolver(["127.0.0.1"])
    return WebhookSender(found, client_context(authority.pem), system_clock, WebhookOptions(**fields))


async def failure(made: WebhookSender, url: str) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as caught:
        await made.send(channel(url), SECRET, NOTICE, slow=False)
    return caught.value


@pytest.fixture
async def receiver(authority: Authority) -> AsyncIterator[Receiver]:
    async with receiving(authority) as made:
        yield made


REFUSED = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",
    "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
    "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::ffff:0:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "64:ff9b:1::8.8.8.8",
    "100::1", "2001::1", "2001:db8::1", "2001:10::1", "2002:a00:1::", "2002:7f00:1::1", "3fff::1", "5f00::1",
    "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "4000::1",
    "2001:4860::5efe:10.0.0.1", "2001:4860::200:5efe:10.0.0.1",
]  # fmt: skip
TAKEN = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001::8", "64:ff9b::8.8.8.8"]


@pytest.mark.parametrize("address", REFUSED)
async def test_no_address_that_is_not_public_is_connected_to(address: str, authority: Authority) -> None:
    assert refusal(ipaddress.ip_address(address))
    made = sender(authority, Resolver([address]), allowed=())
    assert "not public" in str(await failure(made, "https://hooks.example.com/"))
    if "%" not in address:
        literal = f"[{address}]" if ":" in address else address
        assert "not public" in str(await failure(made, f"https://{literal}/"))


@pytest.mark.parametrize("address", TAKEN)
def test_public_addresses_are_taken(address: str) -> None:
    assert refusal(ipaddress.ip_address(address)) == ""


def test_what_the_provider_allows_is_taken_and_its_neighbours_are_not() -> None:
    allowed = (ipaddress.ip_network("10.20.0.0/16"), ipaddress.ip_network("fd00:20::/32"))
    for address in ("10.20.3.4", "::ffff:10.20.3.4", "64:ff9b::10.20.3.4", "fd00:20::1"):
        assert refusal(ipaddress.ip_address(address), allowed) == "", address
    for address in ("10.21.0.1", "::ffff:10.21.0.1", "127.0.0.1", "fd00:21::1", "::1"):
        assert refusal(ipaddress.ip_address(address), allowed), address


@given(st.ip_addresses())
def test_what_is_taken_python_too_calls_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if not refusal(address):
        mapped = address.ipv4_mapped if address.version == 6 else None
        assert (mapped or address).is_global


async def test_one_address_of_our_own_among_public_ones_refuses_the_name(authority: Authority) -> None:
    made = sender(authority, Resolver(["8.8.8.8", "10.0.0.1"]), allowed=())
    message = str(await failure(made, "https://hooks.example.com/"))
    assert "not public" in message
    # What our network looks like is not told.
    assert "10.0.0.1" not in message


async def test_a_name_that_changes_its_answer_gains_nothing(authority: Authority, receiver: Receiver) -> None:
    rebinding = Resolver(["127.0.0.1"], ["10.0.0.1"])
    made = sender(authority, rebinding)
    told = await made.send(channel(receiver.url), SECRET, NOTICE, slow=False)
    assert (told, rebinding.asked) == ("HTTP 204", 1)
    # The next attempt asks anew, and is refused.
    assert "not public" in str(await failure(made, receiver.url))
    assert receiver.connections == 1


async def test_the_certificate_is_of_the_name_and_host_says_it(authority: Authority) -> None:
    async with receiving(authority, "hooks.example.com") as receiver:
        url = f"https://hooks.example.com:{receiver.port}/a?b=c"
        await sender(authority).send(channel(url), SECRET, NOTICE, slow=False)
        [came] = receiver.came
        assert came.line == "POST /a?b=c HTTP/1.1"
        assert came.headers["host"] == f"hooks.example.com:{receiver.port}"
        # The certificate of another name is not believed, though the address is the same.
        other = f"https://other.example.com:{receiver.port}/"
        assert "certificate is not believed" in str(await failure(sender(authority), other))
        assert len(receiver.came) == 1


async def test_a_receiver_that_nobody_vouches_for_gets_nothing(authority: Authority, tmp_path: Any) -> None:
    async with receiving(Authority(tmp_path / "stranger")) as receiver:
        assert "certificate is not believed" in str(await failure(sender(authority), receiver.url))
        assert receiver.came == []


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(code: int, authority: Authority, receiver: Receiver) -> None:
    async with receiving(authority) as inside:
        receiver.answer = lambda _: status(code, f"Location: {inside.url}")
        assert "redirects are not followed" in str(await failure(sender(authority), receiver.url))
        assert inside.connections == 0


async def test_no_proxy_of_the_environment_is_asked(
    authority: Authority, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await sender(authority).send(channel(receiver.url), SECRET, NOTICE, slow=False) == "HTTP 204"


async def test_an_endless_answer_is_left(authority: Authority) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = 0
        try:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 65_536
        except ConnectionError:
            floods.append(sent)
        finally:
            writer.close()

    floods: list[int] = []
    async with Raw(flood) as port:
        made = sender(authority, allow_http=True)
        assert await made.send(channel(f"http://localhost:{port}/"), SECRET, NOTICE, slow=False) == "HTTP 200"
    # What the sockets' buffers hold, and no more.
    assert all(one < 16 * 1024 * 1024 for one in floods)


@pytest.mark.parametrize(
    ("first", "then", "told"),
    [
        (b"", b"", "no answer within"),
        (b"HTTP/1.1 200 OK\r\n", b"X-Drip: drip\r\n", "no answer within"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", "interim answers"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", b"", "no HTTP"),
    ],
)
async def test_a_receiver_that_hangs_or_drips_is_left_in_time(
    first: bytes, then: bytes, told: str, authority: Authority
) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(first)
            while await asyncio.sleep(0.02, True):
                writer.write(then)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with Raw(drip) as port:
        began = time.monotonic()
        made = sender(authority, allow_http=True, attempt=0.5)
        assert told in str(await failure(made, f"http://localhost:{port}/"))
        assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("flood", "told"),
    [
        (b"HTTP/1.1 103 X\r\n\r\n" * 4_000, ""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 12_000, "HTTP 200"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes", "HTTP 200"),
        (b"HTTP/1.1 204 X\r\n\r\n", "HTTP 204"),
    ],
)
async def test_an_answer_in_very_many_pieces_costs_no_more_than_one(
    flood: bytes, told: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(flood)
            await writer.drain()
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    events: list[object] = []
    following = h11.Connection.next_event

    def next_event(connection: h11.Connection) -> Any:
        events.append(found := following(connection))
        return found

    monkeypatch.setattr(h11.Connection, "next_event", next_event)
    async with Raw(answer) as port:
        made = sender(authority, allow_http=True)
        if told:
            assert await made.send(channel(f"http://localhost:{port}/"), SECRET, NOTICE, slow=False) == told
        else:
            assert "interim" in str(await failure(made, f"http://localhost:{port}/"))
    assert len(events) < 40


async def test_headers_without_end_are_refused(authority: Authority) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000)
            await writer.drain()
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with Raw(endless) as port:
        made = sender(authority, allow_http=True)
        assert "no HTTP" in str(await failure(made, f"http://localhost:{port}/"))


async def test_a_name_that_hangs_is_left_in_time(authority: Authority) -> None:
    async def never(host: str, port: int, slow: bool) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    made = sender(authority, never, connect=0.2)
    assert "no connection within 0.2 s" in str(await failure(made, "https://hooks.example.com/"))


URLS = {
    "https://127.1/": "four decimal numbers",
    "https://2130706433/": "four decimal numbers",
    "https://0x7f000001/": "four decimal numbers",
    "https://0x7f.0.0.1/": "four decimal numbers",
    "https://0177.0.0.1/": "four decimal numbers",
    "https://127.0.0.01/": "four decimal numbers",
    "https://127.0.0.1./": "four decimal numbers",
    "https://300.0.0.1/": "four decimal numbers",
    "https://example.com@127.0.0.1/": "no user",
    "https://user:pw@example.com/": "no user",
    "https://example.com#@127.0.0.1/": "fragment",
    "https://example.com/#a": "fragment",
    "https://example.com\\@127.0.0.1/": "backslashes",
    "https://example.com/a b": "spaces",
    "https://example.com/\r\nX: y": "spaces",
    "https://ex\u00e4mple.com/": "ASCII",
    "https://\uff11\uff12\uff17.0.0.1/": "ASCII",
    "https://example.com:0/": "port",
    "https://example.com:/": "port",
    "https://example.com:65536/": "must be a URL",
    "https://example.com:x/": "must be a URL",
    "https://[::1/": "must be a URL",
    "https://[fe80::1%25eth0]/": "host",
    "https://exa_mple.com/": "host",
    "https://-a.com/": "host",
    "https:///path": "must be a URL",
    "//example.com/": "must be a URL",
    "file:///etc/passwd": "must be a URL",
    "gopher://example.com/": "must be a URL",
    "http://example.com/": "begin with https",
    "https://example.com/" + "a" * 2048: "at most 2048",
}


@pytest.mark.parametrize("url", URLS)
def test_urls_that_mean_two_things_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(WebhookUrlInvalid, match=URLS[url]) as caught:
        parse_url(url, allow_http=False)
    assert "pw" not in str(caught.value)


def test_urls_are_taken_apart() -> None:
    target = parse_url("https://Hooks.Example.com.:8443/a/b?c=d&e", allow_http=False)
    assert (target.host, target.port, target.path) == ("hooks.example.com", 8443, "/a/b?c=d&e")
    assert target.authority == "hooks.example.com:8443"
    assert parse_url("https://[2606:4700::1111]", allow_http=False).authority == "[2606:4700::1111]"


class Raw:
    """A server of a few lines, without TLS; gives its port."""

    def __init__(self, serve: Any) -> None:
        self._serve = serve

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
