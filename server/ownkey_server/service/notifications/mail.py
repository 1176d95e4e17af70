"""Notices by mail, through the provider's mail server."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

import aiosmtplib

from ownkey_server.domain.notifications import Channel, Notice
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.secret_sources import SecretReference, SecretUnusable
from ownkey_server.service.notifications.sending import DeliveryFailed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SmtpOptions:
    """The provider's mail server.

    Attributes:
        security: ``starttls``, ``tls``, or ``none`` where everything goes in clear.
        sender: The address that mail comes from.
        password: Where the password is; None where there is none.
        attempt: Seconds for everything.
    """

    host: str
    port: int
    security: str
    sender: str
    context: ssl.SSLContext
    username: str | None = None
    password: SecretReference | None = None
    attempt: float = 10.0


class MailSender:
    """Sends mail."""

    def __init__(self, options: SmtpOptions | None) -> None:
        self._options = options

    async def send(
        self,
        channel: Channel,
        secrets: Sequence[SecretBytes],  # noqa: ARG002
        notice: Notice,
        *,
        slow: bool,  # noqa: ARG002
    ) -> str:
        """Send one; arguments and errors as for :class:`~ownkey_server.service.notifications.sending.Sender`."""
        options = self._options
        if options is None:
            raise DeliveryFailed("this service sends no mail: its provider has to set [notifications.smtp]")
        try:
            message = mail(channel, notice, options.sender)
        except (MessageError, ValueError):
            raise DeliveryFailed("one of the channel's recipients is no address of mail") from None
        try:
            username, password = _credentials(options)
            async with asyncio.timeout(options.attempt):
                refused, _ = await aiosmtplib.send(
                    message,
                    sender=options.sender,
                    recipients=list(channel.recipients),
                    hostname=options.host,
                    port=options.port,
                    use_tls=options.security == "tls",
                    start_tls=options.security == "starttls",
                    tls_context=options.context if options.security != "none" else None,
                    timeout=options.attempt,
                    username=username,
                    password=password,
                )
        except TimeoutError:
            raise DeliveryFailed(f"the mail server gave no answer within {options.attempt:g} s") from None
        except SecretUnusable as error:
            _log.error("no mail can be sent: the password in %s", error)
            raise DeliveryFailed("the provider's mail server cannot be used: its password is not there") from None
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = sorted({str(one.code) for one in error.recipients})
            raise DeliveryFailed(f"the mail server refused every recipient (SMTP {', '.join(codes)})") from None
        except aiosmtplib.SMTPResponseException as error:
            raise DeliveryFailed(f"the mail server refused (SMTP {error.code})") from None
        except (aiosmtplib.SMTPException, OSError, ssl.SSLError) as error:
            _log.warning("the mail server %s:%s cannot be used: %s", options.host, options.port, type(error).__name__)
            raise DeliveryFailed(f"the mail server cannot be used ({type(error).__name__})") from None
        if refused:
            # Those who have it would get it again and again for the sake of the others.
            return f"taken, but for {len(refused)} of {len(channel.recipients)} recipients"
        return "taken by the mail server"


def is_address(text: str) -> bool:
    """Whether mail can be sent to it."""
    try:
        return Address(addr_spec=text).addr_spec == text
    except (MessageError, ValueError):
        return False


def mail(channel: Channel, notice: Notice, sender: str) -> EmailMessage:
    """A notice as mail. No text of its can end a header: the policy refuses what would."""
    message = EmailMessage(policy=SMTP)
    message["From"] = Address("ownkey", addr_spec=sender)
    message["To"] = [Address(addr_spec=one) for one in channel.recipients]
    about = notice.key or (f"tenants/{notice.tenant}" if notice.tenant else "the service")
    message["Subject"] = _line(f"[ownkey] {notice.kind.value}: {about}")
    message["Date"] = format_datetime(notice.time)
    # One notice, one message: mail programs fold what comes twice.
    message["Message-ID"] = f"<{notice.id}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Ownkey-Notification-Id"] = notice.id
    lines = [f"{notice.kind.value} at {notice.time.isoformat(timespec='seconds')}"]
    for name, value in (
        ("tenant", notice.tenant),
        ("key", notice.key),
        ("replica", notice.replica),
        ("cause", notice.cause),
        *((name, str(value)) for name, value in sorted(notice.data.items())),
        ("id", notice.id),
        ("position", str(notice.position)),
    ):
        if value:
            lines.append(f"{name}: {_line(value)}")
    message.set_content("\n".join(lines) + "\n")
    message.add_attachment(
        notice.payload(), maintype="application", subtype="json", filename=f"ownkey-{notice.id}.json"
    )
    return message


def _line(text: str) -> str:
    return " ".join(text.split())


def _credentials(options: SmtpOptions) -> tuple[str | None, str | None]:
    if options.username is None or options.password is None:
        return None, None
    secret = options.password.read()
    try:
        return options.username, secret.reveal().decode()
    finally:
        secret.wipe()
