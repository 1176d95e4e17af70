"""What every use of a key goes through first: the tenant, its groups, and its policy's decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from ownkey_server.domain import encryption_context, policy
from ownkey_server.domain.assets import Asset
from ownkey_server.domain.errors import InvalidRequest, KeyNotFound, PolicyDenied, UseRevoked
from ownkey_server.domain.policy import Decision, Effect
from ownkey_server.domain.revocations import Ending, Revocation, revoking, subject
from ownkey_server.domain.tenants import CustomerKey, Tenant

NO_GROUPS: frozenset[str] = frozenset()
_NO_CONTEXT: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a tenant's policy decided about an asset.

    Attributes:
        key: The key that serves; None exactly when the decision denies.
    """

    tenant: Tenant
    decision: Decision
    key: CustomerKey | None


def rule_on(tenant: Tenant, provider_key: CustomerKey, asset: Asset, now: datetime) -> Ruling:
    """Ask the tenant's policy about an asset.

    Raises:
        InvalidRequest: The asset names a group that the tenant does not have.
    """
    if asset.group and asset.group not in tenant.groups:
        # Passing over a group nobody knows would let a misspelt one end up with the policy's default.
        raise InvalidRequest("asset.group", f"tenant {tenant.id!r} has no group {asset.group!r}")
    decision = policy.evaluate(tenant.policy, asset, tenant.groups_of.get(asset.user, NO_GROUPS), now)
    match decision.outcome.effect:
        case Effect.ALLOW:
            key = tenant.keys.get(decision.outcome.key)
            if key is None:  # no change that leaves a policy like this is let through: the database was changed by hand
                raise KeyNotFound(tenant.id, f"has no key {decision.outcome.key!r}, which its policy names")
            return Ruling(tenant, decision, key)
        case Effect.PROVIDER_KEY:
            return Ruling(tenant, decision, provider_key)
        case Effect.DENY:
            return Ruling(tenant, decision, None)


def revocation_of(
    tenant: Tenant,
    asset: Asset,
    key: CustomerKey,
    now: datetime,
    context: Mapping[str, str] = _NO_CONTEXT,
    queue: str = "",
) -> Revocation | None:
    """What the tenant has said by which this use of a key is taken back; None when it is not.

    Args:
        tenant: Whose content it is.
        asset: With the group by which it is protected.
        key: That is used; the provider's too.
        now: The present time (UTC).
        context: That its data key is bound to; none for a new one.
        queue: The call queue, for a call.
    """
    if not tenant.revocations:
        return None
    groups = tenant.groups_of.get(asset.user, NO_GROUPS)
    bound = context.get(encryption_context.GROUP)
    groups = groups | {bound} if bound else groups
    use = subject(asset, key.id, groups, now, context.get(encryption_context.HOUR, ""), queue)
    return revoking(tenant.revocations, use)


def require_not_revoked(
    tenant: Tenant,
    asset: Asset,
    key: CustomerKey,
    now: datetime,
    context: Mapping[str, str] = _NO_CONTEXT,
    *,
    finishing: bool = False,
) -> bool:
    """Make sure that the tenant has not taken back a use of a key; arguments as for :func:`revocation_of`.

    ``finishing`` says that it is for an object that is being encrypted already, which a revocation may let finish.

    Returns:
        Whether a revocation is about it that lets it finish.

    Raises:
        UseRevoked: It has.
    """
    found = revocation_of(tenant, asset, key, now, context)
    if found is None:
        return False
    if finishing:
        cutting = tuple(one for one in tenant.revocations if one.ending is Ending.CUT)
        found = revocation_of(replace(tenant, revocations=cutting), asset, key, now, context)
        if found is None:
            return True
    raise UseRevoked(tenant.id, found.id, found.reason)


def require_key(ruling: Ruling, asset: Asset) -> CustomerKey:
    """The key that the ruling names.

    Raises:
        PolicyDenied: It names none.
    """
    if ruling.key is None:
        raise PolicyDenied(ruling.tenant.id, ruling.decision.rule, policy.explain(ruling.decision, asset))
    return ruling.key
