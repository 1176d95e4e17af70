"""From a customer's act in its key store to the first refusal: a hundred tries for each key store, at default settings.

Each try is a tenant with a key of its own, so that a hundred go on beside each other and no interval has to be set
shorter. For each key store, one after the other:

- **in use**: data keys are asked for without a pause, wrapped directly. The key store is asked each time, so that no
  use that begins after the act may get plaintext;
- **by a branch key**: one is in use, five times in two seconds, and nothing else uses the key. The lease on it is the
  bound;
- **without traffic**: nothing uses the key. Calls are authorized five times in two seconds, and a watch waits for news:
  what finds the act is a probe, and these are at their rarest when a key was well for a minute, as here.

Acts come at random moments of all these rhythms. Times go from when the act began to when the answer was received.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from harness import CLIENT_CORE, Result, pinned
from holders import STORES, Act, Holders

from ownkey._exchange import CHANNEL_OPTIONS
from ownkey.v1 import asset_pb2, call_pb2, key_service_pb2, key_service_pb2_grpc, key_state_pb2, key_status_pb2

BRANCH_LEASE = 60.0  # keys.branch_lease_seconds
# keys.probe_interval_seconds twice, a tenth more, a second until its turn, and keys.timeout_seconds for its answer.
WITHOUT_TRAFFIC = 2.2 * 10.0 + 1.0 + 5.0
PAUSE = 0.4
REVOCATION = "word of a revocation"
TENANTS_A_CHANNEL = 25  # with a call and a watch each at once: a connection carries 64
PATIENCE = 120.0
RECORDING, CHAT = asset_pb2.ASSET_CLASS_PHONE_RECORDING, asset_pb2.ASSET_CLASS_TEAM_CHAT
BUSY = "busy"
CODES = {
    grpc.StatusCode.FAILED_PRECONDITION: "KEY_REVOKED",
    grpc.StatusCode.UNAVAILABLE: "KEY_UNREACHABLE",
    grpc.StatusCode.RESOURCE_EXHAUSTED: BUSY,
}

Stub = Any


@dataclass(frozen=True)
class Pace:
    """How many tries, and in seconds: until all have begun, until none is new any more, and until all acts are done."""

    tries: int
    begin: float
    settle: float
    spread: float


FULL = Pace(100, begin=10.0, settle=50.0, spread=50.0)
QUICK = Pace(10, begin=1.0, settle=2.0, spread=8.0)


@dataclass
class Try:
    """A tenant, and what became of its key.

    Attributes:
        began, ended: When the act began, and when it was done; 0 before.
        refused: When each way to be refused came first.
        reasons: As what.
        after: Plaintexts, or calls let through, of uses that began when the act was done.
        busy: Calls for which the server had no time, which says nothing of the key.
    """

    tenant: str
    stub: Stub
    began: float = 0.0
    ended: float = 0.0
    refused: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    after: int = 0
    busy: int = 0

    def act(self, act: Act) -> None:
        """Take the key away."""
        began = time.monotonic()
        act(self.tenant)
        self.began, self.ended = began, time.monotonic()

    def note(self, what: str, reason: str) -> None:
        """A first refusal."""
        self.refused.setdefault(what, time.monotonic())
        self.reasons.setdefault(what, reason)

    def took(self, what: str) -> float:
        """Seconds from the act to that refusal."""
        return max(0.0, self.refused[what] - self.began)


def results(quick: bool) -> list[Result]:
    found: list[Result] = []
    pace = QUICK if quick else FULL
    tenants = [f"t-{number:03}" for number in range(pace.tries)]
    with pinned(CLIENT_CORE):
        for name, opened in STORES.items():
            with opened(tenants) as holders:
                found += asyncio.run(_of_one_store(name, holders, tenants, pace))
    return found


async def _of_one_store(store: str, holders: Holders, tenants: Sequence[str], pace: Pace) -> list[Result]:
    channels = [
        grpc.aio.insecure_channel(
            holders.server.address, options=[*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        )
        for _ in range(-(-len(tenants) // TENANTS_A_CHANNEL))
    ]
    stubs = [key_service_pb2_grpc.KeyServiceStub(channel) for channel in channels]

    def tries() -> list[Try]:
        return [Try(one, stubs[number // TENANTS_A_CHANNEL]) for number, one in enumerate(tenants)]

    first_act, *_ = acts = list(holders.take_away.values())
    try:
        in_use = tries()
        for one in in_use:
            await _in_use(one, first_act)
        await _all_back(in_use, holders)
        branch = tries()
        await asyncio.gather(*(_by_a_branch_key(one, first_act, pace) for one in branch))
        await _all_back(branch, holders)
        idle = tries()
        given = [acts[number % len(acts)] for number in range(len(idle))]
        await asyncio.gather(*(_without_traffic(one, act, pace) for one, act in zip(idle, given, strict=True)))
    finally:
        for channel in channels:
            await channel.close()
    how = " or ".join(holders.take_away)
    found = [
        _at_once(store, in_use),
        _within(f"{store}: branch key in use, act to first refusal", branch, "use", BRANCH_LEASE, "a branch lease"),
        _within(
            f"{store}: key without traffic, act to first call refused", idle, "call", WITHOUT_TRAFFIC, f"key {how}"
        ),
        _within(f"{store}: key without traffic, act to news of a watch", idle, "watch", WITHOUT_TRAFFIC, f"key {how}"),
    ]
    _told(f"{store}: key without traffic, act to word that it was taken away", idle, REVOCATION)
    if turned_away := sum(one.busy for one in (*in_use, *branch, *idle)):
        print(
            f"    {store}: {turned_away} calls were turned away by a server that was too busy, and made again",
            flush=True,
        )
    return found


async def _in_use(one: Try, act: Act) -> None:
    """Make and open data keys, wrapped directly, without a pause."""
    made = await _made(one, RECORDING)
    doing = asyncio.create_task(_at(one, act, time.monotonic() + random.uniform(0.05, 0.3)))
    await _until_refused(one, "use", _generate(one, RECORDING), _unwrap(one, made))
    await doing


async def _by_a_branch_key(one: Try, act: Act, pace: Pace) -> None:
    """Open a data key that is wrapped by a branch key, now and then."""
    await asyncio.sleep(random.uniform(0.0, pace.begin))  # so that not all leases end together
    made = await _made(one, CHAT)
    doing = asyncio.create_task(_at(one, act, time.monotonic() + pace.settle + random.uniform(0.0, pace.spread)))
    await _until_refused(one, "use", _unwrap(one, made), pause=PAUSE)
    await doing


async def _without_traffic(one: Try, act: Act, pace: Pace) -> None:
    """Ask whether calls may be set up, and watch the key; nothing uses it."""
    moment = time.monotonic() + pace.begin + pace.settle + random.uniform(0.0, pace.spread)
    watching, doing = asyncio.create_task(_watch(one)), asyncio.create_task(_at(one, act, moment))
    await _until_refused(one, "call", _authorize(one), pause=PAUSE)
    async with asyncio.timeout(PATIENCE):
        await watching
    await doing


async def _at(one: Try, act: Act, moment: float) -> None:
    await asyncio.sleep(moment - time.monotonic())
    await asyncio.to_thread(one.act, act)


async def _until_refused(one: Try, what: str, *calls: Callable[[], Awaitable[str]], pause: float = 0.0) -> None:
    """Ask on, in turn, until a refusal; a refusal before the act is an error of the benchmark's."""
    end = time.monotonic() + PATIENCE + FULL.begin + FULL.settle + FULL.spread
    number = 0
    while time.monotonic() < end:
        begun, act_was_done = time.monotonic(), one.ended
        reason = await calls[number % len(calls)]()
        number += 1
        if reason == BUSY:
            one.busy += 1
        elif reason:
            one.note(what, reason)
            break
        elif act_was_done:
            one.after += 1
        await asyncio.sleep(max(0.0, begun + pause - time.monotonic()))
    else:
        raise RuntimeError(f"{one.tenant}: nothing is refused")


def _refusal(error: grpc.aio.AioRpcError) -> str:
    """What a call was refused as."""
    reason = CODES.get(error.code())
    if reason is None:
        raise error
    return reason


async def _made(one: Try, asset_class: int) -> key_service_pb2.UnwrapRequest:
    asset = asset_pb2.Asset(tenant=one.tenant, asset_class=asset_class, asset_id="a")  # type: ignore[arg-type]
    made = await one.stub.GenerateDataKey(key_service_pb2.GenerateDataKeyRequest(asset=asset))
    return key_service_pb2.UnwrapRequest(
        asset=asset, wrapped_key=made.wrapped_key, encryption_context=made.encryption_context
    )


def _unwrap(one: Try, request: key_service_pb2.UnwrapRequest) -> Callable[[], Awaitable[str]]:
    return lambda: _asked(one.stub.Unwrap, request)


def _generate(one: Try, asset_class: int) -> Callable[[], Awaitable[str]]:
    asset = asset_pb2.Asset(tenant=one.tenant, asset_class=asset_class, asset_id="a")  # type: ignore[arg-type]
    request = key_service_pb2.GenerateDataKeyRequest(asset=asset, with_plaintext=True)
    return lambda: _asked(one.stub.GenerateDataKey, request)


async def _asked(method: Callable[[Any], Awaitable[Any]], request: Any) -> str:
    try:
        answer = await method(request)
    except grpc.aio.AioRpcError as error:
        return _refusal(error)
    if not answer.plaintext:
        raise RuntimeError("an answer without plaintext")
    return ""


def _authorize(one: Try) -> Callable[[], Awaitable[str]]:
    request = call_pb2.AuthorizeCallRequest(
        tenant=one.tenant, call_id="c", callee="tel:+15550100", stores=[RECORDING], user="ann@example.com"
    )

    async def ask() -> str:
        try:
            answer = await one.stub.AuthorizeCall(request)
        except grpc.aio.AioRpcError as error:
            if _refusal(error) != BUSY:
                raise
            return BUSY
        if answer.decision == call_pb2.CALL_DECISION_ALLOW:
            return ""
        return str(call_pb2.CallReason.Name(answer.reason).removeprefix("CALL_REASON_"))

    return ask


async def _watch(one: Try) -> None:
    """Wait until the key is told to be out of order, and then to be revoked."""
    request = key_status_pb2.WatchKeyStatusRequest(tenant=one.tenant, key="main")
    call = one.stub.WatchKeyStatus(request)
    async for message in call:
        for state in _states(message):
            if state not in (key_state_pb2.KEY_STATE_AVAILABLE, key_state_pb2.KEY_STATE_UNKNOWN):
                one.note("watch", key_state_pb2.KeyState.Name(state).removeprefix("KEY_STATE_"))
            if state == key_state_pb2.KEY_STATE_REVOKED:
                one.note(REVOCATION, "REVOKED")
                call.cancel()
                return


def _states(message: key_status_pb2.WatchKeyStatusResponse) -> list[int]:
    match message.WhichOneof("event"):
        case "status":
            return [message.status.state]
        case "change" if not message.change.replica:
            return [message.change.state]
        case "snapshot":
            return [key.state for key in message.snapshot.keys]
    return []


async def _all_back(tries: Sequence[Try], holders: Holders) -> None:
    """Give all keys back, and wait until they work."""
    for one in tries:
        await asyncio.to_thread(holders.give_back, one.tenant)
    async with asyncio.timeout(PATIENCE):
        for one in tries:
            while await _generate(one, RECORDING)():
                await asyncio.sleep(PAUSE)


def _at_once(store: str, tries: Sequence[Try]) -> Result:
    spread = _told(f"{store}: key in use, act to first refusal", tries, "use")
    served = sum(one.after for one in tries)
    return {
        "name": f"{store}: plaintexts of uses that began after the act",
        "value": served,
        "unit": "of any",
        "baseline": f"the key store is asked each time; first refusal after {spread['max']:.3f} s at the latest",
        "runs": len(tries),
        "seconds": spread,
        "aim": 1,
        "met": served == 0,
    }


def _within(name: str, tries: Sequence[Try], what: str, bound: float, detail: str) -> Result:
    spread = _told(name, tries, what)
    return {
        "name": f"{name}, at most",
        "value": round(spread["max"], 2),
        "unit": "s",
        "baseline": f"{detail}; median {spread['median']:.1f}, p99 {spread['p99']:.1f}",
        "runs": len(tries),
        "seconds": spread,
        "aim": round(bound, 1),
        "met": spread["max"] < bound,
    }


def _told(name: str, tries: Sequence[Try], what: str) -> dict[str, float]:
    """Print the distribution; give it."""
    taken = sorted(one.took(what) for one in tries)
    p99 = taken[min(len(taken) - 1, round(0.99 * len(taken)) - 1)]
    spread = {"min": taken[0], "median": statistics.median(taken), "p99": p99, "max": taken[-1]}
    reasons = Counter(one.reasons[what] for one in tries)
    print(
        f"    {name}, in s: {', '.join(f'{key} {value:.3f}' for key, value in spread.items())};"
        f" as {', '.join(f'{reason} ({count})' for reason, count in reasons.most_common())}",
        flush=True,
    )
    return {key: round(value, 4) for key, value in spread.items()}
