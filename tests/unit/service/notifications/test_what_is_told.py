"""What happens is told as what it is: an outage never as a revocation, a recovery however it came, a sink once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from ownkey_server.domain.errors import EnrolmentFailed
from ownkey_server.domain.key_history import EvidenceKind, Sighting
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.notifications import NoticeKind, RetrySchedule, kind_of_transition
from ownkey_server.domain.tenants import Replica
from ownkey_server.storage import key_notices, key_states, outbox
from ownkey_server.storage.sink_notices import SinkNotices
from support.office import Office
from support.receiver import Receiver

from .conftest import Post

KEY = "tenants/acme/keys/main"
OF_STATE = {
    KeyState.REVOKED: NoticeKind.KEY_REVOKED,
    KeyState.UNREACHABLE: NoticeKind.KEY_UNREACHABLE,
    KeyState.MISCONFIGURED: NoticeKind.KEY_MISCONFIGURED,
}


@pytest.mark.parametrize(("before", "after"), list(product(KeyState, KeyState)))
def test_every_way_between_two_states_is_told_as_what_it_is(before: KeyState, after: KeyState) -> None:
    told = kind_of_transition(before, after)
    broken = before in OF_STATE
    if before is after or after is KeyState.UNKNOWN:
        assert told is None
    elif after in OF_STATE:
        assert told is OF_STATE[after]
    elif after is KeyState.DEGRADED:
        assert told is (NoticeKind.KEY_RECOVERED if broken else NoticeKind.REPLICA_DEGRADED)
    else:
        assert told is (NoticeKind.KEY_RECOVERED if broken or before is KeyState.DEGRADED else None)


class Keys:
    """Sightings of a key in two places, written as an instance does."""

    def __init__(self, post: Post) -> None:
        self._post = post

    def see(self, replica: str, state: KeyState, cause: str = "") -> None:
        self._post.clock.go(seconds=1)
        now = self._post.clock()
        revoked_at = now if state is KeyState.REVOKED else None
        with self._post.database.writing() as connection:
            known = key_states.newest(connection)
            sighting = Sighting(KEY, ("a", "b"), replica, state, cause, EvidenceKind.PROBE, now, now, known, revoked_at)
            key_states.record(connection, [sighting], [key_notices.tell])

    def told(self) -> list[tuple[str, str, str]]:
        found = reversed(self._post.told())
        return [(one.notice.kind.value, one.notice.replica, one.notice.cause) for one in found]


async def test_a_key_s_life_is_told_in_its_order(post: Post) -> None:
    keys = Keys(post)
    keys.see("a", KeyState.AVAILABLE)
    keys.see("b", KeyState.AVAILABLE)
    assert keys.told() == []
    keys.see("b", KeyState.UNREACHABLE, "a timeout")
    keys.see("a", KeyState.UNREACHABLE, "a timeout")
    keys.see("a", KeyState.UNREACHABLE, "a timeout")
    keys.see("a", KeyState.AVAILABLE)
    keys.see("b", KeyState.AVAILABLE)
    keys.see("a", KeyState.REVOKED, "disabled")
    keys.see("a", KeyState.AVAILABLE)
    assert [kind for kind, _, _ in keys.told()] == [
        "replica_degraded",
        "key_unreachable",
        "key_recovered",
        "key_recovered",
        "key_revoked",
        "key_recovered",
    ]
    assert keys.told()[0][1] == "b"
    assert [one.notice.position for one in post.told()] == [6, 5, 4, 3, 2, 1]
    assert {one.notice.key for one in post.told()} == {KEY}


async def test_one_of_a_thousand_sightings_is_one_notice_for_all_instances(post: Post) -> None:
    keys = Keys(post)
    keys.see("a", KeyState.AVAILABLE)
    for _ in range(20):
        keys.see("a", KeyState.REVOKED, "disabled")
    assert [kind for kind, _, _ in keys.told()] == ["key_revoked"]


async def test_a_sink_is_told_of_once_by_all_instances_and_once_more_when_it_works(post: Post) -> None:
    one, two = (SinkNotices(post.database, post.clock) for _ in range(2))

    def told() -> list[str]:
        return [each.notice.kind.value for each in reversed(post.told(""))]

    one.works()
    two.works()
    assert told() == []
    for _ in range(3):
        post.clock.go(minutes=1)
        one.failed("the bucket is not there")
        two.failed("the bucket is not there")
    assert told() == ["audit_sink_failing"]
    post.clock.go(minutes=1)
    one.works()
    two.works()
    assert told() == ["audit_sink_failing", "audit_sink_recovered"]
    post.clock.go(minutes=1)
    one.failed("again")
    # A new process finds the sink mended.
    post.clock.go(minutes=1)
    SinkNotices(post.database, post.clock).works()
    assert told() == ["audit_sink_failing", "audit_sink_recovered"] * 2


async def test_a_key_that_cannot_be_enrolled_is_told_and_the_caller_has_the_error(post: Post) -> None:
    with pytest.raises(EnrolmentFailed):
        await post.office.keys.enrol(Office.act, "acme", "main", Replica("one", "no-such-key"))
    [told] = post.told()
    assert (told.notice.kind, told.notice.key, told.notice.replica) == (NoticeKind.ENROLMENT_FAILED, KEY, "one")
    assert told.notice.data == {
        "operation": "enrol_key",
        "error": "ENROLMENT_FAILED",
        "author": "ann",
        "reason": "a test",
    }


async def test_with_a_tenant_its_channels_and_notices_go(post: Post, receiver: Receiver) -> None:
    await post.channel(receiver)
    await post.channel(receiver, "beta")
    post.put()
    post.put("beta")
    await post.office.tenants.delete(Office.act, "acme", "*")
    assert post.told() == []
    assert len(post.told("beta")) == 1
    with post.database.reading() as connection:
        assert [one.tenant for one in outbox.waiting(connection)] == ["beta"]


def test_a_cause_has_no_control_characters_and_an_end() -> None:
    notice = outbox.new_notice(
        "", NoticeKind.TEST, datetime(2026, 1, 1, tzinfo=UTC), cause="a\x00\x1b[31m\r\n" + "b" * 999
    )
    assert notice.cause.isprintable()
    assert len(notice.cause) == 500


async def test_what_is_too_long_is_left_out(post: Post) -> None:
    notice = post.put(data={"scope": ["user"] * 2000})
    assert notice.data == {"omitted": "it is longer than a notice may be: look it up"}


def test_waits_double_to_an_hour_and_half_of_each_is_by_chance() -> None:
    schedule = RetrySchedule()
    longest = [schedule.wait(attempts, 1.0).total_seconds() for attempts in range(1, 13)]
    assert longest == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
    assert schedule.wait(1, 0.0).total_seconds() == 2.5
    assert schedule.wait(10_000, 1.0) == timedelta(hours=1)
    assert schedule.wait(1, 1.0, at_least=timedelta(days=9)) == timedelta(hours=1)
