"""What the messages of WatchCallGate mean."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import Message

from ownkey.gate import Choices, Gate, KeySight, Numbers, Rule
from ownkey.gate.rules import DEFAULT
from ownkey.gate.view import PolicyLine, Revocation, View
from ownkey.models import ASSET_CLASSES
from ownkey.v1 import call_pb2, call_watch_pb2, key_state_pb2

_CLASS_NAMES: dict[int, str] = {number: name for name, number in ASSET_CLASSES.items()}


def _names(values: Iterable[tuple[str, int]], prefix: str) -> dict[int, str]:
    return {number: name.removeprefix(prefix).lower() for name, number in values}


_MODES = _names(call_pb2.CallGateMode.items(), "CALL_GATE_MODE_")
_DIRECTIONS = _names(call_pb2.CallDirection.items(), "CALL_DIRECTION_")
_STATES = _names(key_state_pb2.KeyState.items(), "KEY_STATE_")


def keys(messages: Iterable[call_watch_pb2.CallGateKey]) -> dict[str, KeySight]:
    """What is known of keys, by name. A state that this version does not know counts as unknown."""
    return {
        one.key: KeySight(
            one.key,
            _STATES.get(one.state) or "unknown",
            one.cause,
            _seconds(one, "evidence_age"),
            _seconds(one, "worked"),
            one.taken_away,
        )
        for one in messages
    }


def view(message: call_watch_pb2.CallGateView) -> View:
    """The view that a message holds."""
    told = message.gate
    rules = [_rule(one) for one in told.rules]
    let_through = frozenset(_DIRECTIONS[one] for one in call_pb2.CallDirection.values() if one) - _directions(told)
    if let_through:
        rules.append(Rule(DEFAULT, Choices(), directions=let_through))
    rules.append(Rule(DEFAULT, _choices(told)))
    return View(
        Gate(tuple(rules), tuple(told.countries), tuple(told.outside_line_prefixes)),
        tuple(
            PolicyLine(one.rule, one.key, _classes(one.asset_classes), frozenset(one.users), frozenset(one.groups))
            for one in message.policy
        ),
        tuple(
            Revocation(
                one.explanation,
                frozenset(one.keys),
                frozenset(one.groups),
                frozenset(one.users),
                _classes(one.asset_classes),
                frozenset(one.call_ids),
                frozenset(one.queues),
            )
            for one in message.revocations
        ),
        frozenset(message.groups),
        {one.user: frozenset(one.groups) for one in message.members},
        frozenset(told.emergency_numbers),
        message.retry_after.ToTimedelta().total_seconds(),
    )


def _rule(one: call_pb2.CallGateRule) -> Rule:
    return Rule(
        one.name,
        _choices(one),
        sites=frozenset(one.sites),
        queues=frozenset(one.queues),
        callers=Numbers.of(one.callers),
        callees=Numbers.of(one.callees),
        directions=_directions(one),
        groups=frozenset(one.groups),
        stores=_classes(one.stores),
    )


def _choices(told: call_pb2.CallGate | call_pb2.CallGateRule) -> Choices:
    def of(number: int) -> str:
        # What this version does not know is no leave.
        return _MODES.get(number or told.mode, "refuse")

    choices = told.choices
    return Choices(
        of(choices.revoked),
        of(choices.unreachable),
        of(choices.unknown),
        of(choices.misconfigured),
        float(told.grace_seconds),
    )


def _directions(told: call_pb2.CallGate | call_pb2.CallGateRule) -> frozenset[str]:
    return frozenset(_DIRECTIONS.get(one, "?") for one in told.directions)


def _classes(numbers: Iterable[int]) -> frozenset[str]:
    return frozenset(_CLASS_NAMES.get(one, "?") for one in numbers)


def _seconds(holder: Message, name: str) -> float | None:
    span: float = getattr(holder, name).ToTimedelta().total_seconds()
    return span if holder.HasField(name) else None
