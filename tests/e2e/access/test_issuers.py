"""Keys of an issuer over HTTP: fetched anew for a key that is new, kept in an outage, and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ownkey.v1 import role_pb2
from ownkey_server.domain.errors import IssuerUnreachable
from ownkey_server.rpc import jwks
from ownkey_server.settings.access import IssuerSettings
from support.access import Caller, Lab
from support.rpc import Failure

GRANT = role_pb2.RoleGrant(role=role_pb2.ROLE_AUDITOR, tenant="acme")
PATIENCE = 30.0


class Publisher(ThreadingHTTPServer):
    """Publishes whatever it is given, counts who asks, and can fall silent."""

    def __init__(self) -> None:
        self.document, self.status, self.asked, self.location = "", 200, 0, ""
        self.paths: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        """Where it publishes."""
        return f"http://127.0.0.1:{self.server_port}/keys"


class _Handler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        self.server.asked += 1
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.end_headers()
        self.wfile.write(self.server.document.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextlib.contextmanager
def published(folder: Path, **seconds: float) -> Iterator[tuple[Lab, Publisher]]:
    """A server whose issuer publishes its keys."""
    with Publisher() as publisher:
        threading.Thread(target=publisher.serve_forever, daemon=True).start()
        settings = "".join(f"{name}_seconds = {value}\n" for name, value in seconds.items())
        lab = Lab(folder, jwks=f'jwks_url = "{publisher.url}"\n{settings}')
        publisher.document = lab.tokens.document()
        try:
            with lab.running():
                lab.grant("corp/ann", GRANT)
                yield lab, publisher
        finally:
            publisher.shutdown()


def ask(caller: Caller) -> str:
    """The reason for which a caller is not let in; empty when it is."""
    answer = caller("GetTenant", tenant="acme")
    return answer.reason if isinstance(answer, Failure) else ""


def until(caller: Caller, reason: str) -> None:
    """Ask until that is the answer."""
    deadline = time.monotonic() + PATIENCE
    while (found := ask(caller)) != reason:
        assert time.monotonic() < deadline, f"still {found!r}"
        time.sleep(0.1)


def test_keys_are_fetched_kept_in_an_outage_and_fetched_for_a_new_key(tmp_path: Path) -> None:
    with published(tmp_path, refresh=1) as (lab, publisher):
        first = lab.by_token(lab.tokens.token("ann"))
        assert ask(first) == ""
        publisher.status, before = 503, publisher.asked
        deadline = time.monotonic() + PATIENCE
        while publisher.asked == before:  # until the refresh is due, and fails
            assert ask(first) == ""
            assert time.monotonic() < deadline, "the keys were not fetched anew"
            time.sleep(0.1)
        assert ask(first) == "", "what is known serves on"
        lab.tokens.keys["second"] = ec.generate_private_key(ec.SECP256R1())
        second = lab.by_token(lab.tokens.token("ann", kid="second"))
        assert ask(second) == "UNAUTHENTICATED"
        publisher.status, publisher.document = 200, lab.tokens.document()
        until(second, "")
        del lab.tokens.keys["first"]
        publisher.document = lab.tokens.document()
        until(first, "UNAUTHENTICATED")
        assert ask(second) == ""


def test_however_many_keys_tokens_name_the_issuer_is_asked_seldom(tmp_path: Path) -> None:
    with published(tmp_path) as (lab, publisher):
        assert ask(lab.by_token(lab.tokens.token("ann"))) == ""
        before, began = publisher.asked, time.monotonic()
        stranger = ec.generate_private_key(ec.SECP256R1())
        for number in range(200):
            assert ask(lab.by_token(_named(lab, stranger, f"key-{number}"))) == "UNAUTHENTICATED"
        elapsed = time.monotonic() - began
        assert publisher.asked - before <= 1 + elapsed / jwks.BETWEEN_FETCHES_SECONDS


def _named(lab: Lab, key: ec.EllipticCurvePrivateKey, kid: str) -> str:
    lab.tokens.keys[kid] = key
    token = lab.tokens.token("ann", kid=kid)
    del lab.tokens.keys[kid]
    return token


def test_an_issuer_that_is_away_for_too_long_or_from_the_start_lets_nobody_in(tmp_path: Path) -> None:
    with published(tmp_path, refresh=1, outage=3) as (lab, publisher):
        ann = lab.by_token(lab.tokens.token("ann"))
        assert ask(ann) == ""
        publisher.status = 500
        until(ann, "ISSUER_UNREACHABLE")
        assert ann("AuthorizeCall", tenant="acme", call_id="1", callee="112").emergency
        publisher.status = 200
        until(ann, "")


def test_an_issuer_that_withdraws_all_of_its_keys_has_none(tmp_path: Path) -> None:
    with published(tmp_path, refresh=1) as (lab, publisher):
        ann = lab.by_token(lab.tokens.token("ann"))
        assert ask(ann) == ""
        publisher.document = '{"keys": []}'
        until(ann, "UNAUTHENTICATED")
        assert ann("AuthorizeCall", tenant="acme", call_id="1", callee="112").emergency
        publisher.document = lab.tokens.document()
        until(ann, "")


class Raw:
    """Answers each connection with whatever a test does to it; counts them."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self.answer, self.asked = answer, 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/keys"
        self._over = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.asked += 1
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            self.answer(connection)

    def drip(self, connection: socket.socket, head: bytes) -> None:
        """A byte now and then, for ever."""
        connection.sendall(head)
        while not self._over.wait(0.2):
            connection.sendall(b" ")


BROKEN = {
    "no HTTP": b"-ERR not http\r\n\r\n",
    "nothing": b"",
    "half a chunk": b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n{"keys":',
    "a chunk of no length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a long line": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "half of it": b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"keys":',
    "no text": b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe",
    "a number beyond numbers": b"HTTP/1.1 200 OK\r\n\r\n" + b"1" * 10_000,
    "depth": b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
}


@pytest.mark.parametrize("name", BROKEN)
async def test_whatever_an_issuer_answers_it_is_unreachable_at_worst(name: str) -> None:
    with Raw(lambda connection: connection.sendall(BROKEN[name])) as issuer:
        settings = IssuerSettings(issuer="https://idp.example.org", audience="ownkey", jwks_url=issuer.url)
        keys = jwks.KeySet("corp", settings)
        with pytest.raises(IssuerUnreachable):
            await keys.key("first")
        assert issuer.asked == 1


def test_an_emergency_call_connects_whatever_the_issuer_answers(tmp_path: Path) -> None:
    with Raw(lambda connection: connection.sendall(BROKEN["no HTTP"])) as issuer:
        lab = Lab(tmp_path, jwks=f'jwks_url = "{issuer.url}"')
        with lab.running():
            for callee in ("911", "112", "tel:999"):
                caller = lab.by_token(lab.tokens.token("sbc"))
                assert caller("AuthorizeCall", tenant="acme", call_id="1", callee=callee).emergency
            assert ask(caller) == "ISSUER_UNREACHABLE"
            assert issuer.asked == 1
            assert "cannot be fetched" in lab.log


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n"])
async def test_an_issuer_that_drips_is_waited_for_once_and_briefly(
    head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 1.0)
    monkeypatch.setattr(jwks, "WAIT_SECONDS", 0.3)
    threads = threading.active_count()
    with Raw(lambda connection: issuer.drip(connection, head)) as issuer:
        settings = IssuerSettings(issuer="https://idp.example.org", audience="ownkey", jwks_url=issuer.url)
        now = 1000.0
        keys = jwks.KeySet("corp", settings, lambda: now)
        fetches = []
        for _ in range(2):
            with pytest.raises(IssuerUnreachable):
                await keys.key("first")
            fetching = keys._fetching
            assert fetching is not None
            assert not fetching.done(), "the call waits less long than the fetch"
            await fetching
            fetches.append(fetching)
            now += jwks.BETWEEN_FETCHES_SECONDS
        assert fetches[0] is not fetches[1]
        assert issuer.asked == 2, "the next fetch begins anew"
        assert threading.active_count() <= threads + 6
        # The threads are free again: they do not hang on what still drips.
        async with asyncio.timeout(10):
            await asyncio.gather(*(asyncio.to_thread(lambda: None) for _ in range(32)))
            while any(thread.name.startswith("asyncio") and not idle(thread) for thread in threading.enumerate()):
                await asyncio.sleep(0.02)


def idle(thread: threading.Thread) -> bool:
    """Whether a thread is not in a fetch."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "_get":
            return False
        frame = frame.f_back
    return True
