"""How tenants are told of things, as the settings say."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from ownkey import __version__
from ownkey_server.composition.core import Core
from ownkey_server.domain.notifications import ChannelKind, RetrySchedule
from ownkey_server.domain.tenants import Replica
from ownkey_server.keystores.base import KeyDescription
from ownkey_server.service.administration.notifications import ChannelRules, Notifications
from ownkey_server.service.notifications import expiry
from ownkey_server.service.notifications.apprise_sender import AppriseSender
from ownkey_server.service.notifications.courier import Courier, CourierOptions
from ownkey_server.service.notifications.expiry import ExpiryWatch
from ownkey_server.service.notifications.mail import MailSender, SmtpOptions
from ownkey_server.service.notifications.resolving import SystemResolver
from ownkey_server.service.notifications.sealing import Sealer
from ownkey_server.service.notifications.sending import Sender
from ownkey_server.service.notifications.webhook import WebhookOptions, WebhookSender, client_context
from ownkey_server.settings.notifications import NotificationSettings
from ownkey_server.storage import probe_leases
from ownkey_server.storage.database import Database


@dataclass(frozen=True, slots=True)
class Notifying:
    """What delivers, and what administers that."""

    courier: Courier
    office: Notifications


@contextlib.contextmanager
def notifying(core: Core) -> Iterator[Notifying]:
    """The parts, until the block ends. They have threads and connections of their own: nobody else waits for them."""
    settings = core.settings.notifications
    with contextlib.ExitStack() as stack:
        database = Database(core.settings.storage.url, password=core.settings.storage.password, connections=2)
        stack.callback(database.close)
        executor = ThreadPoolExecutor(2, "notifications")
        stack.callback(executor.shutdown, wait=False, cancel_futures=True)
        resolver = SystemResolver()
        stack.callback(resolver.close)
        apprise = AppriseSender(settings.apprise_schemes, settings.apprise_hosts, settings.attempt_seconds)
        stack.callback(apprise.close)
        webhooks = WebhookSender(
            resolver,
            client_context(settings.ca_file),
            core.clock,
            WebhookOptions(
                connect=min(settings.connect_seconds, settings.attempt_seconds),
                attempt=settings.attempt_seconds,
                allowed=settings.allowed,
                allow_http=settings.allow_http,
                agent=f"ownkey/{__version__}",
            ),
        )
        senders: dict[ChannelKind, Sender] = {
            ChannelKind.WEBHOOK: webhooks,
            ChannelKind.EMAIL: MailSender(_smtp(settings)),
            ChannelKind.APPRISE: apprise,
        }
        sealer = Sealer(core.ring, core.directory, core.audit, core.clock)
        options = CourierOptions(
            schedule=RetrySchedule(
                first=timedelta(seconds=settings.retry_seconds),
                longest=timedelta(seconds=settings.max_retry_seconds),
                max_age=timedelta(hours=settings.max_age_hours),
            ),
            lease=timedelta(seconds=settings.lease_seconds),
            retention=timedelta(days=settings.retention_days),
            at_once=settings.concurrency,
        )
        courier = Courier(database, executor, senders, sealer, core.clock, options, uuid.uuid4().hex)
        yield Notifying(courier, Notifications(core.desk, sealer, courier, _rules(settings)))


def expiry_watch(core: Core) -> ExpiryWatch | None:
    """What looks after key material that ends; None where no key store has any."""
    stores = [name for name, kind in core.kinds.items() if kind == "aws_kms"]
    if not stores:
        return None
    holder = uuid.uuid4().hex

    async def places(after: str, limit: int) -> Sequence[tuple[str, Replica]]:
        return await core.desk.read(lambda reader: reader.places_in(stores, after, limit))

    async def claim(keys: Sequence[str]) -> Collection[str]:
        def work() -> Collection[str]:
            with core.database.writing() as connection:
                names = [f"expiry:{key}" for key in sorted(set(keys))]
                return probe_leases.claim(connection, holder, names, expiry.INTERVAL_SECONDS / 2)

        return [name.removeprefix("expiry:") for name in await core.desk.on_thread(work)]

    async def describe(tenant: str, place: Replica) -> KeyDescription:
        return await core.ring.describe(tenant, place, background=True)

    return ExpiryWatch(places, claim, describe, core.desk.tell, core.clock)


def _rules(settings: NotificationSettings) -> ChannelRules:
    return ChannelRules(
        most=settings.channels_per_tenant,
        overlap=timedelta(hours=settings.rotation_hours),
        allow_http=settings.allow_http,
        allowed=settings.allowed,
        mail=settings.smtp is not None,
        schemes=frozenset(settings.apprise_schemes),
        hosts=frozenset(settings.apprise_hosts),
    )


def _smtp(settings: NotificationSettings) -> SmtpOptions | None:
    smtp = settings.smtp
    if smtp is None:
        return None
    return SmtpOptions(
        host=smtp.host,
        port=smtp.port,
        security=smtp.security,
        sender=smtp.sender,
        context=client_context(smtp.ca_file),
        username=smtp.username,
        password=smtp.password,
        attempt=settings.attempt_seconds,
    )
