"""Keys of an issuer over HTTP: fetched anew for a key that is new, kept in an outage, and not for ever."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from ownkey.v1 import role_pb2
from ownkey_server.rpc import jwks
from support.access import Caller, Lab
from support.rpc import Failure

GRANT = role_pb2.RoleGrant(role=role_pb2.ROLE_AUDITOR, tenant="acme")
PATIENCE = 30.0


class Publisher(ThreadingHTTPServer):
    """Publishes whatever it is given, counts who asks, and can fall silent."""

    def __init__(self) -> None:
        self.document, self.status, self.asked = "", 200, 0
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        """Where it publishes."""
        return f"http://127.0.0.1:{self.server_port}/keys"


class _Handler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
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


def test_a_redirect_or_garbage_is_no_key_set(tmp_path: Path) -> None:
    with published(tmp_path) as (lab, publisher):
        publisher.status = 302
        ann = lab.by_token(lab.tokens.token("ann"))
        assert ask(ann) == "ISSUER_UNREACHABLE"
        assert "cannot be fetched" in lab.log
        publisher.status, publisher.document = 200, '{"keys": "none"}' + " " * jwks.MAX_BYTES
        until(ann, "ISSUER_UNREACHABLE")
