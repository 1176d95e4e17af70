"""Mail through a real mail server: over TLS, to those whom the channel names, and with no header that a text made."""

from __future__ import annotations

import asyncio
import email
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword

from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.domain.notifications import Channel, ChannelKind, Notice, NoticeKind
from ownkey_server.secret_sources import SecretReference
from ownkey_server.service.administration.notifications import Destination, Edit
from ownkey_server.service.notifications.mail import MailSender, SmtpOptions, is_address, mail
from ownkey_server.service.notifications.sending import DeliveryFailed
from ownkey_server.service.notifications.webhook import client_context
from support.office import Office
from support.pki import Authority

from .conftest import Post

NOW = datetime(2026, 11, 28, tzinfo=UTC)
KEY = "tenants/acme/keys/main"
NOTICE = Notice("0" * 32, "acme", NoticeKind.KEY_REVOKED, NOW, KEY, "frankfurt", "disabled", {"state": "revoked"}, 3)


def channel(*recipients: str) -> Channel:
    return Channel("1" * 32, "acme", ChannelKind.EMAIL, "", NOW, NOW, recipients=recipients or ("ops@acme.example",))


@dataclass
class MailServer:
    """Takes mail, and refuses recipients who begin with `no`."""

    port: int = 0
    taken: list[Envelope] = field(default_factory=list)
    refuse_all: bool = False
    logins: list[bytes] = field(default_factory=list)

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Envelope, address: str, _options: Any) -> str:
        if address.startswith("no"):
            return "550 there is no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:
        if self.refuse_all:
            return "451 come again\r\nSecret-Thing: x"
        self.taken.append(envelope)
        return "250 OK"

    def login(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, given: LoginPassword) -> AuthResult:
        self.logins.append(given.password)
        return AuthResult(success=given.password == b"mail-password")


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[MailServer]:
    made = MailServer()
    issued = authority.issue("mail", hosts=["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.pem, issued.key)
    loop = asyncio.get_running_loop()

    def protocol() -> SMTP:
        return SMTP(
            made, tls_context=context, require_starttls=True, authenticator=made.login, loop=loop, hostname="localhost"
        )

    listening = await loop.create_server(protocol, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()


def sender(server: MailServer, authority: Authority, **options: Any) -> MailSender:
    fields = {"security": "starttls", "context": client_context(authority.pem), **options}
    return MailSender(SmtpOptions("localhost", server.port, sender="ownkey@provider.example", **fields))


async def test_mail_comes_over_tls_with_all_that_is_told(
    server: MailServer, authority: Authority, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("mail-password\n")
    password.chmod(0o600)
    login = {"username": "ownkey", "password": SecretReference.file(password)}
    receiver = channel("ops@acme.example", "security@acme.example")
    told = await sender(server, authority, **login).send(receiver, [], NOTICE, slow=False)
    assert told == "taken by the mail server"
    [taken] = server.taken
    assert server.logins == [b"mail-password"]
    assert taken.rcpt_tos == ["ops@acme.example", "security@acme.example"]
    assert isinstance(taken.content, bytes)
    message = email.message_from_bytes(taken.content, policy=policy.default)
    assert message["Subject"] == f"[ownkey] key_revoked: {KEY}"
    assert message["Message-ID"] == f"<{NOTICE.id}@provider.example>"
    assert message["X-Ownkey-Notification-Id"] == NOTICE.id
    text = message.get_body(("plain",))
    assert text is not None
    assert "cause: disabled" in text.get_content()
    [attached] = message.iter_attachments()
    assert json.loads(attached.get_content()) == json.loads(NOTICE.payload())


async def test_no_mail_goes_where_the_certificate_is_a_stranger_s(server: MailServer, tmp_path: Path) -> None:
    with pytest.raises(DeliveryFailed, match="cannot be used"):
        await sender(server, Authority(tmp_path / "other")).send(channel(), [], NOTICE, slow=False)
    assert server.taken == []


async def test_a_server_without_tls_gets_nothing(server: MailServer, authority: Authority) -> None:
    loop = asyncio.get_running_loop()
    plain = await loop.create_server(lambda: SMTP(server, loop=loop, hostname="localhost"), "127.0.0.1", 0)
    server.port = plain.sockets[0].getsockname()[1]
    with pytest.raises(DeliveryFailed):
        await sender(server, authority).send(channel(), [], NOTICE, slow=False)
    assert server.taken == []
    plain.close()


async def test_what_the_server_refuses_is_told_without_its_words(server: MailServer, authority: Authority) -> None:
    made = sender(server, authority)
    with pytest.raises(DeliveryFailed, match=r"^the mail server refused every recipient \(SMTP 550\)$"):
        await made.send(channel("nobody@acme.example"), [], NOTICE, slow=False)
    told = await made.send(channel("nobody@acme.example", "ops@acme.example"), [], NOTICE, slow=False)
    assert told == "taken, but for 1 of 2 recipients"
    server.refuse_all = True
    with pytest.raises(DeliveryFailed, match=r"^the mail server refused \(SMTP 451\)$"):
        await made.send(channel(), [], NOTICE, slow=False)


@pytest.mark.parametrize("address", ["a..b@x.example", ".a@x.example", "a.@x.example", "a@b..c"])
async def test_what_is_nearly_an_address_is_refused_and_is_no_defect_of_ours(
    address: str, server: MailServer, authority: Authority
) -> None:
    assert not is_address(address)
    with pytest.raises(DeliveryFailed, match="no address of mail"):
        await sender(server, authority).send(channel("ops@acme.example", address), [], NOTICE, slow=False)
    assert server.taken == []


@pytest.mark.parametrize("address", ["ops@acme.example", "a.b+c%d_e-f@x-y.example", "-@b"])
def test_addresses_are_taken(address: str) -> None:
    assert is_address(address)


async def test_a_server_that_hangs_is_left_in_time(authority: Authority) -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    ended = asyncio.Event()
    hanging = await asyncio.start_server(silent, "127.0.0.1", 0)
    made = sender(MailServer(port=hanging.sockets[0].getsockname()[1]), authority, attempt=0.3)
    with pytest.raises(DeliveryFailed):
        await made.send(channel(), [], NOTICE, slow=False)
    ended.set()
    hanging.close()


INJECTIONS = ["x\r\nBcc: spy@evil.example", "x\nBcc: spy@evil.example", "x\r\n\r\nbody", "x\r\n.\r\nMAIL FROM:<a@b.c>"]


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_text_makes_a_header(text: str) -> None:
    notice = Notice("0" * 32, text, NoticeKind.TEST, NOW, text, text, text, {text: text, "state": text})
    raw = mail(channel(), notice, "ownkey@provider.example").as_bytes()
    message = email.message_from_bytes(raw, policy=policy.default)
    assert message["Bcc"] is None
    assert set(message.keys()) == {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Ownkey-Notification-Id", "MIME-Version",
        "Content-Type",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"."):
        mail(channel(f"ops@acme.example{text[1:]}"), notice, "ownkey@provider.example")


async def test_a_provider_without_a_mail_server_says_so() -> None:
    with pytest.raises(DeliveryFailed, match=r"\[notifications\.smtp\]"):
        await MailSender(None).send(channel(), [], NOTICE, slow=False)


async def test_no_channel_is_made_to_what_is_no_address(post: Post) -> None:
    to = Destination(ChannelKind.EMAIL, recipients=("ops@acme.example", "a..b@x.example"))
    office = post.notifications(post.courier(), mail=True)
    with pytest.raises(InvalidRequest, match=r"email\.recipients\[1\]"):
        await office.create(Office.act, "acme", "", to, frozenset(), enabled=True)


def test_no_repr_tells_a_url_which_may_be_all_that_keeps_others_out() -> None:
    url = "https://hooks.example.com/services/T0/sPeakFriend"
    made = Channel("1" * 32, "acme", ChannelKind.WEBHOOK, "", NOW, NOW, url=url)
    assert "sPeakFriend" not in repr(made) + repr(Edit(destination=Destination(ChannelKind.WEBHOOK, url=url)))
