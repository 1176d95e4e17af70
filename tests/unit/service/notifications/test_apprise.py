"""Apprise is used for what the provider names alone, and its absence is told."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import logging
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from ownkey_server.domain.notifications import Channel, ChannelKind, Notice, NoticeKind
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.service.notifications.apprise_sender import AppriseRefused, AppriseSender, checked
from ownkey_server.service.notifications.sending import DeliveryFailed
from ownkey_server.settings.notifications import NotificationSettings

# Some of its plug-ins use what Python is about to remove.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NOW = datetime(2026, 11, 28, tzinfo=UTC)
NOTICE = Notice("0" * 32, "acme", NoticeKind.KEY_REVOKED, NOW, position=1)
CHANNEL = Channel("1" * 32, "acme", ChannelKind.APPRISE, "", NOW, NOW, scheme="json")
SECRET = "sPeakFriendAndEnter"
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


@pytest.mark.parametrize(
    "url",
    [
        "acs://ops@acme.example/c2VjcmV0/internal.provider.example",
        "bluesky://someone@app-password",
        "nostr://" + "1" * 64,
        "vapid://ops@acme.example",
        "fcm://project/device",
        "syslog://",
        "dbus://",
        "gnome://",
        "macosx://",
        "windows://",
    ],
)
def test_a_service_that_a_tenant_could_lead_elsewhere_or_to_this_machine_is_refused_even_where_it_is_named(
    url: str,
) -> None:
    scheme = url.partition("://")[0]
    with pytest.raises(AppriseRefused, match="leads"):
        checked(url, (scheme,), ())
    with pytest.raises(ValueError, match=f"apprise_schemes: {scheme} "):
        NotificationSettings.model_validate({"apprise_schemes": [scheme]})


class _Answering(http.server.BaseHTTPRequestHandler):
    """Notes each path that it is asked for, and redirects those that begin with /to/."""

    def do_POST(self) -> None:
        self.came()
        self.rfile.read(int(self.headers["content-length"]))

    def do_GET(self) -> None:
        self.came()

    def came(self) -> None:
        paths: list[str] = self.server.paths  # type: ignore[attr-defined]
        paths.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", "/reached")
        else:
            self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[http.server.HTTPServer]:
    made = http.server.HTTPServer(("127.0.0.1", 0), _Answering)
    made.paths = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


async def test_no_redirect_is_followed(service: http.server.HTTPServer) -> None:
    sender = AppriseSender(("json",), ("127.0.0.1",), 5.0)
    url = [SecretBytes(f"json://127.0.0.1:{service.server_port}/to/".encode())]
    with pytest.raises(DeliveryFailed, match="did not take it"):
        await sender.send(CHANNEL, url, NOTICE, slow=False)
    assert service.paths == ["/to/"]  # type: ignore[attr-defined]
    sender.close()


async def test_no_token_of_a_url_is_in_any_log(
    service: http.server.HTTPServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sender = AppriseSender(("json", "slack"), ("127.0.0.1",), 5.0)
    for text in (
        f"json://someone:{SECRET}@127.0.0.1:{service.server_port}/{SECRET}",
        f"json://someone:{SECRET}@127.0.0.1:1/{SECRET}",
    ):
        with contextlib.suppress(DeliveryFailed):
            await sender.send(CHANNEL, [SecretBytes(text.encode())], NOTICE, slow=False)
    for text in (f"slack://{SECRET}", f"json://:{SECRET}", f"slack://{SECRET}/{SECRET}/{SECRET}"):
        with contextlib.suppress(AppriseRefused):
            checked(text, ("json", "slack"), ("127.0.0.1",))
    assert service.paths == [f"/{SECRET}"]  # type: ignore[attr-defined]
    assert SECRET not in caplog.text
    sender.close()


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
