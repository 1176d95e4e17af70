from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from ownkey_server.domain.assets import AssetClass
from ownkey_server.domain.audit import Caller
from ownkey_server.domain.call_gates import CallDirection, CallGate, Choices, GateMode, GateRule
from ownkey_server.domain.errors import DatabaseUnavailable, InvalidRequest, TenantNotFound
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.policy import Effect, Outcome, Policy, Rule
from ownkey_server.domain.tenants import CustomerKey, Replica, Tenant
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.call_gate import Call, CallAnswer, CallDecision, CallGateKeeper, CallReason
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.probes import Probes
from ownkey_server.service.status_board import StatusBoard
from support.services import KnownTenants, ListWriter, directory_of

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
MAIN = CustomerKey("tenants/acme/keys/main", (Replica("embedded", "acme-main"),))
VOICEMAIL = CustomerKey("tenants/acme/keys/voicemail", (Replica("embedded", "acme-voicemail"),))
PROVIDER = CustomerKey("provider/keys/main", (Replica("embedded", "provider"),))
POLICY = Policy(
    (
        Rule("voicemail", Outcome(Effect.ALLOW, "voicemail"), asset_classes=frozenset({AssetClass.PHONE_VOICEMAIL})),
        Rule("no-mms", Outcome(Effect.DENY), asset_classes=frozenset({AssetClass.PHONE_MMS})),
        Rule("transcripts", Outcome(Effect.PROVIDER_KEY), asset_classes=frozenset({AssetClass.PHONE_TRANSCRIPT})),
    ),
    Outcome(Effect.ALLOW, "main"),
)
NOT_USABLE = [KeyState.REVOKED, KeyState.UNREACHABLE, KeyState.MISCONFIGURED, KeyState.UNKNOWN]


class Gate:
    """A gate whose keys are in the states that a test says."""

    def __init__(self, mode: GateMode = GateMode.REFUSE, gate: CallGate | None = None, **states: KeyState) -> None:
        directions = frozenset({CallDirection.INBOUND, CallDirection.OUTBOUND})
        gate = gate or CallGate(mode, directions, ("US",), frozenset({"7777"}), ("9",))
        keys = {"main": MAIN, "voicemail": VOICEMAIL}
        users = {"ann": frozenset({"finance"})}
        tenant = Tenant("acme", NOW, keys, POLICY, frozenset({"finance"}), users, call_gate=gate)
        self.now = NOW
        self.board = StatusBoard(timedelta(seconds=60))
        for key in (*keys.values(), PROVIDER):
            state = states.get(key.primary.reference.removeprefix("acme-"), KeyState.AVAILABLE)
            if state is not KeyState.UNKNOWN:
                self.board.saw(
                    key.name, "embedded", state, f"it is {state}", NOW - timedelta(seconds=3), began=self.board.moment
                )
        self.known = KnownTenants({"acme": tenant}, PROVIDER)
        self.trail = ListWriter()

    def ask(self, callee: str = "+15551234567", *, tenant: str = "acme", **facts: object):  # type: ignore[no-untyped-def]
        call = {"stores": (AssetClass.PHONE_RECORDING,), "direction": CallDirection.OUTBOUND} | facts
        return asyncio.run(self._ask(Call(tenant, "call-1", callee, **call)))  # type: ignore[arg-type]

    async def _ask(self, call: Call) -> CallAnswer:
        def now() -> datetime:
            return self.now

        with ThreadPoolExecutor(1) as executor:
            directory = await directory_of(self.known, executor)
            ring = KeyRing({}, self.board, now, timedelta(seconds=5))
            probes = SilentProbes(directory, ring, self.board, now, timedelta(seconds=60))
            audit = AuditLog(self.trail, ListWriter(), now)
            await audit.start()
            keeper = CallGateKeeper(directory, self.board, probes, audit, now, timedelta(seconds=5))
            try:
                return await keeper.authorize(call, Caller("pbx"))
            finally:
                await audit.close()


class SilentProbes(Probes):
    """Probes that learn nothing: the states are what the test says."""

    async def first_evidence(self, keys: Iterable[CustomerKey]) -> None:
        return


def test_a_call_is_allowed_while_its_key_is_available() -> None:
    answer = Gate().ask()
    assert (answer.decision, answer.reason) == (CallDecision.ALLOW, CallReason.KEY_AVAILABLE)
    assert (answer.key, answer.evidence_age, answer.sip_status) == (MAIN, timedelta(seconds=3), 0)
    assert answer.valid_until == NOW + timedelta(seconds=5)


@pytest.mark.parametrize("state", NOT_USABLE)
@pytest.mark.parametrize("mode", GateMode)
def test_what_happens_without_a_usable_key_is_the_tenant_s_choice(state: KeyState, mode: GateMode) -> None:
    answer = Gate(mode, main=state).ask()
    expected = {
        GateMode.OFF: CallDecision.ALLOW,
        GateMode.REFUSE: CallDecision.REFUSE,
        GateMode.ALLOW_NO_RECORDING: CallDecision.ALLOW_NO_RECORDING,
    }
    assert answer.decision is expected[mode]
    assert answer.reason is (CallReason.GATING_OFF if mode is GateMode.OFF else CallReason(f"key_{state}"))
    assert answer.sip_status == (0 if mode is not GateMode.REFUSE else 403 if state is KeyState.REVOKED else 503)


@pytest.mark.parametrize("state", KeyState)
@pytest.mark.parametrize("mode", GateMode)
@pytest.mark.parametrize("callee", ["911", "9911", "tel:112", "sip:911@pbx", "urn:service:sos.fire", "7777"])
def test_an_emergency_call_connects_whatever_the_state_and_the_mode(
    state: KeyState, mode: GateMode, callee: str
) -> None:
    answer = Gate(mode, main=state).ask(callee)
    assert (answer.decision, answer.reason, answer.emergency) == (CallDecision.ALLOW, CallReason.EMERGENCY, True)


@pytest.mark.parametrize(
    "facts", [{"tenant": "nobody"}, {"group": "no-such-group"}, {"stores": (AssetClass.PHONE_MMS,)}]
)
def test_an_emergency_call_connects_whatever_else_is_wrong(facts: dict[str, object]) -> None:
    assert Gate(main=KeyState.REVOKED).ask("911", **facts).emergency  # type: ignore[arg-type]


def test_a_tenant_that_nobody_knows_gets_every_country_s_emergency_numbers_and_nothing_else() -> None:
    assert Gate().ask("999", tenant="nobody").emergency
    with pytest.raises(TenantNotFound):
        Gate().ask(tenant="nobody")


def test_a_group_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="no group 'sales'"):
        Gate().ask(group="sales")


def test_a_call_that_stores_nothing_needs_no_key() -> None:
    answer = Gate(main=KeyState.REVOKED).ask(stores=())
    assert (answer.decision, answer.reason, answer.key) == (CallDecision.ALLOW, CallReason.NOTHING_STORED, None)


def test_only_the_keys_of_what_is_stored_count() -> None:
    gate = Gate(voicemail=KeyState.REVOKED)
    assert gate.ask().decision is CallDecision.ALLOW
    assert gate.ask(stores=(AssetClass.PHONE_VOICEMAIL,)).decision is CallDecision.REFUSE
    both = gate.ask(stores=(AssetClass.PHONE_RECORDING, AssetClass.PHONE_VOICEMAIL))
    assert (both.decision, both.key) == (CallDecision.REFUSE, VOICEMAIL)


def test_of_two_bad_keys_the_revoked_one_is_told() -> None:
    stores = (AssetClass.PHONE_RECORDING, AssetClass.PHONE_VOICEMAIL)
    answer = Gate(main=KeyState.UNREACHABLE, voicemail=KeyState.REVOKED).ask(stores=stores)
    assert (answer.reason, answer.sip_status) == (CallReason.KEY_REVOKED, 403)


def test_content_that_policy_denies_is_not_recorded_and_the_call_goes_on() -> None:
    answer = Gate().ask(stores=(AssetClass.PHONE_MMS,))
    assert (answer.decision, answer.reason) == (CallDecision.ALLOW_NO_RECORDING, CallReason.POLICY_DENIED)
    assert "no-mms" in answer.explanation


def test_the_provider_s_key_gates_what_it_protects() -> None:
    answer = Gate(provider=KeyState.UNREACHABLE).ask(stores=(AssetClass.PHONE_TRANSCRIPT,))
    assert (answer.decision, answer.key) == (CallDecision.REFUSE, PROVIDER)


def test_a_direction_that_is_not_gated_goes_through() -> None:
    gate = Gate(main=KeyState.REVOKED)
    assert gate.ask(direction=CallDirection.INTERNAL).reason is CallReason.GATING_OFF
    assert gate.ask(direction=None).decision is CallDecision.REFUSE


def test_evidence_that_is_too_old_proves_nothing() -> None:
    gate = Gate()
    gate.now = NOW + timedelta(seconds=58)
    answer = gate.ask()
    assert (answer.decision, answer.reason) == (CallDecision.REFUSE, CallReason.KEY_UNKNOWN)
    assert answer.evidence_age == timedelta(seconds=61)


def test_what_is_not_allowed_in_full_is_in_the_audit_trail_and_what_is_allowed_is_not() -> None:
    gate = Gate(main=KeyState.REVOKED)
    gate.ask()
    [record] = [one for one in gate.trail.records if one.tenant]
    assert (record.action, record.reason, record.decision) == ("authorize_call", "KEY_REVOKED", "refuse")
    assert (record.caller.principal, record.key, record.detail["call_id"]) == ("pbx", MAIN.name, "call-1")
    allowed = Gate()
    allowed.ask()
    assert allowed.trail.records == []


def test_an_emergency_call_connects_and_another_is_an_error_when_the_database_is_away() -> None:
    gate = Gate()
    gate.known.before_answer = lambda _: (_ for _ in ()).throw(DatabaseUnavailable("gone"))
    assert gate.ask("911").emergency
    assert gate.ask("999").emergency, "the tenant's country is not known, so that every country's numbers count"
    with pytest.raises(DatabaseUnavailable):
        gate.ask()


@pytest.mark.parametrize("callee", ["911", "9911", "0112", "urn:service:sos"])
def test_an_emergency_call_connects_whatever_keeps_its_tenant_from_being_loaded(callee: str) -> None:
    gate = Gate()
    gate.known.failure = None
    gate.known.before_answer = lambda _: (_ for _ in ()).throw(RuntimeError("a row that cannot be read"))
    assert gate.ask(callee).emergency


def rule(name: str, mode: GateMode, **conditions: object) -> GateRule:
    return GateRule(name, Choices(mode), **conditions)  # type: ignore[arg-type]


RULES = CallGate(
    GateMode.REFUSE,
    countries=("US",),
    rules=(
        rule("finance", GateMode.ALLOW_NO_RECORDING, groups=frozenset({"finance"})),
        rule("berlin", GateMode.ALLOW, sites=frozenset({"berlin"})),
        rule("hotline", GateMode.ALLOW_NO_RECORDING, queues=frozenset({"hotline"}), callees=("+1555",)),
        rule("voicemail", GateMode.ALLOW, stores=frozenset({AssetClass.PHONE_VOICEMAIL})),
    ),
)


@pytest.mark.parametrize(
    ("facts", "name", "decision"),
    [
        ({"user": "ann"}, "finance", CallDecision.ALLOW_NO_RECORDING),
        ({"group": "finance"}, "finance", CallDecision.ALLOW_NO_RECORDING),
        ({"site": "berlin"}, "berlin", CallDecision.ALLOW),
        ({"queue": "hotline"}, "hotline", CallDecision.ALLOW_NO_RECORDING),
        ({"queue": "hotline", "callee": "+4930123"}, "default", CallDecision.REFUSE),
        ({"stores": (AssetClass.PHONE_VOICEMAIL,)}, "voicemail", CallDecision.ALLOW),
        ({"user": "bob"}, "default", CallDecision.REFUSE),
    ],
)
def test_the_first_rule_that_matches_decides_and_is_told(
    facts: dict[str, str], name: str, decision: CallDecision
) -> None:
    gate = Gate(gate=RULES, main=KeyState.UNREACHABLE, voicemail=KeyState.UNREACHABLE)
    answer = gate.ask(**facts)  # type: ignore[arg-type]
    assert (answer.rule, answer.decision) == (name, decision)
    told = [record.rule for record in gate.trail.records if record.tenant]
    assert told == ([] if decision is CallDecision.ALLOW else [name])


def test_each_state_has_its_own_choice_and_an_outage_says_when_to_try_again() -> None:
    choices = Choices(revoked=GateMode.REFUSE, unreachable=GateMode.ALLOW_NO_RECORDING, misconfigured=GateMode.REFUSE)
    gate = CallGate(GateMode.ALLOW, countries=("US",), choices=choices)
    revoked = Gate(gate=gate, main=KeyState.REVOKED).ask()
    assert (revoked.decision, revoked.sip_status, revoked.retry_after) == (CallDecision.REFUSE, 403, None)
    wrong = Gate(gate=gate, main=KeyState.MISCONFIGURED).ask()
    assert (wrong.decision, wrong.sip_status, wrong.retry_after) == (CallDecision.REFUSE, 503, timedelta(seconds=30))
    assert Gate(gate=gate, main=KeyState.UNREACHABLE).ask().decision is CallDecision.ALLOW_NO_RECORDING
    assert Gate(gate=gate, main=KeyState.UNKNOWN).ask().decision is CallDecision.ALLOW


def test_grace_bridges_an_outage_until_it_is_over_and_no_revocation() -> None:
    gate = Gate(gate=CallGate(GateMode.REFUSE, countries=("US",), choices=Choices(grace=60)))
    gate.board.saw(MAIN.name, "embedded", KeyState.UNREACHABLE, "pulled", NOW, began=gate.board.moment)
    answer = gate.ask()
    assert (answer.decision, answer.reason) == (CallDecision.ALLOW, CallReason.GRACE)
    gate.now = NOW + timedelta(seconds=55)
    assert gate.ask().valid_until == gate.now + timedelta(seconds=2), "no longer than the grace"
    gate.now = NOW + timedelta(seconds=57)
    assert gate.ask().decision is CallDecision.REFUSE
    gate.now = NOW
    gate.board.saw(MAIN.name, "embedded", KeyState.REVOKED, "disabled", NOW, began=gate.board.moment)
    assert gate.ask().reason is CallReason.KEY_REVOKED
    gate.board.saw(MAIN.name, "embedded", KeyState.UNREACHABLE, "pulled", NOW, began=gate.board.moment)
    answer = gate.ask()
    assert (answer.decision, answer.reason) == (CallDecision.REFUSE, CallReason.KEY_UNREACHABLE)


async def test_a_known_tenant_is_answered_about_from_memory_whatever_the_database_and_the_key_store_do() -> None:
    gate = Gate(main=KeyState.AVAILABLE)
    clock = [0.0]
    with ThreadPoolExecutor(1) as executor:
        directory = await directory_of(gate.known, executor, monotonic=lambda: clock[0])
        probes = HangingProbes(directory, KeyRing({}, gate.board, lambda: NOW, timedelta(seconds=5)), gate.board)
        audit = AuditLog(gate.trail, ListWriter(), lambda: gate.now)
        keeper = CallGateKeeper(directory, gate.board, probes, audit, lambda: gate.now, timedelta(seconds=5))
        call = Call("acme", "call-1", "+15551234567", stores=(AssetClass.PHONE_RECORDING,))
        assert (await keeper.authorize(call, Caller("pbx"))).reason is CallReason.KEY_AVAILABLE
        gate.known.failure = DatabaseUnavailable("gone")
        gate.known.questions.clear()
        assert (await keeper.authorize(call, Caller("pbx"))).reason is CallReason.KEY_AVAILABLE
        assert gate.known.questions == []
        gate.now = NOW + timedelta(seconds=100)
        answer = await asyncio.wait_for(keeper.authorize(call, Caller("pbx")), 0.2)
        assert answer.reason is CallReason.KEY_UNKNOWN, "it does not wait for a key store that hangs"
        gate.now = NOW
        clock[0] = 1000.0
        answer = await keeper.authorize(call, Caller("pbx"))
        assert (answer.decision, answer.reason) == (CallDecision.REFUSE, CallReason.KEY_UNKNOWN)
        assert "database" in answer.explanation


class HangingProbes(Probes):
    """Probes of a key store that does not answer."""

    def __init__(self, directory, ring, board) -> None:  # type: ignore[no-untyped-def]
        super().__init__(directory, ring, board, lambda: NOW, timedelta(seconds=60))

    async def first_evidence(self, keys: Iterable[CustomerKey]) -> None:
        await asyncio.Event().wait()
