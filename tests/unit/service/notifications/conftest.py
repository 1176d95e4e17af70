from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.notifications import ChannelKind, Delivery, Notice, NoticeKind, RetrySchedule
from ownkey_server.domain.tenants import PROVIDER_KEY_NAME, KeyLifecycle, Replica
from ownkey_server.service.administration.notifications import ChannelRules, Destination, Notifications
from ownkey_server.service.notifications.courier import Courier, CourierOptions
from ownkey_server.service.notifications.sealing import Sealer
from ownkey_server.service.notifications.webhook import WebhookOptions, WebhookSender, client_context
from ownkey_server.storage import outbox
from ownkey_server.storage.database import Database
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.outbox import Filter, Told
from ownkey_server.storage.registry import PROVIDER, Change
from support.office import Office
from support.pki import Authority
from support.receiver import Receiver, receiving

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


class SetClock:
    """Tells the time that it was set to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 28, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def go(self, **span: float) -> None:
        self.now += timedelta(**span)


async def to_loopback(host: str, port: int, slow: bool) -> list[str]:
    return ["127.0.0.1"]


@dataclass
class Post:
    """Couriers over one database, with channels and notices."""

    office: Office
    database: Database
    executor: ThreadPoolExecutor
    authority: Authority
    clock: SetClock = field(default_factory=SetClock)
    attempt: float = 5.0

    def courier(self, name: str = "one", **options: Any) -> Courier:
        webhooks = WebhookSender(
            to_loopback,
            client_context(self.authority.pem),
            system_clock,
            WebhookOptions(connect=self.attempt, attempt=self.attempt, allowed=LOOPBACK),
        )
        sealer = Sealer(self.office.ring, self.office.directory, self.office.audit, system_clock)
        schedule = RetrySchedule(timedelta(seconds=5), timedelta(minutes=1), timedelta(hours=1))
        return Courier(
            self.database,
            self.executor,
            {ChannelKind.WEBHOOK: webhooks},
            sealer,
            self.clock,
            CourierOptions(schedule=schedule, **options),
            name,
            luck=lambda: 1.0,
        )

    def notifications(self, courier: Courier, **rules: Any) -> Notifications:
        sealer = Sealer(self.office.ring, self.office.directory, self.office.audit, system_clock)
        return Notifications(self.office.desk, sealer, courier, ChannelRules(allowed=LOOPBACK, **rules))

    async def channel(self, receiver: Receiver, tenant: str = "acme", **fields: Any) -> tuple[str, str]:
        """A new channel's id, and its secret."""
        to = Destination(ChannelKind.WEBHOOK, url=receiver.url)
        office = self.notifications(self.courier())
        made, secret = await office.create(
            Office.act, tenant, "", to, fields.pop("kinds", frozenset()), enabled=True, **fields
        )
        return made.id, secret

    def put(self, tenant: str = "acme", key: str = "", **fields: Any) -> Notice:
        notice = outbox.new_notice(tenant, fields.pop("kind", NoticeKind.KEY_REVOKED), self.clock(), key=key, **fields)
        with self.database.writing() as connection:
            placed = outbox.put(connection, notice)
        assert placed is not None
        return placed

    async def deliver(self, courier: Courier) -> datetime | None:
        """All that is due, until nothing is; gives when something is next."""
        while True:
            due = await courier.round()
            if not courier.busy:
                return due
            await courier.settled()

    def told(self, tenant: str = "acme", **only: Any) -> list[Told]:
        with self.database.reading() as connection:
            return outbox.latest(connection, tenant, Filter(**only), None, 1000)

    def delivery(self, notice: Notice) -> Delivery:
        with self.database.reading() as connection:
            found = outbox.find(connection, notice.tenant, notice.id)
        assert found is not None
        [only] = found.deliveries
        return only


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def post(database: Database, tmp_path: Path, authority: Authority) -> AsyncIterator[Post]:
    with ThreadPoolExecutor(4) as executor:
        clock = SetClock()
        made = Office(database, tmp_path / "keys", executor, clock=clock)
        await made.make("provider")
        with database.writing() as connection:
            place = Replica("one", "provider")
            change = Change(connection, system_clock())
            change.insert_key(PROVIDER_KEY_NAME, PROVIDER, KeyLifecycle.ACTIVE, [place], system_clock())
            for tenant in ("acme", "beta"):
                change.insert_tenant(tenant, tenant, system_clock(), CallGateTable())
        await made.directory.start()
        await made.audit.start()
        yield Post(made, database, executor, authority, clock)
        await made.audit.close()
        for store in made.stores.values():
            await store.close()


@pytest.fixture
async def receiver(authority: Authority) -> AsyncIterator[Receiver]:
    async with receiving(authority) as made:
        yield made


@pytest.fixture
async def other(authority: Authority) -> AsyncIterator[Receiver]:
    async with receiving(authority) as made:
        yield made
