"""``ownkey notify``: what a tenant is told of, and through which channels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ownkey import webhooks
from ownkey.cli.admin_options import (
    change_options,
    etag_option,
    gone,
    read_text,
    require_yes,
    show,
    show_all,
    yes_option,
)
from ownkey.cli.main import Group, Shared, shared_options
from ownkey.cli.messages import enum_name
from ownkey.cli.options import optional_tenant_option
from ownkey.cli.output import Failure
from ownkey.v1 import notification_pb2 as pb

_KINDS = pb.NotificationKind.DESCRIPTOR
_STATES = pb.NotificationDeliveryState.DESCRIPTOR
KINDS = {enum_name(_KINDS, number): number for number in pb.NotificationKind.values() if number}
SECRET_VARIABLE = "OWNKEY_WEBHOOK_SECRET"  # noqa: S105 - where it is, and not what


@click.group(cls=Group, no_args_is_help=True)
def notify() -> None:
    """What a tenant is told of: its channels, what went through them, and what could not be delivered.

    Without --tenant it is about the provider itself.
    """


@notify.group(cls=Group, no_args_is_help=True)
def channel() -> None:
    """Ways to receivers: webhooks, mail, and what Apprise knows."""


def _target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--apprise-file",
            "apprise",
            type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
            help="A file with an Apprise URL, which holds tokens; - reads standard input.",
        ),
        click.option("--email", multiple=True, metavar="ADDRESS", help="Mail to this address; again for each."),
        click.option("--webhook", default="", metavar="URL", help="Post to this https URL, signed."),
        click.option("--name", "display_name", default=None, help="Its name for people."),
        click.option(
            "--kind",
            "kinds",
            multiple=True,
            type=click.Choice([one for one in KINDS if one != "test"]),
            help="Tell of this alone; again for each. Without any: of everything.",
        ),
    ):
        command = option(command)
    return command


@channel.command("create")
@optional_tenant_option
@_target_options
@click.option("--disabled", is_flag=True, help="Tell it nothing yet.")
@change_options
@shared_options
@click.pass_obj
def create(
    shared: Shared,
    tenant: str,
    webhook: str,
    email: tuple[str, ...],
    apprise: Path | None,
    display_name: str | None,
    kinds: tuple[str, ...],
    disabled: bool,
    author: str,
    reason: str,
) -> None:
    """Add a channel. A webhook's secret is shown this once: give it to the receiver."""
    if sum(bool(one) for one in (webhook, email, apprise)) != 1:
        raise click.UsageError("give one of --webhook, --email and --apprise-file")
    with shared.admin(author) as client:
        made = client.create_notification_channel(
            tenant or "",
            webhook=webhook,
            email=email,
            apprise=_url(apprise),
            display_name=display_name or "",
            kinds=[KINDS[one] for one in kinds],
            disabled=disabled,
            reason=reason,
        )
    _show_new(shared, made.channel, made.secret)


@channel.command("list")
@optional_tenant_option
@shared_options
@click.pass_obj
def list_channels(shared: Shared, tenant: str) -> None:
    """List a tenant's channels."""
    with shared.admin() as client:
        show_all(shared, "channels", client.list_notification_channels(tenant or ""), lambda one: (one.id, _told(one)))


@channel.command("get")
@click.argument("channel_id", metavar="CHANNEL")
@optional_tenant_option
@shared_options
@click.pass_obj
def get(shared: Shared, channel_id: str, tenant: str) -> None:
    """Show a channel, without what of it is secret."""
    with shared.admin() as client:
        found = client.get_notification_channel(tenant or "", channel_id)
    show(shared, found, channel=found.id, name=found.display_name or "-", about=_told(found), etag=found.etag)


@channel.command("update")
@click.argument("channel_id", metavar="CHANNEL")
@optional_tenant_option
@_target_options
@click.option("--all-kinds", is_flag=True, help="Tell of everything from now on.")
@click.option("--disable/--enable", "disabled", default=None, help="Tell it nothing for now, or again.")
@click.option("--rotate-secret", is_flag=True, help="A new signing secret; for a while both sign.")
@etag_option
@change_options
@shared_options
@click.pass_obj
def update(
    shared: Shared,
    channel_id: str,
    tenant: str,
    webhook: str,
    email: tuple[str, ...],
    apprise: Path | None,
    display_name: str | None,
    kinds: tuple[str, ...],
    all_kinds: bool,
    disabled: bool | None,
    rotate_secret: bool,
    etag: str,
    author: str,
    reason: str,
) -> None:
    """Change a channel; what is not given stays as it is."""
    if all_kinds and kinds:
        raise click.UsageError("give --kind, or --all-kinds")
    with shared.admin(author) as client:
        changed = client.update_notification_channel(
            tenant or "",
            channel_id,
            etag or client.get_notification_channel(tenant or "", channel_id).etag,
            webhook=webhook,
            email=email,
            apprise=_url(apprise),
            display_name=display_name,
            kinds=[KINDS[one] for one in kinds] if kinds or all_kinds else None,
            disabled=disabled,
            rotate_secret=rotate_secret,
            reason=reason,
        )
    _show_new(shared, changed.channel, changed.secret)


@channel.command("delete")
@click.argument("channel_id", metavar="CHANNEL")
@optional_tenant_option
@etag_option
@yes_option
@change_options
@shared_options
@click.pass_obj
def delete(shared: Shared, channel_id: str, tenant: str, etag: str, yes: bool, author: str, reason: str) -> None:
    """Remove a channel, with what is still to be delivered by it."""
    require_yes(f"Delete channel {channel_id}, with what is still to be delivered by it?", yes=yes)
    with shared.admin(author) as client:
        read = etag or client.get_notification_channel(tenant or "", channel_id).etag
        client.delete_notification_channel(tenant or "", channel_id, read, reason=reason)
    gone(shared, f"notificationChannels/{channel_id}")


@notify.command()
@click.argument("channel_id", metavar="CHANNEL")
@optional_tenant_option
@change_options
@shared_options
@click.pass_obj
def test(shared: Shared, channel_id: str, tenant: str, author: str, reason: str) -> None:
    """Send a test through CHANNEL, once, and tell what happened."""
    with shared.admin(author) as client:
        done = client.test_notification_channel(tenant or "", channel_id, reason=reason)
    if not done.delivered:
        raise Failure(f"not delivered: {done.result} (notification {done.notification})")
    answer = {"delivered": True, "result": done.result, "notification": done.notification}
    shared.output.answer(answer, {"delivered": done.result, "notification": done.notification})


@notify.command("list")
@optional_tenant_option
@click.option("--dead", "state", flag_value="dead", help="Only what was given up by some channel.")
@click.option("--pending", "state", flag_value="pending", help="Only what waits.")
@click.option("--delivered", "state", flag_value="delivered", help="Only what was taken.")
@click.option("--channel", "channel_id", default="", help="Only what goes through this channel.")
@click.option("--kind", type=click.Choice(list(KINDS)), default=None, help="Only of this kind.")
@shared_options
@click.pass_obj
def list_notifications(shared: Shared, tenant: str, state: str | None, channel_id: str, kind: str | None) -> None:
    """List what a tenant was told, the newest first, and how far each is."""
    wanted = pb.NotificationDeliveryState.Value(f"NOTIFICATION_DELIVERY_STATE_{(state or 'unspecified').upper()}")
    with shared.admin() as client:
        found = client.list_notifications(
            tenant or "",
            state=wanted,
            channel=channel_id,
            kind=KINDS[kind] if kind else pb.NOTIFICATION_KIND_UNSPECIFIED,
        )
        show_all(shared, "notifications", found, _line)


@notify.command()
@click.argument("notification_id", metavar="NOTIFICATION")
@optional_tenant_option
@click.option("--channel", "channel_id", default="", help="By this channel, also when it took it already.")
@change_options
@shared_options
@click.pass_obj
def replay(shared: Shared, notification_id: str, tenant: str, channel_id: str, author: str, reason: str) -> None:
    """Deliver NOTIFICATION again, with the same id: by every channel that gave it up, or by one."""
    with shared.admin(author) as client:
        again = client.replay_notification(tenant or "", notification_id, channel=channel_id, reason=reason)
    show(shared, again, notification=again.id, kind=enum_name(_KINDS, again.kind), deliveries=_deliveries(again))


@notify.command()
@click.option("--id", "webhook_id", required=True, help="The header webhook-id.")
@click.option("--timestamp", required=True, help="The header webhook-timestamp.")
@click.option("--signature", required=True, help="The header webhook-signature.")
@click.option(
    "-f",
    "--file",
    "source",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    required=True,
    help="The request's body, as it came; - reads standard input.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=webhooks.TOLERANCE_SECONDS,
    show_default=True,
    help="How many seconds its time may be away from now.",
)
@shared_options
@click.pass_obj
def verify(shared: Shared, webhook_id: str, timestamp: str, signature: str, source: Path, tolerance: float) -> None:
    """Tell whether a webhook that came is to be believed. The secret is read from $OWNKEY_WEBHOOK_SECRET."""
    secret = os.environ.get(SECRET_VARIABLE, "")
    if not secret:
        raise click.UsageError(f"${SECRET_VARIABLE} is not set: it holds the channel's secret, whsec_...")
    headers = {"webhook-id": webhook_id, "webhook-timestamp": timestamp, "webhook-signature": signature}
    with click.open_file(str(source), "rb") as file:
        body = file.read()
    try:
        notice = webhooks.verify(secret, headers, body, tolerance=tolerance)
    except ValueError as error:
        raise click.UsageError(f"${SECRET_VARIABLE}: {error}") from None
    except webhooks.WebhookInvalid as error:
        raise Failure(f"it is not to be believed: {error}") from None
    shared.output.answer({"valid": True, "notice": notice}, {"valid": notice.get("type", "-")})


def _url(source: Path | None) -> str:
    return read_text(source).strip() if source is not None else ""


def _show_new(shared: Shared, made: pb.NotificationChannel, secret: str) -> None:
    values = {"channel": made.id, "about": _told(made)}
    if not secret:
        show(shared, made, **values)
        return
    answer = pb.CreateNotificationChannelResponse(channel=made, secret=secret)
    show(
        shared,
        answer,
        **values,
        secret=secret,
        next=f"give the secret to the receiver: it is not shown again; then: ownkey notify test {made.id}",
    )


def _told(one: pb.NotificationChannel) -> str:
    match one.WhichOneof("target"):
        case "webhook":
            where = one.webhook.url
        case "email":
            where = ", ".join(one.email.recipients)
        case _:
            where = f"{one.apprise.scheme}://..."
    kinds = ", ".join(enum_name(_KINDS, kind) for kind in one.kinds) or "everything"
    return f"{where}: {kinds}{', disabled' if one.disabled else ''}"


def _line(one: pb.Notification) -> tuple[str, str]:
    moment = one.time.ToDatetime().isoformat(timespec="seconds") + "Z"
    about = f" {one.key}" if one.key else ""
    return one.id, f"{moment} {enum_name(_KINDS, one.kind)}{about}: {_deliveries(one)}"


def _deliveries(one: pb.Notification) -> str:
    parts = []
    for each in one.deliveries:
        error = f": {each.last_error}" if each.last_error else ""
        parts.append(f"{enum_name(_STATES, each.state)} after {each.attempts} attempts by {each.channel}{error}")
    return "; ".join(parts) or "no channel"
