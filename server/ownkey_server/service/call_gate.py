"""The call gate: whether a call may be set up, decided from memory.

The order is the promise: an emergency call is allowed before anything else is looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum

from ownkey import emergency, gate
from ownkey.gate.rules import SIP_SERVICE_UNAVAILABLE
from ownkey_server.domain.assets import Asset, AssetClass
from ownkey_server.domain.audit import Action, AuditRecord, Caller, Result
from ownkey_server.domain.call_gates import CallDirection, CallGate
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import DatabaseUnavailable, OwnkeyError, ServiceImpaired
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.service.access import NO_GROUPS, revocation_of, rule_on
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.call_refusals import CallRefusals
from ownkey_server.service.cancelled import by_the_caller
from ownkey_server.service.directory import Directory
from ownkey_server.service.gates import compiled
from ownkey_server.service.probes import Probes
from ownkey_server.service.status_board import StatusBoard


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
    GRACE = "grace"
    VIEW_STALE = "view_stale"


# An emergency call waits no longer for the tenant's own numbers.
EMERGENCY_SECONDS = 0.25
# A call waits no longer for a tenant that was known and has changed, and for one that was never asked for.
KNOWN_SECONDS = 0.25
FIRST_SECONDS = 1.0
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
        caller: Who calls, in any way of writing, or empty.
        site: The site, or empty.
    """

    tenant: str
    call_id: str
    callee: str
    direction: CallDirection | None = None
    user: str = ""
    group: str = ""
    stores: tuple[AssetClass, ...] = ()
    queue: str = ""
    caller: str = ""
    site: str = ""


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """Whether a call may be set up, and why.

    Attributes:
        sip_status: For ``REFUSE``; else 0.
        key: The key that decided, if one did.
        evidence_age: Of that key; None when there is no evidence.
        rule: Name of the rule of the gate that decided; empty when the gate was not asked.
        retry_after: For 503: when to try again.
    """

    decision: CallDecision
    reason: CallReason
    explanation: str
    valid_until: datetime
    sip_status: int = 0
    key: CustomerKey | None = None
    evidence_age: timedelta | None = None
    rule: str = ""
    retry_after: timedelta | None = None

    @property
    def emergency(self) -> bool:
        """Whether the call goes to an emergency service."""
        return self.reason is CallReason.EMERGENCY


@dataclass(frozen=True, slots=True)
class _Needed:
    """A key that a call needs, and what is known of it."""

    key: CustomerKey
    sight: gate.KeySight


class CallGateKeeper:
    """Decides about calls.

    Attributes:
        retry_after: When a caller who was refused for an outage may try again.
        refusals: Tell the trail of what is not allowed in full.

    Args:
        answer_valid: How long an answer may be used for calls with the same facts.
        retry_after: When a caller who was refused for an outage may try again.
    """

    def __init__(
        self,
        directory: Directory,
        board: StatusBoard,
        probes: Probes,
        audit: AuditLog,
        clock: Clock,
        answer_valid: timedelta,
        retry_after: timedelta = timedelta(seconds=30),
    ) -> None:
        self._directory = directory
        self._board = board
        self._probes = probes
        self.refusals = CallRefusals(audit)
        self._clock = clock
        self._answer_valid = answer_valid
        self.retry_after = retry_after
        self._looking: set[asyncio.Task[None]] = set()

    async def emergency_answer(
        self, tenant_id: str, callee: str, standing: Standing = Standing.KNOWN
    ) -> CallAnswer | None:
        """Allow a call to an emergency service, whatever else is wrong with the request; None for any other call.

        A tenant that nobody knows, or that cannot be looked up at once, gets the emergency numbers of every country.
        Nothing makes this fail.
        """
        own = None if standing is Standing.UNKNOWN else await self._emergency_gate(tenant_id)
        gates = [own] if own is not None else []
        if own is None or standing is Standing.IN_DOUBT:
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
        answer = await self.decide(call)
        if answer.decision is not CallDecision.ALLOW:
            self.note(call, caller, answer)
        return answer

    async def decide(self, call: Call, *, wait: bool = True) -> CallAnswer:
        """Decide about a call that is no emergency, and say nothing of it in the trail; raises as :meth:`authorize`.

        Args:
            call: The facts.
            wait: Whether to wait a moment for the first evidence about a key.
        """
        tenant, doubt = await self.tenant(call.tenant)
        if not call.stores:
            return self._answer(CallDecision.ALLOW, CallReason.NOTHING_STORED, "nothing of the call will be stored")
        needed = await self._needed_keys(tenant, call, doubt, wait=wait)
        return needed if isinstance(needed, CallAnswer) else self._gated(tenant, call, needed)

    async def tenant(self, tenant_id: str) -> tuple[Tenant, str]:
        """The tenant, and why it is not known for certain; empty when it is.

        A tenant that was known is decided about as it was, and its keys count as unknown.
        """
        known = self._directory.last_known(tenant_id)
        try:
            async with asyncio.timeout(KNOWN_SECONDS if known else FIRST_SECONDS):
                return await self._directory.tenant(tenant_id), ""
        except (ServiceImpaired, TimeoutError) as error:
            if known is None:
                if isinstance(error, TimeoutError):
                    raise DatabaseUnavailable(f"no answer within {FIRST_SECONDS:g} s") from None
                raise
            return known, "the database does not tell whether it was taken back"

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

    def note(self, call: Call, caller: Caller, answer: CallAnswer, *, mid_call: bool = False) -> None:
        """Have it in the trail that a call is not allowed in full."""
        # Without waiting: the answer gives nobody a key, and telephony must not hang on the database.
        self.refusals.note(
            AuditRecord(
                time=self._clock(),
                action=Action.AUTHORIZE_CALL,
                result=Result.REFUSED,
                caller=caller,
                reason=answer.reason.name,
                tenant=call.tenant,
                key=answer.key.name if answer.key else "",
                decision=answer.decision.value,
                rule=answer.rule,
                detail={
                    "call_id": call.call_id,
                    "stores": [one.value for one in call.stores],
                    **({"mid_call": True} if mid_call else {}),
                },
            )
        )

    def _gated(self, tenant: Tenant, call: Call, needed: list[_Needed]) -> CallAnswer:
        groups = tenant.groups_of.get(call.user, NO_GROUPS)
        facts = gate.Facts(
            caller=call.caller,
            callee=call.callee,
            direction=call.direction.value if call.direction else "",
            site=call.site,
            queue=call.queue,
            groups=groups | {call.group} if call.group else groups,
            stores=tuple(one.value for one in call.stores),
        )
        verdict = gate.decide(compiled(tenant.call_gate).rule_for(facts), [one.sight for one in needed])
        sight = verdict.key
        return self._answer(
            CallDecision(verdict.decision),
            CallReason(verdict.reason),
            verdict.explanation,
            verdict.sip_status,
            next(one.key for one in needed if one.sight is sight),
            None if sight.age is None else timedelta(seconds=sight.age),
            verdict.rule,
            verdict.grace_left,
        )

    async def _needed_keys(self, tenant: Tenant, call: Call, doubt: str, *, wait: bool) -> list[_Needed] | CallAnswer:
        """The keys for all that will be stored, or an answer when policy forbids to store any of it."""
        found, keys, now = [], [], self._clock()
        for asset_class in call.stores:
            asset = Asset(call.tenant, asset_class, call.call_id, user=call.user, group=call.group)
            ruling = rule_on(tenant, self._directory.provider_key, asset, now)
            if ruling.key is None:
                # No key would help, so refusing the call would be the wrong answer: it must not be recorded.
                explanation = f"policy rule {ruling.decision.rule!r} denies to store a {asset_class}"
                return self._answer(CallDecision.ALLOW_NO_RECORDING, CallReason.POLICY_DENIED, explanation)
            taken_back = revocation_of(tenant, asset, ruling.key, now, queue=call.queue)
            if taken_back is not None:
                sight = gate.KeySight(ruling.key.name, KeyState.REVOKED.value, taken_back.told, 0.0)
                found.append(_Needed(ruling.key, sight))
            else:
                keys.append(ruling.key)
        if keys and not doubt:
            look, unseen = self.look(keys)
            if look is not None and unseen and wait:
                await asyncio.wait({look}, timeout=FIRST_SECONDS)
        return [*found, *(_Needed(key, self.sight(key, self._clock(), doubt)) for key in keys)]

    def look(self, keys: Sequence[CustomerKey]) -> tuple[asyncio.Task[None] | None, bool]:
        """Have keys asked after of which nothing fresh is known; gives what does it, and if a key was never seen."""
        now = self._clock()
        seen = [self._board.of(key, now) for key in keys]
        if not any(one is None or one.state is KeyState.UNKNOWN for one in seen):
            return None, False
        look = asyncio.get_running_loop().create_task(self._look(keys))
        self._looking.add(look)
        look.add_done_callback(self._looking.discard)
        return look, None in seen

    async def _look(self, keys: Sequence[CustomerKey]) -> None:
        try:
            await self._probes.first_evidence(keys)
        except Exception:  # noqa: BLE001 - logged whole; the call is decided by what is known
            _log.exception("keys could not be asked after")

    def sight(self, key: CustomerKey, now: datetime, doubt: str = "") -> gate.KeySight:
        """What is known of a key."""
        evidence = self._board.of(key, now)
        worked_at = self._board.last_worked(key)
        worked = None if worked_at is None else max((now - worked_at).total_seconds(), 0.0)
        if evidence is None:
            return gate.KeySight(key.name, KeyState.UNKNOWN.value, doubt or "it was not asked yet", None, worked)
        state, cause = evidence.state, evidence.cause
        if doubt and state.usable:
            state, cause = KeyState.UNKNOWN, doubt
        age = max((now - evidence.observed_at).total_seconds(), 0.0)
        taken = evidence.revoked_at is not None
        return gate.KeySight(key.name, state.value, cause, age, worked, taken)

    def _answer(
        self,
        decision: CallDecision,
        reason: CallReason,
        explanation: str,
        sip_status: int = 0,
        key: CustomerKey | None = None,
        evidence_age: timedelta | None = None,
        rule: str = "",
        grace_left: float | None = None,
    ) -> CallAnswer:
        valid = self._answer_valid if grace_left is None else min(self._answer_valid, timedelta(seconds=grace_left))
        retry_after = self.retry_after if sip_status == SIP_SERVICE_UNAVAILABLE else None
        valid_until = self._clock() + valid
        return CallAnswer(decision, reason, explanation, valid_until, sip_status, key, evidence_age, rule, retry_after)


def _is_emergency(callee: str, told: CallGate) -> bool:
    try:
        return emergency.is_emergency(
            callee,
            told.countries,
            own_numbers=told.emergency_numbers,
            outside_line_prefixes=told.outside_line_prefixes,
        )
    except Exception:  # noqa: BLE001 - a gate that cannot be used holds up no emergency call
        _log.exception("a call gate cannot be used to tell emergency calls")
        return told is not UNKNOWN_GATE and _is_emergency(callee, UNKNOWN_GATE)
