"""WatchCallGate and WatchCalls: what gates and gateways beside the callers are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from ownkey.gate.rules import KeySight
from ownkey.v1 import asset_pb2, call_pb2, call_watch_pb2
from ownkey_server.domain.assets import AssetClass
from ownkey_server.domain.call_gates import CallGate, Choices
from ownkey_server.domain.key_state import KeyState
from ownkey_server.rpc import convert, gate_convert
from ownkey_server.rpc.calls import Call
from ownkey_server.rpc.dispatch import Watch
from ownkey_server.rpc.errors import StreamProtocolError
from ownkey_server.rpc.stream_guard import StreamTooMuch
from ownkey_server.service import call_gate
from ownkey_server.service.call_gate import CallAnswer, CallDecision
from ownkey_server.service.gate_views import GateView, GateViews
from ownkey_server.service.watched_calls import CallWatch, TooManyCalls, WatchedCalls
from ownkey_server.storage.gate_documents import STATES

# What changes by the passing of time alone is looked for so often; what happens within GATHER is looked at together.
ROUND_SECONDS = 1.0
GATHER_SECONDS = 0.02
TOLD_TOGETHER = 500
ACTIONS = {
    CallDecision.ALLOW: call_watch_pb2.CALL_ACTION_CONTINUE,
    CallDecision.ALLOW_NO_RECORDING: call_watch_pb2.CALL_ACTION_STOP_RECORDING,
    CallDecision.REFUSE: call_watch_pb2.CALL_ACTION_END,
}
_DECISIONS = {action: decision for decision, action in ACTIONS.items()}
_CLASS_NUMBERS = {one: asset_pb2.AssetClass.Value(f"ASSET_CLASS_{one.name}") for one in AssetClass}


class CallWatchServicer:
    """Each method takes a request that was let in (``dispatch.py``), and writes until nobody listens any more.

    Args:
        heartbeat: Seconds between two messages at most.
        retry_after: When a caller who was refused for an outage may try again.
    """

    def __init__(self, views: GateViews, calls: WatchedCalls, heartbeat: float, retry_after: timedelta) -> None:
        self._views = views
        self._calls = calls
        self._heartbeat = heartbeat
        self._retry_after = retry_after

    async def WatchCallGate(self, request: call_watch_pb2.WatchCallGateRequest, watch: Watch, _call: Call) -> None:
        """Tell what decides about a tenant's calls, and every change of it."""
        loop = asyncio.get_running_loop()
        last: GateView | None = None
        told: object = None
        at = float("-inf")
        with self._views.listening(request.tenant) as news:
            while not self._views.closed:
                news.clear()
                view, keys = await self._views.of(request.tenant)
                present = (view, [(key.state, key.cause, key.taken) for key in keys])
                due = loop.time() - at >= self._heartbeat
                if due or present != told:
                    if due and last is not None:
                        await watch.still_may()
                    message = call_watch_pb2.WatchCallGateResponse(keys=[_key(key) for key in keys])
                    if view != last:
                        message.view.CopyFrom(_view(view, self._retry_after))
                    await watch.write(message.SerializeToString())
                    last, told, at = view, present, loop.time()
                await _news(news, min(ROUND_SECONDS, self._heartbeat))

    async def WatchCalls(self, request: call_watch_pb2.WatchCallsRequest, watch: Watch, call: Call) -> None:
        """Tell what becomes of calls that are under way."""
        tenant, loop = request.tenant, asyncio.get_running_loop()
        pulse = await self._views.pulse(tenant)
        reading = loop.create_task(watch.next_request())
        try:
            with (
                self._views.listening(tenant) as news,
                self._calls.watching(tenant, call.caller(request.request_id)) as calls,
            ):
                await self._take(request, calls, watch)
                at = loop.time()
                while not self._views.closed:
                    waiting = loop.create_task(_news(news, ROUND_SECONDS))
                    await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
                    if reading.done():
                        following = reading.result()
                        if following is None:
                            return
                        if following.tenant != tenant:
                            raise StreamProtocolError("a stream is about the calls of one tenant")
                        reading = loop.create_task(watch.next_request())
                        await self._take(following, calls, watch)
                        at = loop.time()
                    news.clear()
                    before, pulse = pulse, await self._views.pulse(tenant)
                    if pulse != before or calls.graced:
                        for part in _parts(await calls.changed()):
                            await watch.write(_changes(part, calls))
                            at = loop.time()
                    if loop.time() - at >= self._heartbeat:
                        await watch.still_may()
                        await watch.write(_changes((), calls))
                        at = loop.time()
        except TooManyCalls as error:
            raise StreamTooMuch(error.limit, str(error)) from None
        finally:
            reading.cancel()

    async def _take(self, request: call_watch_pb2.WatchCallsRequest, calls: CallWatch, watch: Watch) -> None:
        calls.ended(request.ended)
        told = {one.call_id: _DECISIONS[one.last_action] for one in request.add if one.last_action}
        changes = await calls.add([_call_of(request.tenant, one) for one in request.add], told)
        for part in _parts(changes) if changes else [()]:
            await watch.write(_changes(part, calls))


async def _news(news: asyncio.Event, patience: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            await news.wait()
            await asyncio.sleep(GATHER_SECONDS)


def _call_of(tenant: str, message: call_watch_pb2.WatchedCall) -> call_gate.Call:
    return call_gate.Call(
        tenant=tenant,
        call_id=message.call_id,
        callee=message.callee,
        direction=convert.CALL_DIRECTIONS.get(message.direction),
        user=message.user,
        group=message.group,
        stores=tuple(convert.ASSET_CLASSES[number] for number in message.stores),
        queue=message.queue,
        caller=message.caller,
        site=message.site,
    )


def _parts(changes: Sequence[tuple[str, CallAnswer]]) -> Iterator[Sequence[tuple[str, CallAnswer]]]:
    for start in range(0, len(changes), TOLD_TOGETHER):
        yield changes[start : start + TOLD_TOGETHER]


def _changes(changes: Sequence[tuple[str, CallAnswer]], calls: CallWatch) -> bytes:
    message = call_watch_pb2.WatchCallsResponse(calls=len(calls))
    for call_id, answer in changes:
        message.changes.add(
            call_id=call_id,
            action=ACTIONS[answer.decision],
            reason=convert.CALL_REASONS[answer.reason],
            explanation=answer.explanation,
            key=answer.key.name if answer.key else "",
            rule=answer.rule,
        )
    return message.SerializeToString()


def _key(sight: KeySight) -> call_watch_pb2.CallGateKey:
    return call_watch_pb2.CallGateKey(
        key=sight.name,
        state=convert.KEY_STATES[KeyState(sight.state)],
        cause=sight.cause,
        evidence_age=_seconds(sight.age),
        worked=_seconds(sight.worked),
        taken_away=sight.taken,
    )


def _seconds(seconds: float | None) -> Any:
    return convert.duration(None if seconds is None else timedelta(seconds=seconds))


def _view(view: GateView, retry_after: timedelta) -> call_watch_pb2.CallGateView:
    message = call_watch_pb2.CallGateView(
        gate=_gate(view.gate), groups=sorted(view.groups), retry_after=convert.duration(retry_after)
    )
    for line in view.policy:
        message.policy.add(
            rule=line.name,
            key=line.key,
            asset_classes=_classes(line.asset_classes),
            users=sorted(line.users),
            groups=sorted(line.groups),
        )
    for taken in view.revocations:
        message.revocations.add(
            explanation=taken.told,
            keys=sorted(taken.keys),
            groups=sorted(taken.groups),
            users=sorted(taken.users),
            asset_classes=_classes(taken.asset_classes),
            call_ids=sorted(taken.call_ids),
            queues=sorted(taken.queues),
        )
    for user, groups in view.members:
        message.members.add(user=user, groups=sorted(groups))
    return message


def _classes(classes: frozenset[AssetClass]) -> list[asset_pb2.AssetClass.ValueType]:
    return sorted(_CLASS_NUMBERS[one] for one in classes)


def _gate(gate: CallGate) -> call_pb2.CallGate:
    """With every choice said: a gate beside the caller need not know what is left out."""
    message = call_pb2.CallGate(
        **_choices(gate.choices, gate.mode),
        directions=[gate_convert.DIRECTION_NUMBERS[one] for one in sorted(gate.directions)],
        countries=gate.countries,
        emergency_numbers=sorted(gate.emergency_numbers),
        outside_line_prefixes=gate.outside_line_prefixes,
    )
    for rule in gate.rules:
        message.rules.add(
            name=rule.name,
            **_choices(rule.choices, rule.choices.mode),
            sites=sorted(rule.sites),
            queues=sorted(rule.queues),
            callers=rule.callers,
            callees=rule.callees,
            directions=[gate_convert.DIRECTION_NUMBERS[one] for one in sorted(rule.directions)],
            groups=sorted(rule.groups),
            stores=_classes(rule.stores),
        )
    return message


def _choices(told: Choices, mode: Any) -> dict[str, Any]:
    single = {state: gate_convert.MODE_NUMBERS[getattr(told, state) or mode] for state in STATES}
    return {
        "mode": gate_convert.MODE_NUMBERS[mode],
        "choices": call_pb2.CallGateChoices(**single),
        "grace_seconds": told.grace,
    }
