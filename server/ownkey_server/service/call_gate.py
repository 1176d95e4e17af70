"""The call gate: whether a call may be set up, decided from memory.

The order is the promise: an emergency call is allowed before anything else is looked at.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum

from ownkey import emergency
from ownkey_server.domain.assets import Asset, AssetClass
from ownkey_server.domain.audit import Action, AuditRecord, Caller, Result
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import OwnkeyError
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CallDirection, CallGate, CustomerKey, GateMode, Tenant
from ownkey_server.service.access import revocation_of, rule_on
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.cancelled import by_the_caller
from ownkey_server.service.directory import Directory
from ownkey_server.service.probes import Probes
from ownkey_server.service.status_board import StatusBoard

# RFC 3261: 403 tells the caller's side that the server understood and will not, 503 that trying again may help.
SIP_FORBIDDEN = 403
SIP_SERVICE_UNAVAILABLE = 503


class CallDecision(StrEnum):
    """Whether a call may be set up."""

    ALLOW = "allow"
    ALLOW_NO_RECORDING = "allow_no_recording"
    REFUSE = "refuse"


class Standing(Enum):
    """What is known of whoever asks about a call, and so which numbers are emergency numbers in the answer.

    ``KNOWN``: it may ask about the tenant, whose countries and own numbers count. ``IN_DOUBT``: it is known who asks,
    and not whether they may: the tenant's own numbers count and every country's, for a life may depend on either.
    ``UNKNOWN``: nobody knows who asks, or they may not: every country's numbers count, and say nothing of it.
    """

    KNOWN = 0
    IN_DOUBT = 1
    UNKNOWN = 2


class CallReason(StrEnum):
    """What decided about a call."""

    EMERGENCY = "emergency"
    NOTHING_STORED = "nothing_stored"
    GATING_OFF = "gating_off"
    KEY_AVAILABLE = "key_available"
    POLICY_DENIED = "policy_denied"
    KEY_REVOKED = "key_revoked"
    KEY_UNREACHABLE = "key_unreachable"
    KEY_MISCONFIGURED = "key_misconfigured"
    KEY_UNKNOWN = "key_unknown"


REASON_OF_STATE = {
    KeyState.AVAILABLE: CallReason.KEY_AVAILABLE,
    KeyState.DEGRADED: CallReason.KEY_AVAILABLE,
    KeyState.REVOKED: CallReason.KEY_REVOKED,
    KeyState.UNREACHABLE: CallReason.KEY_UNREACHABLE,
    KeyState.MISCONFIGURED: CallReason.KEY_MISCONFIGURED,
    KeyState.UNKNOWN: CallReason.KEY_UNKNOWN,
}
# When several keys are needed, the one in the worst state decides; a revocation is the customer's word and comes first.
WORST_FIRST = (
    KeyState.REVOKED,
    KeyState.MISCONFIGURED,
    KeyState.UNREACHABLE,
    KeyState.UNKNOWN,
    KeyState.DEGRADED,
    KeyState.AVAILABLE,
)
# An emergency call waits no longer for the tenant's own numbers.
EMERGENCY_SECONDS = 0.25
# Of a tenant that cannot be looked up: every country's numbers, also behind the digits that mostly get an outside line.
UNKNOWN_GATE = CallGate(outside_line_prefixes=("0", "8", "9"))

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """The facts about a call that is to be set up.

    Attributes:
        callee: Who is called, in any way of writing.
        stores: What will be stored of it; empty means nothing.
        queue: The call queue, or empty.
    """

    tenant: str
    call_id: str
    callee: str
    direction: CallDirection | None = None
    user: str = ""
    group: str = ""
    stores: tuple[AssetClass, ...] = ()
    queue: str = ""


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """Whether a call may be set up, and why.

    Attributes:
        sip_status: For ``REFUSE``; else 0.
        key: The key that decided, if one did.
        evidence_age: Of that key; None when there is no evidence.
    """

    decision: CallDecision
    reason: CallReason
    explanation: str
    valid_until: datetime
    sip_status: int = 0
    key: CustomerKey | None = None
    evidence_age: timedelta | None = None

    @property
    def emergency(self) -> bool:
        """Whether the call goes to an emergency service."""
        return self.reason is CallReason.EMERGENCY


@dataclass(frozen=True, slots=True)
class _NeededKey:
    key: CustomerKey
    state: KeyState
    cause: str
    age: timedelta | None


class CallGateKeeper:
    """Decides about calls.

    Args:
        answer_valid: How long an answer may be used for calls with the same facts.
    """

    def __init__(
        self,
        directory: Directory,
        board: StatusBoard,
        probes: Probes,
        audit: AuditLog,
        clock: Clock,
        answer_valid: timedelta,
    ) -> None:
        self._directory = directory
        self._board = board
        self._probes = probes
        self._audit = audit
        self._clock = clock
        self._answer_valid = answer_valid

    async def emergency_answer(
        self, tenant_id: str, callee: str, standing: Standing = Standing.KNOWN
    ) -> CallAnswer | None:
        """Allow a call to an emergency service, whatever else is wrong with the request; None for any other call.

        A tenant that nobody knows, or that cannot be looked up at once, gets the emergency numbers of every country.
        Nothing makes this fail.
        """
        gate = None if standing is Standing.UNKNOWN else await self._emergency_gate(tenant_id)
        gates = [gate] if gate is not None else []
        if gate is None or standing is Standing.IN_DOUBT:
            gates.append(UNKNOWN_GATE)
        if not any(_is_emergency(callee, one) for one in gates):
            return None
        return self._answer(CallDecision.ALLOW, CallReason.EMERGENCY, "emergency calls always connect")

    async def authorize(self, call: Call, caller: Caller) -> CallAnswer:
        """Decide about a call. What is not allowed in full is in the audit trail.

        Raises:
            TenantNotFound: There is no such tenant, and this is no emergency call.
            InvalidRequest: The call names a group that the tenant does not have, and this is no emergency call.
            ServiceImpaired: The tenant is not known for certain, and this is no emergency call.
        """
        answer = await self.emergency_answer(call.tenant, call.callee)
        if answer is not None:
            return answer
        tenant = await self._directory.tenant(call.tenant)
        if not call.stores:
            return self._answer(CallDecision.ALLOW, CallReason.NOTHING_STORED, "nothing of the call will be stored")
        needed = await self._needed_keys(tenant, call)
        if isinstance(needed, CallAnswer):
            answer = needed
        else:
            worst = min(needed, key=lambda one: WORST_FIRST.index(one.state))
            answer = self._gated(tenant.call_gate, call, worst)
        if answer.decision is not CallDecision.ALLOW:
            self._note(call, caller, answer)
        return answer

    async def _emergency_gate(self, tenant_id: str) -> CallGate | None:
        """The tenant's gate; None when it cannot be looked up at once, or there is no such tenant."""
        tenant = None
        try:
            tenant = self._directory.last_known(tenant_id)
            if tenant is None:
                tenant = await asyncio.wait_for(self._directory.tenant(tenant_id), EMERGENCY_SECONDS)
        except asyncio.CancelledError:
            if by_the_caller():
                raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is nothing to hold up an emergency call
            if not isinstance(error, OwnkeyError | TimeoutError):
                _log.exception("the call gate of tenant %.64r could not be loaded", tenant_id)
        return None if tenant is None else tenant.call_gate

    def _note(self, call: Call, caller: Caller, answer: CallAnswer) -> None:
        # Without waiting: the answer gives nobody a key, and telephony must not hang on the database.
        self._audit.note(
            AuditRecord(
                time=self._clock(),
                action=Action.AUTHORIZE_CALL,
                result=Result.REFUSED,
                caller=caller,
                reason=answer.reason.name,
                tenant=call.tenant,
                key=answer.key.name if answer.key else "",
                decision=answer.decision.value,
                detail={"call_id": call.call_id, "stores": [one.value for one in call.stores]},
            )
        )

    def _gated(self, gate: CallGate, call: Call, worst: _NeededKey) -> CallAnswer:
        if worst.state.usable:
            return self._about(worst, CallDecision.ALLOW, CallReason.KEY_AVAILABLE)
        if gate.mode is GateMode.OFF or (call.direction is not None and call.direction not in gate.directions):
            return self._about(worst, CallDecision.ALLOW, CallReason.GATING_OFF)
        reason = REASON_OF_STATE[worst.state]
        if gate.mode is GateMode.ALLOW_NO_RECORDING:
            return self._about(worst, CallDecision.ALLOW_NO_RECORDING, reason)
        sip_status = SIP_FORBIDDEN if worst.state is KeyState.REVOKED else SIP_SERVICE_UNAVAILABLE
        return self._about(worst, CallDecision.REFUSE, reason, sip_status)

    async def _needed_keys(self, tenant: Tenant, call: Call) -> list[_NeededKey] | CallAnswer:
        """The keys for all that will be stored, or an answer when policy forbids to store any of it."""
        keys, now = [], self._clock()
        for asset_class in call.stores:
            asset = Asset(call.tenant, asset_class, call.call_id, user=call.user, group=call.group)
            ruling = rule_on(tenant, self._directory.provider_key, asset, now)
            if ruling.key is None:
                # No key would help, so refusing the call would be the wrong answer: it must not be recorded.
                explanation = f"policy rule {ruling.decision.rule!r} denies to store a {asset_class}"
                return self._answer(CallDecision.ALLOW_NO_RECORDING, CallReason.POLICY_DENIED, explanation)
            taken_back = revocation_of(tenant, asset, ruling.key, now, queue=call.queue)
            if taken_back is not None:
                return [_NeededKey(ruling.key, KeyState.REVOKED, taken_back.told, timedelta())]
            keys.append(ruling.key)
        await self._probes.first_evidence(keys)
        return [self._needed(key, self._clock()) for key in keys]

    def _needed(self, key: CustomerKey, now: datetime) -> _NeededKey:
        evidence = self._board.of(key, now)
        if evidence is None:
            return _NeededKey(key, KeyState.UNKNOWN, "it was not asked yet", None)
        return _NeededKey(key, evidence.state, evidence.cause, now - evidence.observed_at)

    def _about(self, needed: _NeededKey, decision: CallDecision, reason: CallReason, sip_status: int = 0) -> CallAnswer:
        explanation = f"key {needed.key.name} is {needed.state}" + (f": {needed.cause}" if needed.cause else "")
        if reason is CallReason.GATING_OFF:
            explanation += "; the tenant does not gate this call"
        return self._answer(decision, reason, explanation, sip_status, needed.key, needed.age)

    def _answer(
        self,
        decision: CallDecision,
        reason: CallReason,
        explanation: str,
        sip_status: int = 0,
        key: CustomerKey | None = None,
        evidence_age: timedelta | None = None,
    ) -> CallAnswer:
        valid_until = self._clock() + self._answer_valid
        return CallAnswer(decision, reason, explanation, valid_until, sip_status, key, evidence_age)


def _is_emergency(callee: str, gate: CallGate) -> bool:
    try:
        return emergency.is_emergency(
            callee,
            gate.countries,
            own_numbers=gate.emergency_numbers,
            outside_line_prefixes=gate.outside_line_prefixes,
        )
    except Exception:  # noqa: BLE001 - a gate that cannot be used holds up no emergency call
        _log.exception("a call gate cannot be used to tell emergency calls")
        return gate is not UNKNOWN_GATE and _is_emergency(callee, UNKNOWN_GATE)
