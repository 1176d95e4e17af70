"""Channels of notifications whose every secret is known, and receivers that take what comes, or do not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.server
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from attacks.secrets.heaps import Scene, secret_text
from ownkey.v1 import notification_pb2
from support.admin import Admin
from support.pki import Authority

SETTINGS = """
[notifications]
allow_http = true
allow_addresses = ["127.0.0.0/8"]
apprise_schemes = ["json", "slack"]
apprise_hosts = ["127.0.0.1"]

[notifications.smtp]
host = "localhost"
port = {port}
sender = "ownkey@provider.example"
username = "ownkey"
password = "file:smtp-password"
ca_file = "{ca}"
"""
FILES = {"smtp-password", "apprise-url", "refused-url"}
"""Which files hold secrets of channels in clear."""


class _Taking(http.server.BaseHTTPRequestHandler):
    """Takes what comes, but for the path /no."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.came.append(self.path)  # type: ignore[attr-defined]
        self.send_response(500 if self.path == "/no" else 200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@dataclass
class Receivers:
    """What takes webhooks and Apprise's calls, and a mail server.

    Attributes:
        came: The paths of what came by HTTP.
        logins: Whether each login at the mail server was with the right password.
        open: Whether the mail server lets anybody in.
    """

    port: int
    came: list[str]
    password: bytes
    mail_port: int = 0
    logins: list[bool] = field(default_factory=list)
    open: bool = False

    def login(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, given: LoginPassword) -> AuthResult:
        """Judge a login."""
        self.logins.append(given.password == self.password)
        return AuthResult(success=self.open and self.logins[-1], handled=False)

    async def handle_DATA(self, _server: Any, _session: Any, _envelope: Any) -> str:
        """Take mail."""
        return "250 OK"


@contextlib.contextmanager
def receiving(scene: Scene) -> Iterator[Receivers]:
    """The receivers, with the passwords in files of the scene's folder, until the block ends."""
    scene.keep_secret("the mail server's password", "smtp-password", secret_text())
    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Taking)
    service.came = []  # type: ignore[attr-defined]
    made = Receivers(
        service.server_port,
        service.came,  # type: ignore[attr-defined]
        scene.secrets["the mail server's password"],
    )
    issued = Authority(scene.folder / "mail").issue("mail", hosts=["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.pem, issued.key)
    loop = asyncio.new_event_loop()

    def protocol() -> SMTP:
        return SMTP(
            made, tls_context=context, require_starttls=True, authenticator=made.login, loop=loop, hostname="localhost"
        )

    threads = [threading.Thread(target=one, daemon=True) for one in (service.serve_forever, loop.run_forever)]
    for thread in threads:
        thread.start()
    mail = asyncio.run_coroutine_threadsafe(loop.create_server(protocol, "127.0.0.1", 0), loop).result(20)
    made.mail_port = mail.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        service.shutdown()
        loop.call_soon_threadsafe(mail.close)
        loop.call_soon_threadsafe(loop.stop)
        for thread in threads:
            thread.join()
        service.server_close()
        loop.close()


def settings(receivers: Receivers) -> str:
    """The tables of the settings that have the server send there."""
    return SETTINGS.format(port=receivers.mail_port, ca=Path("mail") / "ca.pem")


async def tell(scene: Scene, admin: Admin, address: str, receivers: Receivers) -> None:
    """Make channels of every kind, rotate a secret, and send through each, with and without success."""
    at = {"OWNKEY_ADDRESS": address}
    for path in ("yes", "no"):
        url = f"http://127.0.0.1:{receivers.port}/{path}"
        made = await admin("CreateNotificationChannel", tenant="acme", webhook=notification_pb2.WebhookChannel(url=url))
        rotated = await admin(
            "UpdateNotificationChannel", tenant="acme", channel=made.channel.id, etag="*", rotate_secret=True
        )
        for name, text in (("secret", made.secret), ("second secret", rotated.secret)):
            scene.secrets[f"the {name} of webhook {path}"] = base64.b64decode(text.removeprefix("whsec_"))
        scene.cli("-v", "notify", "test", made.channel.id, expect=0 if path == "yes" else None, **at)
        scene.cli("--json", "notify", "channel", "get", made.channel.id, **at)
        # By another address, refused: the errors are looked at.
        scene.cli(
            "-v", "notify", "channel", "update", made.channel.id, "--webhook", "http://10.0.0.1/", expect=None, **at
        )
    mail = await admin(
        "CreateNotificationChannel",
        tenant="acme",
        email=notification_pb2.EmailChannel(recipients=["ops@acme.example"]),
    )
    scene.cli("-v", "notify", "test", mail.channel.id, expect=None, **at)
    receivers.open = True
    scene.cli("-v", "notify", "test", mail.channel.id, **at)
    assert receivers.logins[0]
    assert receivers.logins[-1]
    password, token = secret_text(), secret_text()
    url = f"json://ownkey:{password}@127.0.0.1:{receivers.port}/{token}"
    scene.keep_secret("the Apprise URL", "apprise-url", url)
    scene.secrets |= {"the password in the Apprise URL": password.encode(), "the token in it": token.encode()}
    scene.cli("-v", "notify", "channel", "create", "--apprise-file", "apprise-url", **at)
    channels = await admin("ListNotificationChannels", tenant="acme")
    (apprise,) = [one for one in channels.channels if one.WhichOneof("target") == "apprise"]
    scene.cli("-v", "notify", "test", apprise.id, **at)
    assert f"/{token}" in receivers.came
    scene.keep_secret("a token that Apprise refuses", "refused-url", secret_text())
    refused = scene.folder / "refused-url"
    for text in ("slack://{}", "json://127.0.0.2/{}", "{}://x", "json://{}:{}:{}", "slack://{}?verify=no"):
        refused.write_text(text.replace("{}", scene.secrets["a token that Apprise refuses"].decode()), encoding="utf-8")
        scene.cli("-v", "notify", "channel", "create", "--apprise-file", "refused-url", expect=None, **at)
    scene.cli("notify", "channel", "list", **at)
    scene.cli("--json", "notify", "list", **at)
