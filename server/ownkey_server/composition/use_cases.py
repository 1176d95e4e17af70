"""The use cases, and the gates before them, as the settings say."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta

from ownkey_server.composition.core import Core
from ownkey_server.composition.watching import open_watches
from ownkey_server.rpc.admin.services import AdminServices
from ownkey_server.rpc.dispatch import Gates
from ownkey_server.rpc.identity import Authenticator
from ownkey_server.rpc.key_service import Services
from ownkey_server.rpc.server import ServerOptions
from ownkey_server.rpc.stream_guard import Streams, stream_limits, watch_limits
from ownkey_server.rpc.transport import transport_limits
from ownkey_server.service.administration.approvals import Approvals
from ownkey_server.service.administration.audit_trail import AuditTrail
from ownkey_server.service.administration.branch_keys import BranchKeyOffice
from ownkey_server.service.administration.enrolment import Enrolment
from ownkey_server.service.administration.groups import Groups
from ownkey_server.service.administration.keys import Keys
from ownkey_server.service.administration.notifications import Notifications
from ownkey_server.service.administration.policies import Policies
from ownkey_server.service.administration.principals import Principals
from ownkey_server.service.administration.receipts import Receipts
from ownkey_server.service.administration.revocation_previews import RevocationPreviews
from ownkey_server.service.administration.revocations import Revocations
from ownkey_server.service.administration.simulation import Simulation
from ownkey_server.service.administration.tenants import Tenants
from ownkey_server.service.admission import Admission, AdmissionLimits, Priority
from ownkey_server.service.authorization import Authorizer
from ownkey_server.service.call_gate import CallGateKeeper
from ownkey_server.service.data_keys import DataKeys
from ownkey_server.service.gate_views import GateViews
from ownkey_server.service.key_status import KeyStatus
from ownkey_server.service.media import Media
from ownkey_server.service.policy_checks import PolicyChecks
from ownkey_server.service.probes import Probes
from ownkey_server.service.rates import Rate, RateLimits, Rates
from ownkey_server.service.refusals import Refusals
from ownkey_server.service.rewrapping import Rewraps
from ownkey_server.service.strangers import Budget, Strangers
from ownkey_server.service.watched_calls import CallLimits, WatchedCalls
from ownkey_server.settings import Settings
from ownkey_server.settings.limits import LimitSettings


def services(core: Core, probes: Probes) -> Services:
    """The data plane."""
    directory, board, clock, settings = core.directory, core.board, core.clock, core.settings
    lease = timedelta(seconds=settings.keys.lease_seconds)
    data_keys = DataKeys(directory, core.ring, core.branches, core.audit, clock, lease)
    key_status = KeyStatus(directory, board, probes, clock)
    watches, changes = open_watches(core, key_status)
    answer_valid = timedelta(seconds=settings.call_gate.answer_valid_seconds)
    retry_after = timedelta(seconds=settings.call_gate.retry_after_seconds)
    keeper = CallGateKeeper(directory, board, probes, core.audit, clock, answer_valid, retry_after)
    call_limits = CallLimits(settings.limits.watched_calls_per_stream, settings.limits.watched_calls_per_tenant)
    return Services(
        data_keys=data_keys,
        rewraps=Rewraps(directory, core.ring, core.branches, core.audit, clock),
        media=Media(data_keys, core.stream_checks, clock),
        policy_checks=PolicyChecks(directory, board, clock),
        key_status=key_status,
        key_watches=watches,
        key_changes=changes,
        watch_heartbeat=settings.keys.watch_heartbeat_seconds,
        open_streams=core.open_streams,
        call_gate=keeper,
        gate_views=GateViews(directory, keeper, board, clock),
        watched_calls=WatchedCalls(keeper, call_limits),
        gate_heartbeat=settings.call_gate.heartbeat_seconds,
    )


def admin_services(core: Core, authorizer: Authorizer, notifications: Notifications) -> AdminServices:
    """The control plane."""
    desk, enrolment = core.desk, Enrolment(core.ring)
    trail = AuditTrail(desk, core.database)
    return AdminServices(
        tenants=Tenants(desk),
        keys=Keys(desk, enrolment, core.kinds, core.canaries),
        branch_keys=BranchKeyOffice(desk, core.ring, core.source, core.branches),
        groups=Groups(desk),
        policies=Policies(desk),
        principals=Principals(desk),
        configuration=core.configuration(),
        simulation=Simulation(desk, trail),
        audit_trail=trail,
        approvals=Approvals(desk, authorizer),
        retention=core.retention(),
        revocations=Revocations(desk),
        revocation_previews=RevocationPreviews(
            desk,
            core.open_streams,
            core.branches,
            timedelta(seconds=core.settings.keys.lease_seconds),
            lambda: core.uses_writer.number,
        ),
        notifications=notifications,
        receipts=Receipts(desk, core.signer, _closing_bounds(core.settings)),
    )


def _closing_bounds(settings: Settings) -> Mapping[str, float]:
    """By what an instance that hears nothing any more serves nothing, in the words of the settings."""
    keys = settings.keys
    return {
        "storage.view_max_age_seconds": settings.storage.view_max_age_seconds,
        "keys.lease_seconds": keys.lease_seconds,
        "keys.branch_lease_seconds": keys.branch_lease_seconds,
        "keys.stream_check_seconds": keys.stream_check_seconds,
    }


def gates(core: Core, authorizer: Authorizer, refusals: Refusals) -> Gates:
    """What every call goes through first."""
    settings, clock = core.settings, core.clock
    server = settings.server
    return Gates(
        authenticator=Authenticator(settings.identity, server.tls, development=server.development, clock=clock),
        authorizer=authorizer,
        rates=Rates(_rate_limits(settings.limits), time.monotonic),
        admission=Admission(_admission_limits(settings.limits), time.monotonic),
        refusals=refusals,
        streams=Streams(stream_limits(settings.limits)),
        watches=Streams(watch_limits(settings.limits)),
        strangers=Strangers(Budget(), time.monotonic),
        turned_away=Strangers(Budget(), time.monotonic),
    )


def _rate_limits(limits: LimitSettings) -> RateLimits:
    def rate(per_second: float | None) -> Rate | None:
        return None if per_second is None else Rate(per_second, max(1.0, per_second * limits.burst_seconds))

    return RateLimits(rate(limits.principal_calls_per_second), rate(limits.tenant_calls_per_second))


def _admission_limits(limits: LimitSettings) -> AdmissionLimits:
    # The less urgent leave room for what is more so; limits.streams counts them once more, by caller.
    shares = {Priority.LIVE: 1.0, Priority.PLAYBACK: 0.75, Priority.BACKGROUND: 0.5}
    return AdmissionLimits(streams={one: max(1, int(limits.streams * share)) for one, share in shares.items()})


def server_options(settings: Settings, share_port: bool) -> ServerOptions:
    """Where and how the server listens."""
    return ServerOptions(
        listen=settings.server.listen,
        token_listen=settings.server.token_listen or "",
        health_listen=settings.server.health_listen or "",
        tls=settings.server.tls,
        reflection=settings.server.reflection,
        transport=transport_limits(
            settings.limits, settings.server.max_message_bytes, settings.server.max_concurrent_streams
        ),
        share_port=share_port,
    )
