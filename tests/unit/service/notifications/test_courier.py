"""Notices come at least once, in the order of their key, whatever becomes of receivers and of whoever delivers."""

from __future__ import annotations

import asyncio
import json

import pytest
import standardwebhooks

from ownkey import webhooks
from ownkey_server.domain.errors import ResourceInUse
from ownkey_server.domain.notifications import DeliveryState, NoticeKind
from ownkey_server.service.administration.notifications import Edit
from ownkey_server.storage import outbox
from ownkey_server.storage.registry import Change
from support.office import Office
from support.receiver import HANG, OK, Receiver, status

from .conftest import Post

KEY = "tenants/acme/keys/main"


async def test_a_notice_comes_once_and_an_independent_library_believes_it(post: Post, receiver: Receiver) -> None:
    _, secret = await post.channel(receiver)
    notice = post.put(key=KEY, cause="disabled", data={"state": "revoked"})
    courier = post.courier()
    assert await post.deliver(courier) is None
    [came] = receiver.came
    standardwebhooks.Webhook(secret).verify(came.body, came.headers)
    assert webhooks.verify(secret, came.headers, came.body) == {
        "type": "key_revoked",
        "timestamp": "2026-11-28T00:00:00.000000Z",
        "data": {
            "schema": "ownkey.notification.v1",
            "id": notice.id,
            "tenant": "acme",
            "position": 1,
            "cause": "disabled",
            "key": KEY,
            "details": {"state": "revoked"},
        },
    }
    assert came.line == "POST /hook HTTP/1.1"
    assert post.delivery(notice).state is DeliveryState.DELIVERED
    await post.deliver(courier)
    assert len(receiver.came) == 1


async def test_500_for_two_minutes_loses_nothing_and_changes_no_order(post: Post, receiver: Receiver) -> None:
    await post.channel(receiver)
    receiver.answer = lambda _: status(500)
    courier = post.courier()
    began = post.clock()
    notices = [post.put(key=KEY) for _ in range(3)]
    while (post.clock() - began).total_seconds() < 120:
        due = await post.deliver(courier)
        assert due is not None
        assert due > post.clock()
        post.clock.now = due
    # Only the first was tried: the others wait behind it.
    assert set(receiver.ids) == {notices[0].id}
    # 5, 10, 20, 40 s and then a minute.
    assert len(receiver.ids) == 5
    failed = post.delivery(notices[0])
    assert (failed.state, failed.last_error) == (DeliveryState.PENDING, "HTTP 500")
    receiver.answer = lambda _: OK
    receiver.came.clear()
    await post.deliver(courier)
    assert receiver.ids == [one.id for one in notices]
    assert [one.told["data"]["position"] for one in receiver.came] == [1, 2, 3]


async def test_a_key_that_fails_holds_up_its_own_notices_alone(post: Post, receiver: Receiver) -> None:
    await post.channel(receiver)
    receiver.answer = lambda came: status(500) if came.told["data"]["key"] == KEY else OK
    courier = post.courier()
    stuck = [post.put(key=KEY) for _ in range(2)]
    free = [post.put(key=f"{KEY}-{number}") for number in range(6)]
    while any(post.delivery(one).state is not DeliveryState.DELIVERED for one in free):
        due = await post.deliver(courier)
        post.clock.now = due or post.clock.now
    assert {post.delivery(one).state for one in stuck} == {DeliveryState.PENDING}
    assert stuck[1].id not in receiver.ids


async def test_a_receiver_may_ask_for_time(post: Post, receiver: Receiver) -> None:
    await post.channel(receiver)
    receiver.answer = lambda _: status(503, "Retry-After: 45")
    post.put()
    due = await post.deliver(post.courier())
    assert due is not None
    assert (due - post.clock()).total_seconds() == 45


async def test_what_is_too_old_is_dead_and_is_told_and_can_be_replayed_by_the_same_id(
    post: Post, receiver: Receiver
) -> None:
    channel, _ = await post.channel(receiver)
    receiver.answer = lambda _: status(410)
    courier = post.courier()
    notice = post.put(key=KEY)
    last = post.put(key=KEY)
    await post.deliver(courier)
    post.clock.go(hours=2)
    await post.deliver(courier)
    assert post.delivery(notice).state is DeliveryState.DEAD
    # Each is tried once at least, however old.
    assert post.delivery(last).state is DeliveryState.DEAD
    assert [one.notice.id for one in post.told(state=DeliveryState.DEAD)] == [
        one.id for one in sorted((notice, last), key=lambda one: one.id, reverse=True)
    ]
    receiver.answer, receiver.came = (lambda _: OK), []
    office = post.notifications(courier)
    await office.replay(Office.act, "acme", notice.id, "")
    with pytest.raises(ResourceInUse):
        await office.replay(Office.act, "acme", notice.id, "")
    await post.deliver(courier)
    assert receiver.ids == [notice.id]
    await office.replay(Office.act, "acme", notice.id, channel)
    await post.deliver(courier)
    assert receiver.ids == [notice.id, notice.id]


async def test_a_tenant_whose_receiver_hangs_delays_no_other(post: Post, receiver: Receiver, other: Receiver) -> None:
    receiver.answer = lambda _: HANG
    for _ in range(3):
        await post.channel(receiver, "beta")
    await post.channel(other, "acme")
    courier = post.courier(at_once=4)
    for number in range(8):
        post.put("beta", key=f"tenants/beta/keys/{number}")
    mine = [post.put("acme", key=KEY) for _ in range(20)]
    await courier.round()
    # All of them come while the others' first attempts still hang: those end with the test alone.
    async with asyncio.timeout(post.attempt - 0.5):
        while len(other.came) < len(mine):
            other.arrived.clear()
            await other.arrived.wait()
    assert other.ids == [one.id for one in mine]
    assert receiver.connections
    await courier.close()


async def test_of_two_instances_one_delivers_and_the_other_takes_over_when_it_dies(
    post: Post, receiver: Receiver
) -> None:
    await post.channel(receiver)
    receiver.answer = lambda _: HANG
    first, second = post.courier("one"), post.courier("two")
    notice = post.put(key=KEY)
    await first.round()
    await receiver.arrived.wait()
    again = await second.round()
    assert not second.busy
    assert again is not None
    assert 30 <= (again - post.clock()).total_seconds() <= 31
    # The first dies: as after kill -9, it settles nothing and lets go of nothing.
    for task in first.busy.values():
        task.cancel()
    await asyncio.gather(*first.busy.values(), return_exceptions=True)
    receiver.answer = lambda _: OK
    await second.round()
    assert not second.busy
    post.clock.now = again
    await post.deliver(second)
    assert receiver.ids == [notice.id, notice.id]
    assert post.delivery(notice).state is DeliveryState.DELIVERED


async def test_two_instances_at_once_deliver_each_notice_once(post: Post, receiver: Receiver) -> None:
    for _ in range(3):
        await post.channel(receiver)
    notices = [post.put(key=f"{KEY}-{number % 5}") for number in range(20)]
    couriers = [post.courier(name) for name in ("one", "two")]
    while any(one.state is DeliveryState.PENDING for told in post.told() for one in told.deliveries):
        await asyncio.gather(*(one.round() for one in couriers))
        await asyncio.gather(*(one.settled() for one in couriers))
    assert sorted(receiver.ids) == sorted([one.id for one in notices] * 3)


async def test_a_notice_is_there_exactly_when_what_it_tells_is(post: Post, receiver: Receiver) -> None:
    await post.channel(receiver)

    class Undone(Exception):
        pass

    def change() -> None:
        with post.database.writing() as connection:
            Change(connection, post.clock()).touch("acme")
            outbox.put(connection, outbox.new_notice("acme", NoticeKind.POLICY_CHANGED, post.clock()))
            raise Undone

    with pytest.raises(Undone):
        change()
    assert post.told() == []
    assert post.put().position == 1


async def test_what_is_told_once_is_told_once(post: Post) -> None:
    notice = post.put(kind=NoticeKind.KEY_MATERIAL_EXPIRING, once="expiry/7")
    with post.database.writing() as connection:
        same = outbox.new_notice("acme", NoticeKind.KEY_MATERIAL_EXPIRING, post.clock(), once="expiry/7")
        assert outbox.put(connection, same) is None
    assert [one.notice.id for one in post.told()] == [notice.id]
    assert post.put("beta", once="expiry/7")


async def test_a_channel_is_told_what_it_asks_for_of_its_own_tenant_and_nothing_while_it_is_off(
    post: Post, receiver: Receiver, other: Receiver
) -> None:
    channel, _ = await post.channel(receiver, kinds=frozenset({NoticeKind.POLICY_CHANGED}))
    await post.channel(other, "beta")
    courier = post.courier()
    office = post.notifications(courier)
    post.put()
    wanted = post.put(kind=NoticeKind.POLICY_CHANGED)
    await office.update(Office.act, "acme", channel, "*", Edit(enabled=False))
    await post.deliver(courier)
    assert receiver.came == []
    post.put(kind=NoticeKind.POLICY_CHANGED)
    await office.update(Office.act, "acme", channel, "*", Edit(enabled=True))
    await post.deliver(courier)
    assert receiver.ids == [wanted.id]
    assert other.came == []


async def test_while_a_secret_is_rotated_both_sign(post: Post, receiver: Receiver) -> None:
    channel, former = await post.channel(receiver)
    courier = post.courier()
    office = post.notifications(courier)
    changed, secret = await office.update(Office.act, "acme", channel, "*", Edit(rotate=True))
    assert changed.former_until is not None
    post.put()
    await post.deliver(courier)
    [came] = receiver.came
    for one in (former, secret):
        standardwebhooks.Webhook(one).verify(came.body, came.headers)
    # The overlap is over.
    post.clock.now = changed.former_until
    post.put()
    await post.deliver(courier)
    came = receiver.came[-1]
    standardwebhooks.Webhook(secret).verify(came.body, came.headers)
    with pytest.raises(webhooks.WebhookInvalid):
        webhooks.verify(former, came.headers, came.body)


async def test_secrets_are_in_no_record_no_log_and_no_row(
    post: Post, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    channel, secret = await post.channel(receiver)
    courier = post.courier()
    office = post.notifications(courier)
    receiver.answer = lambda _: status(500, body=secret.encode())
    notice = post.put()
    await post.deliver(courier)
    raw = secret.removeprefix("whsec_")
    with post.database.reading() as connection:
        rows = repr(connection.exec_driver_sql("SELECT * FROM notification_channels").all())
    said = "".join(one.to_bytes().decode() for one in [*post.office.trail.records, *post.office.refusals.records])
    shown = repr(await office.get("acme", channel)) + repr(courier.__dict__) + repr(post.delivery(notice))
    for text in (rows, said, shown, caplog.text):
        assert raw not in text
    # The path of a URL may be a secret too.
    assert "/hook" not in said + caplog.text


async def test_a_secret_that_was_changed_in_the_database_signs_nothing(post: Post, receiver: Receiver) -> None:
    first, _ = await post.channel(receiver)
    second, _ = await post.channel(receiver)
    with post.database.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE notification_channels SET secret = (SELECT o.secret FROM notification_channels o"
            f" WHERE o.id = '{first}') WHERE id = '{second}'"
        )
    post.put()
    await post.deliver(post.courier())
    assert len(receiver.came) == 1
    [told] = post.told()
    errors = {one.channel: one.last_error for one in told.deliveries}
    assert "cannot be opened" in errors[second]


async def test_old_notices_go_and_pending_ones_stay(post: Post, receiver: Receiver) -> None:
    await post.channel(receiver)
    receiver.answer = lambda came: OK if came.told["data"].get("key") else status(500)
    post.put(key=KEY)
    pending = post.put()
    courier = post.courier()
    await post.deliver(courier)
    post.clock.go(days=31)
    with post.database.writing() as connection:
        assert outbox.prune(connection, post.clock()) == 1
    assert [one.notice.id for one in post.told()] == [pending.id]
    # Positions go on from where they were.
    assert post.put(key=KEY).position == 2


async def test_a_test_tells_what_happened_and_is_not_repeated(post: Post, receiver: Receiver) -> None:
    channel, _ = await post.channel(receiver, kinds=frozenset({NoticeKind.POLICY_CHANGED}))
    courier = post.courier()
    office = post.notifications(courier)
    good = await office.test(Office.act, "acme", channel)
    assert (good.attempt.taken, good.attempt.told) == (True, "HTTP 204")
    receiver.answer = lambda _: status(302, "Location: http://127.0.0.1/")
    bad = await office.test(Office.act, "acme", channel)
    assert not bad.attempt.taken
    assert "redirects are not followed" in bad.attempt.told
    post.clock.go(days=1)
    await post.deliver(courier)
    assert receiver.ids == [good.notice, bad.notice]
    assert [json.loads(one.body)["type"] for one in receiver.came] == ["test", "test"]


async def test_nothing_is_asked_of_the_database_while_nothing_waits(post: Post, receiver: Receiver) -> None:
    await post.channel(receiver)
    courier = post.courier()
    rounds = 0
    real = courier.round

    async def counted() -> object:
        nonlocal rounds
        rounds += 1
        return await real()

    courier.round = counted  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(courier.run())
    notice = post.put()
    courier.changed(1)
    await receiver.arrived.wait()
    while post.delivery(notice).state is DeliveryState.PENDING or courier.busy:
        await asyncio.sleep(0.01)
    for _ in range(20):
        await asyncio.sleep(0)
    quiet = rounds
    courier.changed(1)  # the feed's word that nothing moved, as it comes four times a second
    for _ in range(20):
        await asyncio.sleep(0)
    assert rounds <= quiet + 1
    running.cancel()


async def test_a_flood_waits_for_its_own_channel_alone_and_what_is_beyond_can_be_replayed(
    post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_WAITING", 3)
    channel, _ = await post.channel(receiver)
    receiver.answer = lambda _: status(500)
    notices = [post.put(key=KEY) for _ in range(5)]
    states = [post.delivery(one).state for one in notices]
    assert states == [DeliveryState.PENDING] * 3 + [DeliveryState.DEAD] * 2
    assert post.delivery(notices[4]).last_error == outbox.MANY
    courier = post.courier()
    receiver.answer = lambda _: OK
    await post.deliver(courier)
    assert receiver.ids == [one.id for one in notices[:3]]
    await post.notifications(courier).replay(Office.act, "acme", notices[4].id, channel)
    await post.deliver(courier)
    assert receiver.ids[3:] == [notices[4].id]
    assert post.delivery(post.put(key=KEY)).state is DeliveryState.PENDING


async def test_however_many_notices_are_too_old_all_of_them_go(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PRUNED", 2)
    monkeypatch.setattr(outbox.prune, "__defaults__", (2,))
    for _ in range(5):
        post.put(key=KEY)
    post.clock.go(days=31)
    courier = post.courier()
    for left in (3, 1, 0, 0):
        await courier.round()
        assert len(post.told()) == left
