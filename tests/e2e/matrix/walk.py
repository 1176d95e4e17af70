"""A walk through one cell: everything that anybody is told of a key, from before it happens until it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any

import grpc

from e2e.matrix.cells import AVAILABLE, CODES, OK, Cell
from e2e.matrix.holders import Holder
from ownkey.v1 import asset_pb2, call_pb2, key_service_pb2, key_state_pb2, key_status_pb2, notification_pb2
from support.admin import Admin
from support.rpc import Failure, Rpc, asset

# So often in a row everything must be as it should be.
STEADY = 3
# How often something is looked at that is to change nothing.
UNMOVED = 20
PAUSE_SECONDS = 0.1
LONG_SECONDS = 40.0
# Of a machine, and of no key.
TOO_BUSY = ("DATABASE_UNAVAILABLE", "AUDIT_UNAVAILABLE", "SERVER_OVERLOADED", "VIEW_STALE")
BEFORE, MEANWHILE, AFTER = "before", "meanwhile", "after"
_DECISIONS = {
    call_pb2.CALL_DECISION_ALLOW: "allow",
    call_pb2.CALL_DECISION_ALLOW_NO_RECORDING: "allow without recording",
    call_pb2.CALL_DECISION_REFUSE: "refuse",
}


@dataclass(frozen=True, slots=True)
class Look:
    """What was told at one time.

    Attributes:
        generate: What GenerateDataKey answered; with its status, when that is not the reason's.
        why: The reasons of the gate's decisions.
        at: When, in seconds of some clock.
    """

    phase: str
    generate: str
    unwrap: str
    state: str
    cause: str
    gate: str
    ruled: str
    grace: str
    why: frozenset[str]
    at: float

    @property
    def calls(self) -> tuple[str, str]:
        """What users of the key met."""
        return self.generate, self.unwrap

    @property
    def gates(self) -> tuple[str, str, str]:
        """What was decided about calls."""
        return self.gate, self.ruled, self.grace


@dataclass
class Walk:
    """What was told in a cell.

    Attributes:
        looks: By whoever asked again and again.
        watched: States and causes, of the key and its places, by WatchKeyStatus.
        history: States of the key as a whole, by ListKeyStateChanges, the oldest first.
        places: The same of its places.
        notices: Kinds and causes of the notifications about the key, the oldest first.
        stuck: In which phase it did not go on; empty when it came to its end.
    """

    cell: Cell
    looks: list[Look] = field(default_factory=list)
    watched: list[tuple[str, str]] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    notices: list[tuple[str, str]] = field(default_factory=list)
    stuck: str = ""

    @property
    def story(self) -> str:
        """All of it, in lines, for whoever must find out what went wrong."""
        lines = [self.cell.id, self.stuck, f"history {self.history}", f"places {self.places}", f"told {self.notices}"]
        begun = self.looks[0].at if self.looks else 0.0
        for _, same in groupby(
            self.looks, key=lambda look: (look.phase, look.calls, look.state, look.cause, look.gates)
        ):
            look = next(same)
            lines.append(f"{look.at - begun:6.2f} {look.phase} {look.state} ({look.cause}) {look.calls} {look.gates}")
        return "\n".join([*lines, f"watched {sorted(set(self.watched))}"])

    def of(self, phase: str) -> list[Look]:
        """What was told in a phase."""
        return [look for look in self.looks if look.phase == phase]


class Walker:
    """Walks through one cell."""

    def __init__(self, cell: Cell, holder: Holder, rpc: Rpc, admin: Admin) -> None:
        self.walk = Walk(cell)
        self._cell, self._holder, self._rpc, self._admin = cell, holder, rpc, admin
        self._wrapped: key_service_pb2.GenerateDataKeyResponse | None = None
        self._asset = asset(tenant=cell.id, asset_class=asset_pb2.ASSET_CLASS_PHONE_RECORDING)

    def reconnect(self, rpc: Rpc, admin: Admin) -> None:
        """Go on at another server."""
        self._rpc, self._admin = rpc, admin

    async def until_it_works(self) -> None:
        """Wait until the key store is loaded, which no row is about."""
        request = key_service_pb2.GenerateDataKeyRequest(asset=self._asset)
        async with asyncio.timeout(LONG_SECONDS):
            while isinstance(await self._ask("GenerateDataKey", request), Failure):
                await asyncio.sleep(PAUSE_SECONDS)

    async def use(self) -> None:
        """Have something to open later, and the key known to be well."""
        request = key_service_pb2.GenerateDataKeyRequest(asset=self._asset)
        made = await self._ask("GenerateDataKey", request)
        assert not isinstance(made, Failure), made
        self._wrapped = made
        await self._until(BEFORE, self._is_well)

    async def go(self, happening: ExitStack | None = None) -> Walk:
        """From before to after; with what has happened already, from there."""
        async with contextlib.AsyncExitStack() as stack:
            watching = asyncio.create_task(self._watch())
            stack.push_async_callback(_end, watching)
            try:
                if happening is None:
                    happening = ExitStack()
                    await self.use()
                    await asyncio.to_thread(happening.enter_context, self._holder.block(self._cell.act))
                try:
                    await self._until(MEANWHILE, self._is_as_the_row_says)
                finally:
                    await asyncio.to_thread(happening.close)
                await self._until(AFTER, self._is_well)
            except TimeoutError as error:
                self.walk.stuck = str(error)
            await self._read_what_is_kept()
        return self.walk

    async def _until(self, phase: str, done: Callable[[list[Look]], bool]) -> None:
        try:
            async with asyncio.timeout(LONG_SECONDS):
                while True:
                    self.walk.looks.append(await self._look(phase))
                    if done(self.walk.of(phase)) and await self._is_told(phase):
                        return
                    await asyncio.sleep(PAUSE_SECONDS)
        except TimeoutError:
            raise TimeoutError(f"{phase}: for {LONG_SECONDS:g} s, the last was {self.walk.looks[-1]}") from None

    def _is_well(self, looks: list[Look]) -> bool:
        well = (AVAILABLE, OK, OK, *["allow"] * 3)
        return len(looks) >= STEADY and all((one.state, *one.calls, *one.gates) == well for one in looks[-STEADY:])

    def _is_as_the_row_says(self, looks: list[Look]) -> bool:
        cell, seen = self._cell, self._cell.seen
        wanted = (cell.state, cell.generate, cell.unwrap, seen.gate, seen.ruled, seen.grace)
        enough = UNMOVED if cell.state == AVAILABLE else STEADY
        last = looks[-enough:]
        return len(last) == enough and all((one.state, *one.calls, *one.gates) == wanted for one in last)

    async def _is_told(self, phase: str) -> bool:
        if phase == BEFORE:
            await self._read_what_is_kept()
            return AVAILABLE in self.walk.history
        if not self._cell.seen.told:
            return True
        wanted = self._cell.seen.told if phase == MEANWHILE else "key_recovered"
        return wanted in [kind for kind, _ in await self._notices()]

    async def _look(self, phase: str) -> Look:
        generated, opened, status, *gates = await asyncio.gather(
            self._generate(), self._unwrap(), self._status(), *(self._gate(queue) for queue in ("", "ruled", "grace"))
        )
        decisions = [decision for decision, _ in gates]
        return Look(phase, generated, opened, *status, *decisions, frozenset(why for _, why in gates), time.monotonic())

    async def _generate(self) -> str:
        return await self._call("GenerateDataKey", key_service_pb2.GenerateDataKeyRequest(asset=self._asset))

    async def _unwrap(self) -> str:
        assert self._wrapped is not None
        request = key_service_pb2.UnwrapRequest(
            asset=self._asset,
            wrapped_key=self._holder.hand_in(self._wrapped.wrapped_key),
            encryption_context=self._wrapped.encryption_context,
        )
        return await self._call("Unwrap", request)

    async def _call(self, method: str, request: object) -> str:
        answer = await self._ask(method, request)
        if not isinstance(answer, Failure):
            return OK
        expected = CODES.get(answer.reason) == answer.code.name
        return answer.reason if expected else f"{answer.code.name} {answer.reason} {answer.message}"

    async def _ask(self, method: str, request: object) -> Any:
        """The answer, or the failure; asked again while the machine is too busy for the database to answer in time."""
        while True:
            try:
                return await getattr(self._rpc.stub, method)(request, timeout=20)
            except grpc.aio.AioRpcError as error:
                failure = Failure.of(error)
            if failure.reason not in TOO_BUSY:
                return failure
            await asyncio.sleep(PAUSE_SECONDS)

    async def _status(self) -> tuple[str, str]:
        answer = await self._ask("KeyStatus", key_service_pb2.KeyStatusRequest(tenant=self._cell.id))
        [key] = answer.keys
        return _state(key.state), key.cause

    async def _gate(self, queue: str) -> tuple[str, str]:
        request = call_pb2.AuthorizeCallRequest(
            tenant=self._cell.id,
            call_id="call-1",
            callee="+4930123456",
            stores=[asset_pb2.ASSET_CLASS_PHONE_RECORDING],
            queue=queue,
        )
        answer = await self._ask("AuthorizeCall", request)
        why = call_pb2.CallReason.Name(answer.reason).removeprefix("CALL_REASON_")
        sip = f", {answer.sip_status}" if answer.sip_status else ""
        assert answer.HasField("retry_after") == (answer.sip_status == 503)
        return _DECISIONS[answer.decision] + sip, why

    async def _watch(self) -> None:
        request = key_status_pb2.WatchKeyStatusRequest(tenant=self._cell.id)
        async for event in self._rpc.stub.WatchKeyStatus(request):
            keys = [event.status] if event.HasField("status") else list(event.snapshot.keys)
            told: list[Any] = [*keys, *(place for key in keys for place in key.replicas)]
            told += [event.change] if event.HasField("change") else []
            self.walk.watched += [(_state(one.state), one.cause) for one in told]

    async def _read_what_is_kept(self) -> None:
        request = key_status_pb2.ListKeyStateChangesRequest(tenant=self._cell.id, page_size=1000)
        changes = (await self._ask("ListKeyStateChanges", request)).changes
        oldest_first = list(reversed(changes))
        self.walk.history = [_state(one.state) for one in oldest_first if not one.replica]
        self.walk.places = [_state(one.state) for one in oldest_first if one.replica]
        self.walk.notices = await self._notices()

    async def _notices(self) -> list[tuple[str, str]]:
        found = (await self._admin("ListNotifications", tenant=self._cell.id, page_size=1000)).notifications
        kinds = notification_pb2.NotificationKind
        return [
            (kinds.Name(one.kind).removeprefix("NOTIFICATION_KIND_").lower(), one.cause)
            for one in reversed(found)
            if one.key
        ]


def _state(number: int) -> str:
    return key_state_pb2.KeyState.Name(number).removeprefix("KEY_STATE_")  # type: ignore[arg-type]


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
        await task


# What a word says of a key, whoever says it: nothing says two.
OUTAGE, DELIBERATE, SET_UP = "an outage", "a revocation", "a fault of the set-up"
SAYS = {
    "UNREACHABLE": OUTAGE,
    "KEY_UNREACHABLE": OUTAGE,
    "key_unreachable": OUTAGE,
    "REVOKED": DELIBERATE,
    "KEY_REVOKED": DELIBERATE,
    "key_revoked": DELIBERATE,
    "refuse, 403": DELIBERATE,
    "MISCONFIGURED": SET_UP,
    "KEY_MISCONFIGURED": SET_UP,
    "key_misconfigured": SET_UP,
}


def said(walk: Walk) -> dict[str, list[str]]:
    """All that was said of the key in a walk, by what it says, and where."""
    words = chain(
        (("a call", word) for look in walk.looks for word in look.calls),
        (("KeyStatus", look.state) for look in walk.looks),
        (("the gate", word) for look in walk.looks for word in (*look.gates, *look.why)),
        (("a watch", state) for state, _ in walk.watched),
        (("the history", state) for state in (*walk.history, *walk.places)),
        (("a notification", kind) for kind, _ in walk.notices),
    )
    found: dict[str, list[str]] = {}
    for where, word in words:
        if word in SAYS and where not in found.setdefault(SAYS[word], []):
            found[SAYS[word]].append(where)
    return found


def cause_is(cell: Cell, cause: str) -> bool:
    """Whether a cause is the row's."""
    return fnmatch.fnmatchcase(cause, cell.cause)
