"""What a tenant is told of, and through which channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ownkey._requests import listed, made
from ownkey.admin._calls import AdminCalls
from ownkey.v1 import notification_pb2 as pb


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A channel, and the secret that its webhook is signed by: nobody can ask for it again.

    Attributes:
        channel: The channel.
        secret: ``whsec_...``; empty where there is none, or it was not made anew.
    """

    channel: pb.NotificationChannel
    secret: str

    def __repr__(self) -> str:
        return f"NewSecret(channel={self.channel.id!r}, secret=...)"


@dataclass(frozen=True, slots=True)
class ChannelTest:
    """How a test of a channel went."""

    delivered: bool
    result: str
    notification: str


class NotificationCalls(AdminCalls):
    """What a tenant is told of. An empty tenant is the provider."""

    def create_notification_channel(
        self,
        tenant: str,
        *,
        webhook: str = "",
        email: Iterable[str] = (),
        apprise: str = "",
        display_name: str = "",
        kinds: Iterable[pb.NotificationKind.ValueType] = (),
        disabled: bool = False,
        reason: str = "",
    ) -> NewSecret:
        """Add a channel: one of a webhook's URL, mail addresses, and an Apprise URL."""
        request = made(
            pb.CreateNotificationChannelRequest,
            tenant=tenant,
            display_name=display_name,
            kinds=list(kinds),
            disabled=disabled,
            note=self._note(reason),
            webhook=pb.WebhookChannel(url=webhook) if webhook else None,
            email=pb.EmailChannel(recipients=listed(email)) if email else None,
            apprise=pb.AppriseChannel(url=apprise) if apprise else None,
        )
        answer = self._call(self._stub.CreateNotificationChannel, request)
        return NewSecret(answer.channel, answer.secret)

    def get_notification_channel(self, tenant: str, channel: str) -> pb.NotificationChannel:
        """A channel, without what of it is secret."""
        request = made(pb.GetNotificationChannelRequest, tenant=tenant, channel=channel)
        return self._call(self._stub.GetNotificationChannel, request).channel

    def list_notification_channels(self, tenant: str) -> list[pb.NotificationChannel]:
        """A tenant's channels, the oldest first."""
        request = made(pb.ListNotificationChannelsRequest, tenant=tenant)
        return list(self._call(self._stub.ListNotificationChannels, request).channels)

    def update_notification_channel(
        self,
        tenant: str,
        channel: str,
        etag: str,
        *,
        webhook: str = "",
        email: Iterable[str] = (),
        apprise: str = "",
        display_name: str | None = None,
        kinds: Iterable[pb.NotificationKind.ValueType] | None = None,
        disabled: bool | None = None,
        rotate_secret: bool = False,
        reason: str = "",
    ) -> NewSecret:
        """Change a channel; what is not given stays as it is. No kinds at all (``[]``) means everything."""
        chosen = None if kinds is None else list(kinds)
        request = made(
            pb.UpdateNotificationChannelRequest,
            tenant=tenant,
            channel=channel,
            etag=etag,
            display_name=display_name,
            kinds=chosen or (),
            all_kinds=chosen == [],
            disabled=disabled,
            rotate_secret=rotate_secret,
            note=self._note(reason),
            webhook=pb.WebhookChannel(url=webhook) if webhook else None,
            email=pb.EmailChannel(recipients=listed(email)) if email else None,
            apprise=pb.AppriseChannel(url=apprise) if apprise else None,
        )
        answer = self._call(self._stub.UpdateNotificationChannel, request)
        return NewSecret(answer.channel, answer.secret)

    def delete_notification_channel(self, tenant: str, channel: str, etag: str, *, reason: str = "") -> int:
        """Remove a channel; gives how many notifications were still to be delivered by it."""
        request = made(
            pb.DeleteNotificationChannelRequest, tenant=tenant, channel=channel, etag=etag, note=self._note(reason)
        )
        return self._call(self._stub.DeleteNotificationChannel, request).dropped

    def test_notification_channel(self, tenant: str, channel: str, *, reason: str = "") -> ChannelTest:
        """Send a test through a channel, once, and tell what happened."""
        request = made(pb.TestNotificationChannelRequest, tenant=tenant, channel=channel, note=self._note(reason))
        answer = self._call(self._stub.TestNotificationChannel, request)
        return ChannelTest(answer.delivered, answer.result, answer.notification)

    def list_notifications(
        self,
        tenant: str,
        *,
        state: pb.NotificationDeliveryState.ValueType = pb.NOTIFICATION_DELIVERY_STATE_UNSPECIFIED,
        channel: str = "",
        kind: pb.NotificationKind.ValueType = pb.NOTIFICATION_KIND_UNSPECIFIED,
    ) -> Iterator[pb.Notification]:
        """A tenant's notifications, the newest first, with how far each is by each channel."""
        request = made(pb.ListNotificationsRequest, tenant=tenant, state=state, channel=channel)
        request.kind = kind  # `made` has an argument of that name
        for page in self._pages(self._stub.ListNotifications, request):
            yield from page.notifications

    def replay_notification(
        self, tenant: str, notification: str, *, channel: str = "", reason: str = ""
    ) -> pb.Notification:
        """Deliver a notification again, with the same id: by every channel that gave it up, or by one."""
        request = made(
            pb.ReplayNotificationRequest,
            tenant=tenant,
            notification=notification,
            channel=channel,
            note=self._note(reason),
        )
        return self._call(self._stub.ReplayNotification, request).notification
