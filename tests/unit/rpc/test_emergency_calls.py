"""Whatever fails around it, an emergency call gets its answer: through the dispatcher, with parts that fail."""

from __future__ import annotations

import asyncio
import builtins
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.v1 import call_pb2
from ownkey_server.domain import errors
from ownkey_server.domain.call_gates import CallGate, GateMode
from ownkey_server.domain.policy import Effect, Outcome, Policy
from ownkey_server.domain.roles import Permit
from ownkey_server.domain.tenants import Tenant
from ownkey_server.rpc.dispatch import Dispatcher, Gates
from ownkey_server.rpc.key_service import KeyServicer
from ownkey_server.rpc.methods import all_methods
from ownkey_server.rpc.stream_guard import StreamLimits, Streams
from ownkey_server.service.call_gate import CallGateKeeper
from ownkey_server.service.strangers import Budget, Strangers
from support import emergency_calls

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
GATE = CallGate(GateMode.REFUSE, frozenset(), ("US",), frozenset({"7777"}), ("9",))
ACME = Tenant("acme", NOW, {}, Policy((), Outcome(Effect.DENY)), frozenset(), call_gate=GATE)
OUR_OWN: list[Exception] = [
    errors.Unauthenticated("no"),
    errors.PermissionDenied("somebody", "AuthorizeCall", ""),
    errors.IssuerUnreachable("corp"),
    errors.ViewStale("acme", 99),
    errors.DatabaseUnavailable("gone"),
    errors.TenantNotFound("acme"),
]


def _builtin() -> list[BaseException]:
    """Every exception of Python that can be made of nothing or of a text, cancellation among them."""
    made: list[BaseException] = [asyncio.CancelledError()]
    for kind in vars(builtins).values():
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning):
            try:
                made.append(kind("boom"))
            except TypeError:
                continue
    return made


failures = st.sampled_from([*OUR_OWN, *_builtin()])


class Part:
    """A part of the server that fails, hangs, or gives what it should."""

    def __init__(self, gives: object, failure: BaseException | None = None, *, hangs: bool = False) -> None:
        self.gives, self.failure, self.hangs = gives, failure, hangs

    async def answer(self, *_: object) -> Any:
        if self.hangs:
            await asyncio.Event().wait()
        return self.answer_at_once()

    def answer_at_once(self, *_: object) -> Any:
        if self.failure is not None:
            raise self.failure
        return self.gives


class Refused(Exception):
    """The call ended with another status than OK."""


class Context:
    """A call, as the transport has it."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    async def read(self) -> bytes:
        return self._raw

    def peer(self) -> str:
        return "ipv4:192.0.2.1:1"

    async def abort(self, code: object, details: object, _metadata: object) -> None:
        raise Refused(code, details)


async def ask(
    callee: str, identity: Part, roles: Part, known: Part, loaded: Part, strangers: Strangers | None = None
) -> bool:
    """Whether a call to that number is answered as an emergency call."""
    return await answered(handler(identity, roles, known, loaded, strangers), callee)


def handler(identity: Part, roles: Part, known: Part, loaded: Part, strangers: Strangers | None = None) -> Any:
    """AuthorizeCall with these parts behind it."""
    directory = SimpleNamespace(last_known=known.answer_at_once, tenant=loaded.answer)
    keeper = CallGateKeeper(
        directory,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        lambda: NOW,
        timedelta(seconds=5),
    )
    # Whatever comes after an emergency call's answer is not there: nothing may need it.
    gates = Gates(
        authenticator=SimpleNamespace(principal=identity.answer),  # type: ignore[arg-type]
        authorizer=SimpleNamespace(require=roles.answer),  # type: ignore[arg-type]
        rates=None,  # type: ignore[arg-type]
        admission=None,  # type: ignore[arg-type]
        refusals=SimpleNamespace(note=lambda *_: None),  # type: ignore[arg-type]
        streams=Streams(StreamLimits()),
        strangers=strangers or Strangers(Budget(), lambda: 0.0),
        turned_away=Strangers(Budget(), lambda: 0.0),
        watches=None,  # type: ignore[arg-type]
    )
    servicer = KeyServicer(SimpleNamespace(call_gate=keeper))  # type: ignore[arg-type]
    return Dispatcher(gates).unary(all_methods()["AuthorizeCall"], servicer.AuthorizeCall, servicer.emergency)


async def answered(of: Any, callee: str) -> bool:
    """Whether a handler answers a call to that number as an emergency call."""
    raw = call_pb2.AuthorizeCallRequest(tenant="acme", call_id="1", callee=callee).SerializeToString()
    try:
        async with asyncio.timeout(5):  # what hangs holds up other calls for as long as it does
            answer = await of.stream_unary(None, Context(raw))
    except (Refused, TimeoutError):
        return False
    return call_pb2.AuthorizeCallResponse.FromString(answer).emergency


def parts(**changed: Part) -> dict[str, Part]:
    """Parts that work, but for those that are changed."""
    good = {
        "identity": Part("pbx"),
        "roles": Part(Permit(frozenset({"acme"}))),
        "known": Part(ACME),
        "loaded": Part(ACME),
    }
    return good | changed


@given(failures, st.sets(st.sampled_from(["identity", "roles", "known", "loaded"]), min_size=1))
def test_whatever_fails_an_emergency_call_connects(failure: BaseException, where: set[str]) -> None:
    broken = {name: Part(parts()[name].gives, failure) for name in where}
    assert asyncio.run(ask("911", **parts(**broken)))


def of(country: str) -> Tenant:
    """A tenant whose phones are in that country alone."""
    gate = CallGate(GateMode.REFUSE, frozenset(), (country,), frozenset(), emergency_calls.PREFIXES)
    return replace(ACME, call_gate=gate)


@given(
    st.none() | failures,
    st.sets(st.sampled_from(["identity", "roles", "known", "loaded"])),
    emergency_calls.calls(),
)
def test_whatever_fails_an_emergency_call_of_any_country_connects_in_whatever_spelling(
    failure: BaseException | None, where: set[str], call: tuple[str, str]
) -> None:
    country, callee = call
    good = parts(known=Part(of(country)), loaded=Part(of(country)))
    broken = {name: Part(good[name].gives, failure) for name in where}
    assert asyncio.run(ask(callee, **(good | broken)))


@pytest.mark.parametrize("where", [(), ("identity",), ("roles",), ("known", "loaded")])
async def test_every_number_of_every_country_connects(where: tuple[str, ...]) -> None:
    used = parts(**{name: Part(parts()[name].gives, errors.DatabaseUnavailable("gone")) for name in where})
    gate = handler(**used, strangers=Strangers(Budget(per_second=1e9, burst=1e9), lambda: 0.0))
    refused = []
    for country, callee in emergency_calls.plain():
        used["known"].gives = used["loaded"].gives = of(country)
        if not await answered(gate, callee):
            refused.append((country, callee))
    assert refused == []


@pytest.mark.parametrize("where", ["identity", "roles", "loaded"])
def test_whatever_hangs_an_emergency_call_connects(where: str) -> None:
    assert asyncio.run(ask("911", **parts(known=Part(None), **{where: Part(ACME, hangs=True)})))


@given(st.sampled_from([b"", None, 5, "US", ("??",)]), st.sampled_from([None, 7, {1}, ["911"]]))
def test_a_gate_that_cannot_be_used_holds_up_no_emergency_call(countries: Any, numbers: Any) -> None:
    broken = SimpleNamespace(
        call_gate=SimpleNamespace(countries=countries, emergency_numbers=numbers, outside_line_prefixes=numbers)
    )
    assert asyncio.run(ask("911", **parts(known=Part(broken))))


def test_who_may_ask_gets_the_tenant_s_own_numbers() -> None:
    assert asyncio.run(ask("7777", **parts()))


@pytest.mark.parametrize("failure", [errors.Unauthenticated("no"), errors.IssuerUnreachable("corp"), KeyError("x")])
def test_a_stranger_learns_no_number_of_the_tenant_s_own_whatever_fails(failure: Exception) -> None:
    stranger = parts(identity=Part(None, failure))
    assert not asyncio.run(ask("7777", **stranger))
    assert asyncio.run(ask("999", **stranger)), "every country's numbers count"


def test_a_stranger_learns_none_by_making_the_server_wait() -> None:
    assert not asyncio.run(ask("7777", **parts(identity=Part("pbx", hangs=True))))


def test_who_may_not_ask_learns_none_either() -> None:
    denied = parts(roles=Part(None, errors.PermissionDenied("pbx", "AuthorizeCall", "")))
    assert not asyncio.run(ask("7777", **denied))
    assert asyncio.run(ask("999", **denied))


@pytest.mark.parametrize("callee", ["7777", "999", "911"])
@pytest.mark.parametrize("failure", [errors.ViewStale("", 99), errors.DatabaseUnavailable("gone"), KeyError("x")])
def test_for_a_known_caller_whose_roles_are_not_known_both_kinds_of_numbers_count(
    callee: str, failure: Exception
) -> None:
    assert asyncio.run(ask(callee, **parts(roles=Part(None, failure))))


async def test_a_caller_that_leaves_ends_its_call() -> None:
    task = asyncio.create_task(ask("911", **parts(identity=Part("pbx", hangs=True))))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_strangers_wait_for_their_turn_and_known_callers_do_not() -> None:
    clock = [0.0]
    strangers = Strangers(Budget(per_second=1, burst=1, waiting=100), lambda: clock[0])
    await strangers.turn("ipv4:192.0.2.1:1")
    unknown = parts(identity=Part(None, errors.Unauthenticated("no")))
    stranger = asyncio.create_task(ask("911", **unknown, strangers=strangers))
    while not strangers.waiting:
        await asyncio.sleep(0)
    assert await ask("911", **parts(), strangers=strangers)
    assert await ask("911", **parts(roles=Part(None, errors.ViewStale("", 99))), strangers=strangers)
    assert not stranger.done()
    clock[0] += 2
    assert await stranger, "it connects all the same"
