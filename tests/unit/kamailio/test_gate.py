from __future__ import annotations

from dataclasses import replace

import pytest

from ownkey import errors
from ownkey_kamailio import gate, settings
from ownkey_kamailio.facts import Facts
from ownkey_kamailio.gate import Gate
from ownkey_kamailio.service import Answer
from ownkey_kamailio.settings import Calls, Emergency, NoAnswer, Service, Settings, Tenants
from ownkey_kamailio.workers import PATIENCE_SECONDS, Workers

CALL = Facts("acme", "call-1", "sip:+15551234567@acme.example", stores=("phone_recording",))
ALLOW = Answer("allow", "key_available", 0, 1005.0)
FORBID = Answer("refuse", "key_revoked", 403, 1005.0)
OUTAGE = Answer("refuse", "key_unreachable", 503, 1005.0)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Ownkey:
    """Answers, or raises, what it was told last."""

    def __init__(self) -> None:
        self.says: Answer | Exception | dict[str, Answer] = ALLOW
        self.asked: list[Facts] = []
        self.connected = 0

    def ask(self, facts: Facts, timeout: float) -> Answer:
        assert timeout > 0
        self.asked.append(facts)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says[facts.tenant] if isinstance(self.says, dict) else self.says

    def connect(self) -> None:
        self.connected += 1


class Lab:
    """A gate with everything around it."""

    def __init__(self, **no_answer: object) -> None:
        self.clock, self.ownkey, self.lines = Clock(), Ownkey(), list[str]()
        loaded = Settings(Service(), NoAnswer(**no_answer), Tenants(), Calls(), Emergency())  # type: ignore[arg-type]
        self.workers = Workers(6, loaded.no_answer.failures, loaded.no_answer.pause, self.clock, self.clock.sleep)
        for rank in (2, 3, 1):
            self.workers.enter(rank)
        self.gate = Gate(loaded, self.ownkey, self.workers, monotonic=self.clock, now=self.clock, log=self.lines.append)

    def decide(self, *calls: Facts) -> gate.Decision:
        return self.gate.decide(calls or (CALL,))


AWAY = errors.ServiceUnavailable("nobody there")


@pytest.mark.parametrize(
    ("answer", "decision", "status", "retry_after"),
    [
        (ALLOW, "allow", 0, 0),
        (Answer("allow_no_recording", "key_revoked", 0, 1005.0), "allow_no_recording", 0, 0),
        (FORBID, "refuse", 403, 0),
        (OUTAGE, "refuse", 503, 10),
        (replace(OUTAGE, retry_after=30), "refuse", 503, 30),
    ],
)
def test_what_ownkey_says_is_done(answer: Answer, decision: str, status: int, retry_after: int) -> None:
    lab = Lab(behaviour="allow")
    lab.ownkey.says = answer
    done = lab.decide()
    assert (done.decision, done.status, done.retry_after) == (decision, status, retry_after)


@pytest.mark.parametrize("behaviour", settings.BEHAVIOURS)
@pytest.mark.parametrize(
    "error",
    [AWAY, errors.ServiceImpaired("x"), errors.TooMuch("x"), errors.ServiceFailed("x"), errors.OwnkeyError("x")],
)
def test_without_an_answer_the_chosen_behaviour_holds(behaviour: str, error: Exception) -> None:
    lab = Lab(behaviour=behaviour)
    lab.ownkey.says = error
    done = lab.decide()
    assert done.decision == behaviour
    assert done.status == (503 if behaviour == "refuse" else 0)


@pytest.mark.parametrize(
    "error",
    [errors.InvalidRequest("x"), errors.NotFound("x"), errors.NotAuthenticated("x"), errors.PermissionDenied("x")],
)
def test_a_no_about_the_request_or_about_us_is_no_outage_that_lets_calls_through(error: Exception) -> None:
    lab = Lab(behaviour="allow")
    lab.decide()
    lab.ownkey.says = error
    for _ in range(10):
        assert lab.decide().status == 503
    # Nor does it stop the asking.
    assert len(lab.ownkey.asked) == 11


def test_the_last_answer_is_used_for_the_same_facts_until_it_ends() -> None:
    lab = Lab()
    lab.decide()
    lab.ownkey.says = AWAY
    assert lab.decide(replace(CALL, call_id="another")).decision == "allow"
    for other in (
        replace(CALL, tenant="globex"),
        replace(CALL, callee="sip:1@x"),
        replace(CALL, caller="sip:a@x"),
        replace(CALL, stores=("phone_voicemail",)),
        replace(CALL, direction="inbound"),
        replace(CALL, queue="support"),
        replace(CALL, user="ann"),
        replace(CALL, group="sales"),
        replace(CALL, site="berlin"),
    ):
        lab.workers.answered()
        assert lab.decide(other).status == 503
    lab.clock.now += 4.9
    assert lab.decide().decision == "allow"
    lab.clock.now += 0.2
    assert lab.decide().status == 503


def test_a_refusal_is_the_last_answer_too_whatever_the_behaviour() -> None:
    lab = Lab(behaviour="allow")
    lab.ownkey.says = FORBID
    lab.decide()
    lab.ownkey.says = AWAY
    assert lab.decide().status == 403
    lab.clock.now += 6
    assert lab.decide().decision == "allow"


def test_the_last_answer_is_never_used_for_longer_than_the_settings_say() -> None:
    lab = Lab(last_answer=2.0)
    lab.decide()
    lab.ownkey.says = AWAY
    lab.clock.now += 2.1
    assert lab.decide().status == 503
    lab = Lab(last_answer=0.0)
    lab.decide()
    lab.ownkey.says = AWAY
    assert lab.decide().status == 503


def test_an_answer_that_had_ended_when_it_came_is_not_kept() -> None:
    lab = Lab()
    lab.ownkey.says = replace(ALLOW, valid_until=999.0)
    lab.decide()
    lab.ownkey.says = AWAY
    assert lab.decide().status == 503


@pytest.mark.parametrize(
    ("answers", "decision", "status"),
    [
        ({"acme": ALLOW, "globex": ALLOW}, "allow", 0),
        ({"acme": ALLOW, "globex": FORBID}, "refuse", 403),
        ({"acme": OUTAGE, "globex": FORBID}, "refuse", 403),
        ({"acme": FORBID, "globex": OUTAGE}, "refuse", 403),
        ({"acme": ALLOW, "globex": Answer("allow_no_recording", "x", 0, 0)}, "allow_no_recording", 0),
    ],
)
def test_of_several_tenants_the_strictest_answer_counts(answers: dict[str, Answer], decision: str, status: int) -> None:
    lab = Lab()
    lab.ownkey.says = answers
    done = lab.decide(CALL, replace(CALL, tenant="globex"))
    assert (done.decision, done.status) == (decision, status)


def test_after_some_calls_without_an_answer_nobody_asks_for_a_while_and_then_one() -> None:
    lab = Lab(failures=3, pause=1.0)
    lab.ownkey.says = AWAY
    for _ in range(10):
        assert lab.decide().status == 503
    assert len(lab.ownkey.asked) == 3
    assert lab.ownkey.connected == 1
    lab.clock.now += 1.1
    with lab.workers.waiting() as may:
        assert may
    lab.decide()
    lab.decide()
    assert len(lab.ownkey.asked) == 4
    lab.clock.now += 1.1
    lab.ownkey.says = ALLOW
    assert lab.decide().decision == "allow"
    assert lab.decide().decision == "allow"
    assert len(lab.ownkey.asked) == 6
    # Told once when it begins, and once when it ends.
    assert len(lab.lines) == 2


def test_what_a_trusted_machine_says_is_stored_must_be_a_class() -> None:
    lab = Lab(behaviour="allow")
    assert lab.decide(replace(CALL, stores=("phone_recoding",))).status == 503
    assert lab.ownkey.asked == []


def test_memory_of_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "REMEMBERED", 3)
    lab = Lab()
    for number in range(10):
        lab.decide(replace(CALL, callee=f"sip:{number}@x"))
    assert len(lab.gate._answers) == 3


def test_so_many_workers_wait_at_once_and_one_is_always_left() -> None:
    for at_once, workers, expected in ((6, 8, 6), (6, 4, 3), (1, 8, 1), (6, 2, 1), (6, 1, 1), (100, 8, 7)):
        clock = Clock()
        shared = Workers(at_once, 3, 1.0, clock, clock.sleep)
        for rank in range(1, workers + 1):
            shared.enter(rank)
        waiting = []
        for rank in range(1, workers + 1):
            shared._place = rank
            turn = shared.waiting()
            waiting.append(turn.__enter__())
            if not waiting[-1]:
                turn.__exit__(None, None, None)
        assert sum(waiting) == expected, (at_once, workers)


def test_a_call_waits_for_its_turn_and_not_long() -> None:
    clock = Clock()
    shared = Workers(1, 3, 1.0, clock, clock.sleep)
    shared.enter(1)
    shared.enter(2)
    with shared.waiting() as first:
        assert first
        shared._place = 1
        with shared.waiting() as second:
            assert not second
        assert PATIENCE_SECONDS <= clock.now - 1000 < 2 * PATIENCE_SECONDS
        # Not at all once ownkey has failed to answer.
        shared.did_not_answer()
        before = clock.now
        with shared.waiting() as third:
            assert not third
        assert clock.now == before
