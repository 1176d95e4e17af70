"""What a watch of calls tells and asks, without a network: streams come and go, and nothing is lost or told twice."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey import errors
from ownkey._call_watching import CallWatching
from ownkey.models import WatchedCall
from ownkey.v1 import call_watch_pb2 as pb

ACTIONS = {
    "continue": pb.CALL_ACTION_CONTINUE,
    "stop_recording": pb.CALL_ACTION_STOP_RECORDING,
    "end": pb.CALL_ACTION_END,
}
IDS = [f"call-{number}" for number in range(4)]


class Service:
    """What the contract says that a stream does."""

    def __init__(self, decisions: dict[str, str]) -> None:
        self.decisions = decisions
        self._said: dict[str, int] = {}

    def take(self, request: pb.WatchCallsRequest) -> pb.WatchCallsResponse:
        for call_id in request.ended:
            self._said.pop(call_id, None)
        for call in request.add:
            self._said.setdefault(call.call_id, call.last_action or pb.CALL_ACTION_CONTINUE)
        return self.look()

    def look(self) -> pb.WatchCallsResponse:
        answer = pb.WatchCallsResponse(calls=len(self._said))
        for call_id, said in self._said.items():
            action = ACTIONS[self.decisions.get(call_id, "continue")]
            if action != said:
                self._said[call_id] = action
                answer.changes.add(call_id=call_id, action=action)
        return answer


STEPS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(IDS)),
    st.tuples(st.just("ended"), st.sampled_from(IDS)),
    st.tuples(st.just("decide"), st.tuples(st.sampled_from(IDS), st.sampled_from(sorted(ACTIONS)))),
    st.tuples(st.sampled_from(["talk", "look", "lose an answer", "break"]), st.none()),
)


@given(st.lists(STEPS, max_size=40))
def test_whatever_breaks_each_call_is_told_what_is_to_be_done_with_it_and_once(steps: list[tuple[str, object]]) -> None:
    decisions: dict[str, str] = {}
    service, watching = Service(decisions), CallWatching("acme", "")
    watching.begin()
    alive: dict[str, str] = {}

    def hear(answer: pb.WatchCallsResponse) -> None:
        for event in watching.events(answer):
            if event.change:
                assert alive[event.change.call_id] != event.change.action, "told twice"
                alive[event.change.call_id] = event.change.action

    def talk() -> None:
        while (request := watching.request()) is not None:
            hear(service.take(request))

    def reconnect() -> None:
        nonlocal service
        watching.failed(errors.ServiceUnavailable("gone"))
        service = Service(decisions)
        watching.begin()

    for step, what in steps:
        match step, what:
            case "add", str(call_id):
                watching.add([WatchedCall(call_id, "+15550100", stores=("phone_recording",))])
                alive.setdefault(call_id, "continue")
            case "ended", str(call_id):
                watching.ended([call_id])
                alive.pop(call_id, None)
            case "decide", (str(call_id), str(decision)):
                decisions[call_id] = decision
            case "talk", _:
                talk()
            case "look", _:
                hear(service.look())
            case "lose an answer", _:
                request = watching.request()
                if request is not None:
                    service.take(request)
                    reconnect()
            case "break", _:
                reconnect()
    talk()
    hear(service.look())
    assert alive == {call_id: decisions.get(call_id, "continue") for call_id in alive}
    assert len(watching) == len(alive)


def test_many_calls_are_told_in_messages_that_the_contract_allows() -> None:
    watching = CallWatching("acme", "req")
    watching.begin()
    watching.add(WatchedCall(f"call-{number}", "+" * 512, site="s" * 256) for number in range(1000))
    sent = []
    while (request := watching.request()) is not None:
        assert len(request.add) <= 200
        assert request.ByteSize() < 768 * 1024
        assert (request.tenant, request.request_id) == ("acme", "req")
        sent += [call.call_id for call in request.add]
    assert sent == [f"call-{number}" for number in range(1000)]
    watching.ended(f"call-{number}" for number in range(500))
    watching.add([WatchedCall("call-0", "+1")])
    order: list[str] = []
    while (request := watching.request()) is not None:
        order += [f"-{call_id}" for call_id in request.ended] + [f"+{call.call_id}" for call in request.add]
    assert order[-1] == "+call-0"
    assert len(order) == 501


def test_a_stream_is_opened_without_calls_too() -> None:
    watching = CallWatching("acme", "")
    watching.begin()
    first = watching.request()
    assert first is not None
    assert first.tenant == "acme"
    assert watching.request() is None


def test_an_action_that_this_version_does_not_know_records_nothing() -> None:
    watching = CallWatching("acme", "")
    watching.begin()
    watching.add([WatchedCall("1", "+1")])
    watching.request()
    answer = pb.WatchCallsResponse(calls=1)
    answer.changes.add(call_id="1", action=99)  # type: ignore[arg-type]
    (_, event) = watching.events(answer)
    assert event.change is not None
    assert event.change.action == "stop_recording"


def test_pauses_grow_and_a_word_of_the_service_makes_them_short_again() -> None:
    watching = CallWatching("acme", "", random.Random(1).random)
    gone = errors.ServiceUnavailable("gone")
    pauses = [watching.failed(gone)[1] for _ in range(8)]
    assert 0.05 <= pauses[0] <= 0.1
    assert 2.5 <= pauses[-1] <= 5
    watching.begin()
    watching.events(pb.WatchCallsResponse())
    assert watching.failed(gone)[1] <= 0.1
    with pytest.raises(errors.NotFound):
        watching.failed(errors.NotFound("no such tenant"))
