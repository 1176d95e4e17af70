"""Notification channels, as they are administered, and what went through them."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from ownkey_server.domain.addresses import Network, refusal
from ownkey_server.domain.errors import EtagMismatch, InvalidRequest, ResourceInUse
from ownkey_server.domain.notifications import (
    Channel,
    ChannelKind,
    Delivery,
    DeliveryState,
    NoticeKind,
    Sealed,
)
from ownkey_server.domain.webhooks import SECRET_BYTES, WebhookUrlInvalid, parse_url, secret_text
from ownkey_server.service.administration.desk import Act, Desk, Done
from ownkey_server.service.administration.tenants import name as tenant_name
from ownkey_server.service.notifications.apprise_sender import AppriseRefused, checked
from ownkey_server.service.notifications.courier import Attempt, Courier
from ownkey_server.service.notifications.mail import is_address
from ownkey_server.service.notifications.sealing import Sealer
from ownkey_server.storage import channels as kept
from ownkey_server.storage import outbox
from ownkey_server.storage.outbox import Filter, Told
from ownkey_server.storage.records import ANY_ETAG
from ownkey_server.storage.registry import Change, Reader, required


@dataclass(frozen=True, slots=True)
class ChannelRules:
    """What the provider lets its tenants have.

    Attributes:
        most: How many channels a tenant may have.
        overlap: For how long a webhook is signed by its former secret too.
        allow_http: Whether webhooks may go in clear.
        allowed: Networks that may be sent to although they are not the public Internet.
        mail: Whether mail can be sent.
        schemes: Which schemes of Apprise may be used.
        hosts: Which hosts an Apprise URL may name.
    """

    most: int = 16
    overlap: timedelta = timedelta(hours=24)
    allow_http: bool = False
    allowed: Collection[Network] = ()
    mail: bool = False
    schemes: Collection[str] = ()
    hosts: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a channel leads to, as somebody asks for it: a URL, or recipients of mail."""

    kind: ChannelKind
    url: str = field(default="", repr=False)
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Edit:
    """What shall be otherwise; None leaves it as it is."""

    display_name: str | None = None
    destination: Destination | None = None
    kinds: frozenset[NoticeKind] | None = None
    enabled: bool | None = None
    rotate: bool = False


@dataclass(frozen=True, slots=True)
class Tested:
    """How a test went, and the id of what was sent."""

    attempt: Attempt
    notice: str


class Notifications:
    """What can be done with channels and notices. An empty tenant is the provider."""

    def __init__(self, desk: Desk, sealer: Sealer, courier: Courier, rules: ChannelRules) -> None:
        self._desk = desk
        self._sealer = sealer
        self._courier = courier
        self._rules = rules
        self._testing: set[str] = set()

    async def get(self, tenant: str, channel: str) -> Channel:
        """A channel.

        Raises:
            ResourceNotFound: The tenant has none of that id.
        """
        found = await self._desk.read(lambda reader: kept.find(reader.connection, tenant, channel))
        record: Channel = required(found, name(tenant, channel))
        return record

    async def channels(self, tenant: str) -> list[Channel]:
        """A tenant's channels, the oldest first.

        Raises:
            ResourceNotFound: There is no such tenant.
        """

        def question(reader: Reader) -> list[Channel]:
            _require_tenant(reader, tenant)
            return kept.listed(reader.connection, tenant)

        return await self._desk.read(question)

    async def create(
        self,
        act: Act,
        tenant: str,
        display_name: str,
        to: Destination,
        kinds: frozenset[NoticeKind],
        *,
        enabled: bool,
    ) -> tuple[Channel, str]:
        """Add a channel; gives it, and a webhook's new secret.

        Raises:
            ResourceNotFound: There is no such tenant.
            ResourceInUse: It has as many as it may have.
            InvalidRequest: Nothing may be sent there.
            KeyStoreError: The provider's key, which keeps what is secret, cannot be used.
        """
        self._require_allowed(to)
        await self._desk.read(lambda reader: _require_tenant(reader, tenant))
        channel = secrets.token_hex(16)
        secret, sealed = await self._sealed(channel, to)
        now = self._desk.clock()
        made = _led_to(
            Channel(channel, tenant, to.kind, display_name, now, now, kinds=kinds, enabled=enabled), to, sealed
        )

        def work(change: Change) -> Done:
            _require_tenant(change, tenant)
            if len(kept.listed(change.connection, tenant)) >= self._rules.most:
                raise ResourceInUse(
                    f"{_owner(tenant)}/notificationChannels",
                    f"there are {self._rules.most} channels, as many as there may be: delete one, or change one",
                )
            kept.add(change.connection, made, change.number)
            return Done(replace(made, etag=str(change.number)), {"after": _shown(made)})

        added: Channel = await self._desk.change(
            act, "create_notification_channel", tenant, name(tenant, channel), work
        )
        return added, secret

    async def update(self, act: Act, tenant: str, channel: str, etag: str, edit: Edit) -> tuple[Channel, str]:
        """Change a channel; gives it, and a webhook's new secret if it was rotated.

        Raises:
            ResourceNotFound: The tenant has none of that id.
            EtagMismatch: It was changed since it was read.
            InvalidRequest: Nothing may be sent there, or it is of another kind, or has no secret to rotate.
            KeyStoreError: The provider's key cannot be used.
        """
        seen = await self.get(tenant, channel)
        to = edit.destination
        if to is not None:
            if to.kind is not seen.kind:
                raise InvalidRequest(
                    to.kind.value, f"the channel is of kind {seen.kind.value}, and stays so: make another"
                )
            self._require_allowed(to)
        if edit.rotate and seen.kind is not ChannelKind.WEBHOOK:
            raise InvalidRequest("rotate_secret", f"a channel of kind {seen.kind.value} has no signing secret")
        secret, sealed = "", b""
        if edit.rotate:
            secret, sealed = await self._sealed(channel, Destination(ChannelKind.WEBHOOK))
        elif to is not None and to.kind is ChannelKind.APPRISE:
            _, sealed = await self._sealed(channel, to)
        now = self._desk.clock()

        def work(change: Change) -> Done:
            before: Channel = required(kept.find(change.connection, tenant, channel), name(tenant, channel))
            if etag not in (ANY_ETAG, before.etag):
                raise EtagMismatch(name(tenant, channel))
            after = _edited(before, edit, now)
            if to is not None:
                after = _led_to(after, to, sealed)
            if edit.rotate:
                after = replace(
                    after, sealed=Sealed(sealed, before.sealed.secret), former_until=now + self._rules.overlap
                )
            kept.change(change.connection, after, change.number)
            outbox.look_again(change.connection)
            detail = {"before": _shown(before), "after": _shown(after)}
            return Done(
                replace(after, etag=str(change.number)), {**detail, **({"rotated": True} if edit.rotate else {})}
            )

        changed: Channel = await self._desk.change(
            act, "update_notification_channel", tenant, name(tenant, channel), work
        )
        return changed, secret

    async def delete(self, act: Act, tenant: str, channel: str, etag: str) -> int:
        """Remove a channel; gives how many notices were still to be delivered by it.

        Raises:
            ResourceNotFound: The tenant has none of that id.
            EtagMismatch: It was changed since it was read.
        """

        def work(change: Change) -> Done:
            before: Channel = required(kept.find(change.connection, tenant, channel), name(tenant, channel))
            if etag not in (ANY_ETAG, before.etag):
                raise EtagMismatch(name(tenant, channel))
            dropped = kept.remove(change.connection, channel)
            return Done(dropped, {"before": _shown(before), "dropped": dropped})

        dropped: int = await self._desk.change(act, "delete_notification_channel", tenant, name(tenant, channel), work)
        return dropped

    async def test(self, act: Act, tenant: str, channel: str) -> Tested:
        """Send a test through a channel, once.

        Raises:
            ResourceNotFound: The tenant has none of that id.
            ResourceInUse: It is being tested at the moment.
        """
        if channel in self._testing:
            raise ResourceInUse(name(tenant, channel), "it is being tested at the moment: wait for that")
        self._testing.add(channel)
        try:
            return await self._test(act, tenant, channel)
        finally:
            self._testing.discard(channel)

    async def _test(self, act: Act, tenant: str, channel: str) -> Tested:
        now = self._desk.clock()
        said = outbox.new_notice(
            tenant, NoticeKind.TEST, now, cause="somebody tests this channel", data={"channel": channel}
        )

        def work(change: Change) -> Done:
            required(kept.find(change.connection, tenant, channel), name(tenant, channel))
            return Done(outbox.put(change.connection, said, deliver=False), {"notification": said.id})

        placed = await self._desk.change(act, "test_notification_channel", tenant, name(tenant, channel), work)
        # Behind nobody but its like: what nobody has tried yet may hang.
        attempt = await self._courier.attempt(await self.get(tenant, channel), placed, slow=True)
        end = self._desk.clock()
        state = DeliveryState.DELIVERED if attempt.taken else DeliveryState.DEAD
        error = "" if attempt.taken else attempt.told
        delivery = Delivery(channel, said.id, state, 1, now, end, end, error)
        await self._courier.note(placed, delivery)
        return Tested(attempt, said.id)

    async def notices(self, tenant: str, only: Filter, before: tuple[datetime, str] | None, limit: int) -> list[Told]:
        """A tenant's notices, the newest first, from before ``before``.

        Raises:
            ResourceNotFound: There is no such tenant.
        """

        def question(reader: Reader) -> list[Told]:
            _require_tenant(reader, tenant)
            return outbox.latest(reader.connection, tenant, only, before, limit)

        return await self._desk.read(question)

    async def replay(self, act: Act, tenant: str, notice: str, channel: str) -> Told:
        """Deliver a notice again, with the same id.

        Args:
            act: Who, and why.
            tenant: Whose.
            notice: Its id.
            channel: By this channel, also when it was delivered; empty means by all that gave it up.

        Raises:
            ResourceNotFound: The tenant has none of that id.
            ResourceInUse: There is nothing to replay.
        """
        resource = f"{_owner(tenant)}/notifications/{notice}"

        def work(change: Change) -> Done:
            required(outbox.find(change.connection, tenant, notice), resource)
            count = outbox.replay(change.connection, notice, channel, self._desk.clock())
            if not count:
                raise ResourceInUse(resource, "there is nothing to replay: no channel that is meant has given it up")
            return Done(outbox.find(change.connection, tenant, notice), {"channels": count, "channel": channel})

        again: Told = await self._desk.change(act, "replay_notification", tenant, resource, work)
        return again

    def _require_allowed(self, to: Destination) -> None:
        """Refuse what nothing may be sent to, as far as it is plain already; the rest each attempt tells.

        Raises:
            InvalidRequest: It is plain.
        """
        rules = self._rules
        match to.kind:
            case ChannelKind.WEBHOOK:
                try:
                    target = parse_url(to.url, allow_http=rules.allow_http)
                except WebhookUrlInvalid as error:
                    raise InvalidRequest("webhook.url", str(error)) from None
                try:
                    why = refusal(ipaddress.ip_address(target.host), rules.allowed)
                except ValueError:
                    why = ""
                if why or (target.host == "localhost" and not rules.allowed):
                    raise InvalidRequest(
                        "webhook.url", "must lead to a public address, or one that the provider allows"
                    )
            case ChannelKind.EMAIL:
                if not rules.mail:
                    raise InvalidRequest(
                        "email", "this service sends no mail: its provider has to set [notifications.smtp]"
                    )
                _require_addresses(to.recipients)
            case ChannelKind.APPRISE:
                try:
                    checked(to.url, rules.schemes, rules.hosts)
                except AppriseRefused as error:
                    raise InvalidRequest("apprise.url", str(error)) from None

    async def _sealed(self, channel: str, to: Destination) -> tuple[str, bytes]:
        """What of a channel is to be shown once, and what is to be kept, sealed."""
        match to.kind:
            case ChannelKind.WEBHOOK:
                raw = os.urandom(SECRET_BYTES)
                return secret_text(raw), await self._sealer.seal(channel, raw)
            case ChannelKind.APPRISE:
                return "", await self._sealer.seal(channel, to.url.encode())
            case ChannelKind.EMAIL:
                return "", b""


def _require_addresses(recipients: Collection[str]) -> None:
    for number, one in enumerate(recipients):
        if not is_address(one):
            raise InvalidRequest(f"email.recipients[{number}]", "must be an address alone, such as ops@example.com")


def _edited(before: Channel, edit: Edit, now: datetime) -> Channel:
    fresh: dict[str, Any] = {"update_time": now}
    for one in ("display_name", "kinds", "enabled"):
        if getattr(edit, one) is not None:
            fresh[one] = getattr(edit, one)
    return replace(before, **fresh)


def _led_to(channel: Channel, to: Destination, sealed: bytes) -> Channel:
    match to.kind:
        case ChannelKind.WEBHOOK:
            kept_secret = Sealed(sealed) if sealed else channel.sealed
            return replace(channel, url=to.url, sealed=kept_secret)
        case ChannelKind.EMAIL:
            return replace(channel, recipients=to.recipients)
        case ChannelKind.APPRISE:
            return replace(channel, scheme=to.url.partition("://")[0].lower(), sealed=Sealed(sealed))


def _require_tenant(reader: Reader, tenant: str) -> None:
    if tenant:
        required(reader.tenant(tenant), tenant_name(tenant))


def _shown(channel: Channel) -> dict[str, object]:
    """What the trail says of a channel: nothing that whoever reads it could use."""
    said: dict[str, object] = {
        "kind": channel.kind.value,
        "display_name": channel.display_name,
        "kinds": sorted(one.value for one in channel.kinds),
        "enabled": channel.enabled,
    }
    if channel.url:
        # Paths of some services are all that keeps others out.
        said["host"] = parse_url(channel.url, allow_http=True).authority
    if channel.recipients:
        said["recipients"] = list(channel.recipients)
    if channel.scheme:
        said["scheme"] = channel.scheme
    return said


def _owner(tenant: str) -> str:
    return tenant_name(tenant) if tenant else "provider"


def name(tenant: str, channel: str) -> str:
    """A channel's name as a resource."""
    return f"{_owner(tenant)}/notificationChannels/{channel}"
