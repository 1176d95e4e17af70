"""Channels through gRPC, and what a real server tells by them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import standardwebhooks

from ownkey.v1 import notification_pb2 as pb
from ownkey.v1 import policy_pb2, revocation_pb2
from support import server
from support.admin import Admin
from support.pki import Authority
from support.receiver import Receiver, receiving, status
from support.rpc import Failure, Rpc, connected

EXTRA = """
[notifications]
allow_addresses = ["127.0.0.0/8", "::1/128"]
ca_file = "{ca}"
retry_seconds = 0.05
"""


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    async with receiving(Authority(tmp_path / "authority")) as made:
        yield made


@pytest.fixture
async def rpc(tmp_path: Path, receiver: Receiver) -> AsyncIterator[Rpc]:
    extra = EXTRA.format(ca=tmp_path / "authority" / "ca.pem")
    async with server.in_process(tmp_path, extra=extra) as address, connected(address) as calls:
        yield calls


@pytest.fixture
def admin(rpc: Rpc) -> Admin:
    return Admin(rpc.channel)


async def failure(call: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return Failure.of(caught.value)


async def came(receiver: Receiver, *kinds: str) -> list[dict[str, Any]]:
    """What came, when all of these kinds have."""
    async with asyncio.timeout(20):
        while not set(kinds) <= {one.told["type"] for one in receiver.came}:
            receiver.arrived.clear()
            await receiver.arrived.wait()
    return [one.told for one in receiver.came]


async def test_a_channel_from_its_making_to_its_end(admin: Admin, receiver: Receiver) -> None:
    made = await admin(
        "CreateNotificationChannel", tenant="acme", webhook=pb.WebhookChannel(url=receiver.url), display_name="Ops"
    )
    channel = made.channel
    assert made.secret.startswith("whsec_")
    assert (channel.display_name, channel.webhook.url, list(channel.kinds)) == ("Ops", receiver.url, [])
    tested = await admin("TestNotificationChannel", tenant="acme", channel=channel.id)
    assert (tested.delivered, tested.result) == (True, "HTTP 204")
    [test] = receiver.came
    standardwebhooks.Webhook(made.secret).verify(test.body, test.headers)
    assert test.id == tested.notification

    kinds = [pb.NOTIFICATION_KIND_POLICY_CHANGED]
    changed = await admin(
        "UpdateNotificationChannel", tenant="acme", channel=channel.id, etag=channel.etag, kinds=kinds
    )
    assert (list(changed.channel.kinds), changed.secret) == (kinds, "")
    stale = await failure(
        admin("UpdateNotificationChannel", tenant="acme", channel=channel.id, etag=channel.etag, disabled=True)
    )
    assert stale.reason == "ETAG_MISMATCH"
    rotated = await admin(
        "UpdateNotificationChannel", tenant="acme", channel=channel.id, etag="*", all_kinds=True, rotate_secret=True
    )
    assert rotated.secret not in ("", made.secret)
    assert rotated.channel.HasField("former_secret_until")
    assert list(rotated.channel.kinds) == []

    read = (await admin("GetNotificationChannel", tenant="acme", channel=channel.id)).channel
    listed = (await admin("ListNotificationChannels", tenant="acme")).channels
    assert [read] == list(listed) == [rotated.channel]
    records = (await admin("ListAuditRecords", tenant="acme", page_size=1000)).records
    acts = [one.action for one in records if "notification_channel" in one.action]
    assert acts == [f"admin.{one}_notification_channel" for one in ("create", "test", "update", "update", "update")]
    for secret in (made.secret, rotated.secret):
        assert secret.removeprefix("whsec_") not in str(records) + str(listed)

    await admin("DeleteNotificationChannel", tenant="acme", channel=channel.id, etag="*")
    assert not (await admin("ListNotificationChannels", tenant="acme")).channels
    gone = await failure(admin("GetNotificationChannel", tenant="acme", channel=channel.id))
    assert gone.reason == "RESOURCE_NOT_FOUND"


async def test_what_a_tenant_does_and_what_becomes_of_its_key_is_told_in_order(
    admin: Admin, rpc: Rpc, receiver: Receiver, tmp_path: Path
) -> None:
    await admin("CreateNotificationChannel", tenant="acme", webhook=pb.WebhookChannel(url=receiver.url))
    tenant = (await admin("GetTenant", tenant="acme")).tenant
    policy = policy_pb2.Policy(default_use="key:main")
    await admin("CreatePolicyVersion", tenant="acme", policy=policy, activate=True, etag=tenant.etag)
    scope = revocation_pb2.RevocationScope(users=["ann@example.com"])
    revoked = (await admin("Revoke", tenant="acme", scope=scope)).revocation
    await admin("Restore", tenant="acme", revocation=revoked.id)
    place = {"key_store": "embedded", "reference": "no-such-key"}
    refused = await failure(admin("EnrolKey", tenant="acme", key="other", primary=place))
    assert refused.reason == "ENROLMENT_FAILED"
    key = tmp_path / "keys"
    [held] = [one for one in key.iterdir() if one.name.startswith("acme-main")]
    held.rename(held.with_suffix(".disabled"))
    told = await came(
        receiver, "policy_changed", "revocation_made", "revocation_restored", "enrolment_failed", "key_revoked"
    )
    of = {one["type"]: one["data"] for one in told}
    assert of["policy_changed"]["details"] == {"version": 2, "previous_version": 1}
    assert of["revocation_made"]["details"]["revocation"] == revoked.id
    assert of["revocation_made"]["details"]["scope"] == {"users": ["ann@example.com"]}
    assert of["enrolment_failed"]["key"] == "tenants/acme/keys/other"
    assert of["key_revoked"]["key"] == "tenants/acme/keys/main"
    assert of["key_revoked"]["details"]["state"] == "revoked"
    positions = [one["data"]["position"] for one in told if "key" not in one["data"]]
    assert positions == sorted(positions)
    held.with_suffix(".disabled").rename(held)
    told = await came(receiver, "key_recovered")
    of_key = [one["type"] for one in told if one["data"].get("key") == "tenants/acme/keys/main"]
    assert of_key == ["key_revoked", "key_recovered"]
    # Of another tenant nothing is told.
    assert {one["data"]["tenant"] for one in told} == {"acme"}


async def test_what_could_not_be_delivered_is_listed_and_replayed(admin: Admin, receiver: Receiver) -> None:
    receiver.answer = lambda _: status(500)
    made = await admin("CreateNotificationChannel", tenant="acme", webhook=pb.WebhookChannel(url=receiver.url))
    tested = await admin("TestNotificationChannel", tenant="acme", channel=made.channel.id)
    assert (tested.delivered, tested.result) == (False, "HTTP 500")
    dead = pb.NOTIFICATION_DELIVERY_STATE_DEAD
    [found] = (await admin("ListNotifications", tenant="acme", state=dead)).notifications
    assert (found.id, found.kind, found.position) == (
        tested.notification,
        pb.NOTIFICATION_KIND_TEST,
        2,
    )  # after its first policy
    [delivery] = found.deliveries
    assert (delivery.channel, delivery.attempts, delivery.last_error) == (made.channel.id, 1, "HTTP 500")
    receiver.answer = lambda _: status(200)
    again = await admin("ReplayNotification", tenant="acme", notification=found.id)
    assert again.notification.deliveries[0].state == pb.NOTIFICATION_DELIVERY_STATE_PENDING
    async with asyncio.timeout(20):
        while len(receiver.came) < 2:
            receiver.arrived.clear()
            await receiver.arrived.wait()
    assert receiver.ids == [found.id, found.id]


async def test_a_channel_and_a_notification_are_their_tenant_s_alone(admin: Admin, receiver: Receiver) -> None:
    await admin("CreateTenant", id="beta")
    made = await admin("CreateNotificationChannel", tenant="acme", webhook=pb.WebhookChannel(url=receiver.url))
    provider = await admin("CreateNotificationChannel", webhook=pb.WebhookChannel(url=receiver.url))
    tested = await admin("TestNotificationChannel", tenant="acme", channel=made.channel.id)
    for tenant in ("beta", ""):
        for method in ("Get", "Delete", "Update", "Test"):
            fields = {"etag": "*"} if method in ("Delete", "Update") else {}
            name = f"{method}NotificationChannel"
            refused = await admin.fail(name, tenant=tenant, channel=made.channel.id, **fields)
            assert refused.reason == "RESOURCE_NOT_FOUND", (tenant, method)
        refused = await admin.fail("ReplayNotification", tenant=tenant, notification=tested.notification)
        assert refused.reason == "RESOURCE_NOT_FOUND"
        assert not (await admin("ListNotifications", tenant=tenant)).notifications
    [listed] = (await admin("ListNotificationChannels")).channels
    assert listed == provider.channel
    assert len(receiver.came) == 1


async def test_pages_of_notifications(admin: Admin, receiver: Receiver) -> None:
    made = await admin("CreateNotificationChannel", tenant="acme", webhook=pb.WebhookChannel(url=receiver.url))
    sent = [
        (await admin("TestNotificationChannel", tenant="acme", channel=made.channel.id)).notification for _ in range(5)
    ]
    seen, token = [], ""
    while True:
        page = await admin(
            "ListNotifications", tenant="acme", page_size=2, page_token=token, kind=pb.NOTIFICATION_KIND_TEST
        )
        assert len(page.notifications) <= 2
        seen += [one.id for one in page.notifications]
        token = page.next_page_token
        if not token:
            break
    assert seen == sent[::-1]


REFUSED = {
    "https://10.1.2.3/": "webhook.url",
    "https://[::ffff:10.0.0.1]/": "webhook.url",
    "https://169.254.169.254/latest/meta-data": "webhook.url",
    "https://2130706433/": "webhook.url",
    "https://user:password@example.com/": "webhook.url",
    "http://hooks.example.com/": "webhook.url",
    "ftp://hooks.example.com/": "webhook.url",
}


@pytest.mark.parametrize("url", REFUSED)
async def test_where_nothing_may_be_sent_is_refused_at_once(admin: Admin, url: str) -> None:
    refused = await failure(admin("CreateNotificationChannel", tenant="acme", webhook=pb.WebhookChannel(url=url)))
    assert (refused.reason, set(refused.fields)) == ("INVALID_FIELD", {REFUSED[url]})
    assert "password" not in refused.message.replace("no password", "")


async def test_what_the_provider_does_not_offer_is_told(admin: Admin) -> None:
    mail = await failure(
        admin("CreateNotificationChannel", tenant="acme", email=pb.EmailChannel(recipients=["ops@example.com"]))
    )
    assert "[notifications.smtp]" in mail.message
    url = "slack://TokenA/TokenB/TokenC"
    apprise = await failure(admin("CreateNotificationChannel", tenant="acme", apprise=pb.AppriseChannel(url=url)))
    assert "provider allows" in apprise.message
    assert "TokenA" not in apprise.message
    injected = await failure(
        admin("CreateNotificationChannel", tenant="acme", email=pb.EmailChannel(recipients=["a@b.c\r\nBcc: x@y.z"]))
    )
    assert injected.reason == "INVALID_FIELD"
