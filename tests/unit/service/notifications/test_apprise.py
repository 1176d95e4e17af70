"""Apprise is used for what the provider names alone, and its absence is told."""

from __future__ import annotations

import asyncio
import http.server
import sys
import threading
from datetime import UTC, datetime

import pytest

from ownkey_server.domain.notifications import Channel, ChannelKind, Notice, NoticeKind
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.service.notifications.apprise_sender import AppriseRefused, AppriseSender, checked
from ownkey_server.service.notifications.sending import DeliveryFailed

# Some of its plug-ins use what Python is about to remove.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NOW = datetime(2026, 11, 28, tzinfo=UTC)
NOTICE = Notice("0" * 32, "acme", NoticeKind.KEY_REVOKED, NOW, position=1)
CHANNEL = Channel("1" * 32, "acme", ChannelKind.APPRISE, "", NOW, NOW, scheme="json")
TOKENS = "T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"


@pytest.mark.parametrize(
    ("url", "schemes", "hosts", "why"),
    [
        (f"slack://{TOKENS}", (), (), "none is"),
        (f"slack://{TOKENS}", ("discord",), (), "allowed are: discord"),
        (f"slack://{TOKENS}?verify=no", ("slack",), (), "arguments"),
        ("slack://", ("slack",), (), "no URL that Apprise understands"),
        ("json://127.0.0.1/hook", ("json",), (), "names a host"),
        ("json://127.0.0.1/hook", ("json",), ("example.com",), "names a host"),
        ("jsons://user:pw@169.254.169.254/", ("jsons",), ("example.com",), "names a host"),
        ("mailto://user:pw@example.com", ("slack",), (), "allowed are"),
        ("file:///etc/passwd", ("slack",), (), "allowed are"),
    ],
)
def test_what_the_provider_does_not_name_is_refused_and_not_repeated(
    url: str, schemes: tuple[str, ...], hosts: tuple[str, ...], why: str
) -> None:
    with pytest.raises(AppriseRefused, match=why) as caught:
        checked(url, schemes, hosts)
    for secret in (TOKENS[:9], "pw@", "169.254"):
        assert secret not in str(caught.value)


def test_a_service_with_a_host_of_its_own_is_taken() -> None:
    assert checked(f"slack://{TOKENS}", ("slack",), ()) is not None


def test_without_apprise_one_reads_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(AppriseRefused, match=r"ownkey\[apprise\]"):
        checked(f"slack://{TOKENS}", ("slack",), ())


async def test_a_real_service_is_told_and_a_failure_is_one() -> None:
    came: list[bytes] = []
    answers = [200, 500]

    class Service(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    service = http.server.HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=service.serve_forever, daemon=True)
    thread.start()
    sender = AppriseSender(("json",), ("127.0.0.1",), 5.0)
    url = [SecretBytes(f"json://127.0.0.1:{service.server_port}/hook".encode())]
    try:
        assert await sender.send(CHANNEL, url, NOTICE, slow=False) == "taken by Apprise's service"
        assert NOTICE.id.encode() in came[0]
        with pytest.raises(DeliveryFailed, match="did not take it"):
            await sender.send(CHANNEL, url, NOTICE, slow=False)
    finally:
        await asyncio.to_thread(service.shutdown)
        service.server_close()
        sender.close()
