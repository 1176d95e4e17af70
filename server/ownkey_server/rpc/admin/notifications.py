"""Channels, and what went through them."""

from __future__ import annotations

from google.protobuf.message import Message

from ownkey.v1 import notification_pb2
from ownkey_server.domain.audit import from_microseconds, microseconds
from ownkey_server.rpc import notification_messages, page_tokens, pages
from ownkey_server.rpc.admin.services import Room
from ownkey_server.rpc.calls import Call


class NotificationRoom(Room):
    """Channels, and what went through them."""

    async def CreateNotificationChannel(
        self, request: notification_pb2.CreateNotificationChannelRequest, call: Call
    ) -> Message:
        """Add a channel."""
        made, secret = await self._services.notifications.create(
            call.act(request),
            request.tenant,
            request.display_name,
            notification_messages.required_destination(request),
            notification_messages.kinds(request.kinds),
            enabled=not request.disabled,
        )
        return notification_pb2.CreateNotificationChannelResponse(
            channel=notification_messages.channel(made), secret=secret
        )

    async def GetNotificationChannel(
        self, request: notification_pb2.GetNotificationChannelRequest, _call: Call
    ) -> Message:
        """Tell of a channel."""
        found = await self._services.notifications.get(request.tenant, request.channel)
        return notification_pb2.GetNotificationChannelResponse(channel=notification_messages.channel(found))

    async def ListNotificationChannels(
        self, request: notification_pb2.ListNotificationChannelsRequest, _call: Call
    ) -> Message:
        """List a tenant's channels."""
        found = await self._services.notifications.channels(request.tenant)
        return notification_pb2.ListNotificationChannelsResponse(channels=map(notification_messages.channel, found))

    async def UpdateNotificationChannel(
        self, request: notification_pb2.UpdateNotificationChannelRequest, call: Call
    ) -> Message:
        """Change a channel."""
        changed, secret = await self._services.notifications.update(
            call.act(request), request.tenant, request.channel, request.etag, notification_messages.edit(request)
        )
        return notification_pb2.UpdateNotificationChannelResponse(
            channel=notification_messages.channel(changed), secret=secret
        )

    async def DeleteNotificationChannel(
        self, request: notification_pb2.DeleteNotificationChannelRequest, call: Call
    ) -> Message:
        """Remove a channel."""
        dropped = await self._services.notifications.delete(
            call.act(request), request.tenant, request.channel, request.etag
        )
        return notification_pb2.DeleteNotificationChannelResponse(dropped=dropped)

    async def TestNotificationChannel(
        self, request: notification_pb2.TestNotificationChannelRequest, call: Call
    ) -> Message:
        """Send a test."""
        done = await self._services.notifications.test(call.act(request), request.tenant, request.channel)
        return notification_pb2.TestNotificationChannelResponse(
            delivered=done.attempt.taken, result=done.attempt.told, notification=done.notice
        )

    async def ListNotifications(self, request: notification_pb2.ListNotificationsRequest, _call: Call) -> Message:
        """List a tenant's notifications."""
        size = page_tokens.page_size(request)
        time, _, one = page_tokens.decode(request, str, "").partition("/")
        before = (from_microseconds(int(time)), one) if one else None
        found = await self._services.notifications.notices(
            request.tenant, notification_messages.only(request), before, size + 1
        )
        page = pages.cut(map(notification_messages.notification, found), size)
        last = found[len(page) - 1].notice if page and len(page) < len(found) else None
        token = page_tokens.encode(request, f"{microseconds(last.time)}/{last.id}") if last else ""
        return notification_pb2.ListNotificationsResponse(notifications=page, next_page_token=token)

    async def ReplayNotification(self, request: notification_pb2.ReplayNotificationRequest, call: Call) -> Message:
        """Deliver a notification again."""
        again = await self._services.notifications.replay(
            call.act(request), request.tenant, request.notification, request.channel
        )
        return notification_pb2.ReplayNotificationResponse(notification=notification_messages.notification(again))
