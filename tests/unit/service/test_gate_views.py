"""A gate beside the caller decides as the service does, whatever the tenant's rules, and whatever the call."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownkey import _gate_messages
from ownkey.gate import view as local
from ownkey.v1 import call_watch_pb2
from ownkey_server.domain.assets import AssetClass, AssetOrigin
from ownkey_server.domain.audit import Caller
from ownkey_server.domain.call_gates import CallDirection, CallGate, Choices, GateMode, GateRule
from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.policy import Effect, Outcome, Policy, Rule
from ownkey_server.domain.revocations import Ending, Revocation, Scope
from ownkey_server.domain.tenants import CustomerKey, Replica, Tenant
from ownkey_server.rpc import call_watches
from ownkey_server.service import gate_views
from ownkey_server.service.call_gate import Call, CallDecision, CallGateKeeper
from ownkey_server.service.gate_views import view_of
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.service.watched_calls import CallLimits, WatchedCalls
from support.emergency_calls import request_uris

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEYS = {name: CustomerKey(f"tenants/acme/keys/{name}", (Replica("embedded", name),)) for name in ("main", "other")}
PROVIDER = CustomerKey("provider/keys/main", (Replica("embedded", "provider"),))
CLASSES = [AssetClass.PHONE_RECORDING, AssetClass.PHONE_VOICEMAIL, AssetClass.PHONE_MMS]
GROUPS = ["legal", "sales"]
USERS = ["ann", "bob", ""]
SEEN = [KeyState.AVAILABLE, KeyState.REVOKED, KeyState.UNREACHABLE, KeyState.MISCONFIGURED]
CALLEES = ["+15551234567", "+49301234567", "sip:7001@pbx", "alice@example.org", "911", "urn:service:sos", "112", "999"]


def some(*values: Any) -> st.SearchStrategy[frozenset[Any]]:
    return st.frozensets(st.sampled_from(values), max_size=2)


moments = st.sampled_from([None, NOW - HOUR, NOW, NOW + HOUR])
outcomes = st.sampled_from(
    [Outcome(Effect.DENY), Outcome(Effect.PROVIDER_KEY), *(Outcome(Effect.ALLOW, name) for name in KEYS)]
)
policy_rules = st.builds(
    Rule,
    st.just("p"),
    outcomes,
    some(*CLASSES),
    some("ann", "bob"),
    some(*GROUPS),
    some(*AssetOrigin),
    moments,
    moments,
)
policies = st.builds(Policy, st.lists(policy_rules, max_size=3).map(tuple), outcomes)
scopes = st.builds(
    Scope,
    some("main", "other", "provider_key"),
    some(*GROUPS),
    some("ann", "bob"),
    some(*CLASSES),
    some("call-1", "call-2"),
    moments,
    moments,
    some("support"),
)
revocations = st.builds(
    Revocation, st.just("r"), st.just("acme"), scopes, st.just(Ending.CUT), st.just("why"), st.just("ann"), st.just(NOW)
)
modes = st.sampled_from(list(GateMode))
maybe = st.none() | modes
choices = st.builds(Choices, modes, maybe, maybe, maybe, maybe, st.sampled_from([0, 60]))
numbers = st.lists(st.sampled_from(["+49", "+1555", "7000-7999"]), max_size=1).map(tuple)
gate_rules = st.builds(
    GateRule,
    st.sampled_from(["one", "two"]),
    choices,
    some("berlin"),
    some("support"),
    numbers,
    numbers,
    some(*CallDirection),
    some(*GROUPS),
    some(*CLASSES),
)
gates = st.builds(
    CallGate,
    modes,
    some(*CallDirection),
    st.sampled_from([(), ("US",), ("DE", "GB")]),
    some("7777"),
    st.sampled_from([(), ("9",)]),
    choices,
    st.lists(gate_rules, max_size=3).map(tuple),
)
members = st.dictionaries(st.sampled_from(["ann", "bob"]), some(*GROUPS))
tenants = st.builds(
    lambda policy, groups_of, gate, taken: Tenant(
        "acme", NOW, KEYS, policy, frozenset(GROUPS), groups_of, call_gate=gate, revocations=tuple(taken)
    ),
    policies,
    members,
    gates,
    st.lists(revocations, max_size=2),
)
calls = st.builds(
    Call,
    st.just("acme"),
    st.sampled_from(["call-1", "call-3"]),
    st.sampled_from(CALLEES),
    st.none() | st.sampled_from(list(CallDirection)),
    st.sampled_from(USERS),
    st.sampled_from([*GROUPS, "", "nobody-s"]),
    st.lists(st.sampled_from(CLASSES), max_size=2, unique=True).map(tuple),
    st.sampled_from(["support", ""]),
    st.sampled_from(CALLEES[:4]),
    st.sampled_from(["berlin", ""]),
)
sights = st.dictionaries(
    st.sampled_from([KEYS["main"].name, KEYS["other"].name, PROVIDER.name]),
    st.lists(
        st.sampled_from([one for one in KeyState if one not in (KeyState.DEGRADED, KeyState.UNKNOWN)]), max_size=2
    ),
)


def a_keeper(tenant: Tenant, seen: dict[str, list[KeyState]]) -> CallGateKeeper:
    board = StatusBoard(timedelta(seconds=60))
    for key, states in seen.items():
        for age, state in enumerate(reversed(states)):
            at = NOW - timedelta(seconds=30 - age)
            board.saw(key, "embedded", state, f"it is {state}", at, began=board.moment)

    async def load(_: str) -> Tenant:
        return tenant

    async def look(_: object) -> None:
        return

    directory = SimpleNamespace(tenant=load, last_known=lambda _: tenant, provider_key=PROVIDER)
    probes, audit = SimpleNamespace(first_evidence=look), SimpleNamespace(note=lambda _: None)
    return CallGateKeeper(directory, board, probes, audit, lambda: NOW, timedelta(seconds=5))  # type: ignore[arg-type]


def asked_locally(tenant: Tenant, keeper: CallGateKeeper, call: Call) -> tuple[object, ...]:
    """The same question to a gate beside the caller, which knows what came over the wire and no more."""
    made = view_of(tenant, PROVIDER, NOW)
    message = call_watch_pb2.WatchCallGateResponse(
        view=call_watches._view(made, timedelta(seconds=30)),
        keys=[call_watches._key(keeper.sight(key, NOW)) for key in made.keys],
    )
    received = call_watch_pb2.WatchCallGateResponse.FromString(message.SerializeToString())
    view = _gate_messages.view(received.view)
    facts = local.Call(
        call.call_id,
        call.callee,
        call.caller,
        call.direction.value if call.direction else "",
        call.user,
        call.group,
        tuple(one.value for one in call.stores),
        call.site,
        call.queue,
    )
    try:
        answer = view.decide(facts, _gate_messages.keys(received.keys))
    except local.UnknownGroup:
        return ("unknown group",)
    return (answer.decision, answer.reason, answer.sip_status, answer.key, answer.rule, answer.emergency)


async def asked(keeper: CallGateKeeper, call: Call) -> tuple[object, ...]:
    try:
        answer = await keeper.emergency_answer(call.tenant, call.callee) or await keeper.decide(call, wait=False)
    except InvalidRequest:
        return ("unknown group",)
    key = answer.key.name if answer.key else ""
    return (str(answer.decision), str(answer.reason), answer.sip_status, key, answer.rule, answer.emergency)


@settings(max_examples=400, deadline=None)
@given(tenants, sights, st.lists(calls, min_size=1, max_size=4))
def test_a_gate_beside_the_caller_decides_as_the_service_does(
    tenant: Tenant, seen: dict[str, list[KeyState]], questions: list[Call]
) -> None:
    async def compare() -> None:
        keeper = a_keeper(tenant, seen)
        for call in questions:
            assert asked_locally(tenant, keeper, call) == await asked(keeper, call)

    asyncio.run(compare())


def test_a_view_tells_when_time_changes_it() -> None:
    later = Rule("later", Outcome(Effect.DENY), created_from=NOW + HOUR)
    tenant = Tenant("acme", NOW, KEYS, Policy((later,), Outcome(Effect.ALLOW, "main")))
    now, then = view_of(tenant, PROVIDER, NOW), view_of(tenant, PROVIDER, NOW + HOUR)
    assert (now.until, [line.name for line in now.policy]) == (NOW + HOUR, ["default"])
    assert (then.until, [line.name for line in then.policy]) == (None, ["later", "default"])


def test_of_users_a_view_has_those_that_rules_tell_apart_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    groups_of = {f"user-{number}": frozenset({"legal" if number < 3 else "sales"}) for number in range(10)}
    gate = CallGate(rules=(GateRule("legal", Choices(), groups=frozenset({"legal"})),))
    policy = Policy((), Outcome(Effect.ALLOW, "main"))
    tenant = Tenant("acme", NOW, KEYS, policy, frozenset(GROUPS), groups_of, call_gate=gate)
    assert [user for user, _ in view_of(tenant, PROVIDER, NOW).members] == ["user-0", "user-1", "user-2"]
    monkeypatch.setattr(gate_views, "MAX_MEMBERS", 2)
    with pytest.raises(InvalidRequest, match="tell 3 users apart: ask AuthorizeCall"):
        view_of(tenant, PROVIDER, NOW)


@settings(max_examples=300, deadline=None)
@given(tenants, sights, calls, request_uris())
def test_no_emergency_call_is_refused_whatever_the_rules_and_the_keys(
    tenant: Tenant, seen: dict[str, list[KeyState]], call: Call, uri: str
) -> None:
    async def compare() -> None:
        anywhere = replace(tenant.call_gate, countries=(), outside_line_prefixes=("9", "0", "8"))
        told = replace(tenant, call_gate=anywhere)
        keeper = a_keeper(told, seen)
        sos = replace(call, callee=uri)
        answer = await keeper.authorize(sos, Caller("pbx"))
        assert (answer.decision, answer.emergency) == (CallDecision.ALLOW, True)
        assert asked_locally(told, keeper, sos)[0] == "allow"
        with WatchedCalls(keeper, CallLimits()).watching("acme", Caller("pbx")) as watch:
            assert await watch.add([sos]) == []
            assert await watch.changed() == []

    asyncio.run(compare())
