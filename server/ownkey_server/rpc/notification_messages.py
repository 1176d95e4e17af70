"""Channels and notifications: messages to domain and back."""

from __future__ import annotations

from typing import Any

from google.protobuf import struct_pb2

from ownkey.v1 import notification_pb2 as pb
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.domain.notifications import Channel, ChannelKind, Delivery, DeliveryState, NoticeKind
from ownkey_server.rpc import convert
from ownkey_server.service.administration.notifications import Destination, Edit
from ownkey_server.storage.outbox import Filter, Told

_KIND = pb.NotificationKind
_STATE = pb.NotificationDeliveryState
KIND_NUMBERS = {one: _KIND.Value(f"NOTIFICATION_KIND_{one.name}") for one in NoticeKind}
KINDS = {number: one for one, number in KIND_NUMBERS.items()}
STATE_NUMBERS = {one: _STATE.Value(f"NOTIFICATION_DELIVERY_STATE_{one.name}") for one in DeliveryState}
STATES = {number: one for one, number in STATE_NUMBERS.items()}


def destination(request: Any) -> Destination | None:
    """Where a request says that a channel leads to; None when it does not say."""
    match request.WhichOneof("target"):
        case "webhook":
            return Destination(ChannelKind.WEBHOOK, url=request.webhook.url)
        case "email":
            return Destination(ChannelKind.EMAIL, recipients=tuple(request.email.recipients))
        case "apprise":
            return Destination(ChannelKind.APPRISE, url=request.apprise.url)
    return None


def required_destination(request: pb.CreateNotificationChannelRequest) -> Destination:
    """The same, where there must be one.

    Raises:
        InvalidRequest: There is none.
    """
    found = destination(request)
    if found is None:
        raise InvalidRequest("target", "is required: webhook, email or apprise")
    return found


def kinds(numbers: Any) -> frozenset[NoticeKind]:
    """Kinds of notifications."""
    return frozenset(KINDS[one] for one in numbers)


def edit(request: pb.UpdateNotificationChannelRequest) -> Edit:
    """What an update changes.

    Raises:
        InvalidRequest: It says two things of kinds.
    """
    if request.all_kinds and request.kinds:
        raise InvalidRequest("all_kinds", "must not be true beside kinds")
    return Edit(
        display_name=request.display_name if request.HasField("display_name") else None,
        destination=destination(request),
        kinds=kinds(request.kinds) if request.kinds or request.all_kinds else None,
        enabled=not request.disabled if request.HasField("disabled") else None,
        rotate=request.rotate_secret,
    )


def only(request: pb.ListNotificationsRequest) -> Filter:
    """Which notifications are meant."""
    return Filter(state=STATES.get(request.state), channel=request.channel, kind=KINDS.get(request.kind))


def channel(record: Channel) -> pb.NotificationChannel:
    """A channel, without what of it is secret."""
    message = pb.NotificationChannel(
        id=record.id,
        tenant=record.tenant,
        display_name=record.display_name,
        kinds=sorted(KIND_NUMBERS[one] for one in record.kinds),
        disabled=not record.enabled,
        etag=record.etag,
        create_time=convert.timestamp(record.create_time),
        update_time=convert.timestamp(record.update_time),
    )
    match record.kind:
        case ChannelKind.WEBHOOK:
            message.webhook.url = record.url
        case ChannelKind.EMAIL:
            message.email.recipients.extend(record.recipients)
        case ChannelKind.APPRISE:
            message.apprise.scheme = record.scheme
    if record.former_until is not None:
        message.former_secret_until.CopyFrom(convert.timestamp(record.former_until))
    return message


def notification(told: Told) -> pb.Notification:
    """A notification, with how far it is."""
    notice = told.notice
    details = struct_pb2.Struct()
    details.update(dict(notice.data))
    return pb.Notification(
        id=notice.id,
        tenant=notice.tenant,
        kind=KIND_NUMBERS[notice.kind],
        time=convert.timestamp(notice.time),
        key=notice.key,
        replica=notice.replica,
        cause=notice.cause,
        details=details,
        position=notice.position,
        deliveries=map(_delivery, told.deliveries),
    )


def _delivery(one: Delivery) -> pb.NotificationDelivery:
    message = pb.NotificationDelivery(
        channel=one.channel,
        state=STATE_NUMBERS[one.state],
        attempts=one.attempts,
        last_error=one.last_error,
    )
    if one.state is DeliveryState.PENDING:
        message.next_attempt_time.CopyFrom(convert.timestamp(one.next_time))
    if one.end_time is not None:
        message.end_time.CopyFrom(convert.timestamp(one.end_time))
    return message
