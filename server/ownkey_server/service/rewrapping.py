"""Rewrap: a data key that was wrapped under yesterday's key, wrapped as policy says today. Its plaintext stays here.

For wrapped keys that are kept beside their content. The header of an object holds its own, and is written once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ownkey.container import EncryptedDataKey, wrap_with_branch_key
from ownkey_server.domain import encryption_context
from ownkey_server.domain.assets import Asset
from ownkey_server.domain.audit import Action, Caller
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.policy import Decision, Wrapping
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.service.access import require_key, require_not_revoked, rule_on
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.audited import Audited
from ownkey_server.service.branch_keys import BranchKeys
from ownkey_server.service.directory import Directory
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.opening import Opener, Wrapped, tell_branch, with_bound_group

# The part of the time that is left for a key store to do it alone: what remains is enough for the other way.
SHARE_WITHIN = 0.5


@dataclass(frozen=True, slots=True)
class RewrappedKey:
    """What became of a data key.

    Attributes:
        key: What wraps it.
        wrapped: As that key wrapped it; None when it was wrapped as policy says already.
    """

    key: CustomerKey
    decision: Decision
    wrapped: EncryptedDataKey | None


class Rewraps:
    """Wraps data keys anew. Nobody waits for that: it comes after all that somebody waits for."""

    def __init__(
        self,
        directory: Directory,
        ring: KeyRing,
        branches: BranchKeys,
        audit: AuditLog,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._ring = ring
        self._branches = branches
        self._opener = Opener(ring, branches)
        self._audit = audit
        self._clock = clock
        self._monotonic = monotonic

    async def rewrap(
        self,
        asset: Asset,
        entries: Sequence[EncryptedDataKey],
        context: Mapping[str, str],
        remaining: float | None,
        caller: Caller,
        *,
        named_key: str = "",
    ) -> RewrappedKey:
        """Wrap a data key as policy says today; its context stays. Arguments as for :meth:`DataKeys.unwrap`.

        What is wrapped as policy says, and by no branch key that wraps no more, comes back as it is.

        Raises:
            AssetMismatch: The context is another asset's.
            KeyNotFound: No key of this tenant made any entry.
            PolicyDenied: The tenant's policy denies the asset.
            KeyStoreError: One of the two keys cannot be used, and it says which; or the ciphertext is not its.
            ServiceImpaired: The tenant is not known for certain, or the use cannot be recorded.
        """
        deadline = None if remaining is None else self._monotonic() + remaining
        async with Audited(self._audit, self._clock, Action.REWRAP, caller, asset) as use:
            use.context = context
            tenant = await self._directory.tenant(asset.tenant)
            asset = use.asset = with_bound_group(asset, context, tenant)
            provider_key = self._directory.provider_key
            ruling = use.ruling = rule_on(tenant, provider_key, asset, self._clock())
            target = require_key(ruling, asset)
            encryption_context.require_asset(context, asset, {})
            found = await self._opener.find(tenant, provider_key, entries, named_key, remaining, use, background=True)
            for key in (found.key, target):
                require_not_revoked(tenant, asset, key, self._clock(), context)
            by_branch = ruling.decision.wrapping is Wrapping.BRANCH
            if (
                found.key.name == target.name
                and (found.loan is not None) == by_branch
                and await self._is_by_the_active(tenant, target, found, self._left(deadline))
            ):
                use.detail["unchanged"] = True
                return RewrappedKey(target, ruling.decision, None)
            if found.loan is None and not by_branch:
                wrapped = await self._within_the_store(found, target, context, deadline, use)
                if wrapped is not None:
                    return RewrappedKey(target, ruling.decision, wrapped)
            plaintext = await self._opener.open(found, context, self._left(deadline), use, background=True)
            try:
                wrapped = await self._wrap(tenant, target, plaintext, context, deadline, use, by_branch=by_branch)
            finally:
                plaintext.wipe()
            return RewrappedKey(target, ruling.decision, wrapped)

    async def _is_by_the_active(
        self, tenant: Tenant, target: CustomerKey, found: Wrapped, remaining: float | None
    ) -> bool:
        """Whether nothing newer would wrap it: a branch key that was rotated is left behind."""
        if found.loan is None or not target.lifecycle.wraps:
            return True
        return await self._branches.is_active(tenant, target, found.loan.branch, remaining, background=True)

    async def _within_the_store(
        self, found: Wrapped, target: CustomerKey, context: Mapping[str, str], deadline: float | None, use: Audited
    ) -> EncryptedDataKey | None:
        """By the key store alone, where it can; None where it cannot, or does not, for whatever reason."""
        left = self._left(deadline)
        moved = await self._ring.rewrap(
            found.key, found.entry, target, context, None if left is None else left * SHARE_WITHIN, use.calls
        )
        if moved is None:
            return None
        use.key, use.replica, use.backend_request_id = target.name, moved.replica, moved.value.request_id
        use.detail["from"] = {"key": found.key.name}
        return moved.value.entry

    async def _wrap(
        self,
        tenant: Tenant,
        target: CustomerKey,
        plaintext: SecretBytes,
        context: Mapping[str, str],
        deadline: float | None,
        use: Audited,
        *,
        by_branch: bool,
    ) -> EncryptedDataKey:
        # The record is about the new key. What the old one's store was asked for it is beside that.
        opened = {
            "key": use.key,
            "branch": use.detail.pop("branch", ""),
            "replica": use.replica,
            "request_id": use.backend_request_id,
        }
        use.detail["from"] = {name: value for name, value in opened.items() if value}
        use.key, use.replica, use.backend_request_id, use.cached = target.name, "", "", False
        if by_branch:
            loan = await self._branches.to_wrap(tenant, target, self._left(deadline), background=True)
            tell_branch(use, loan)
            return wrap_with_branch_key(loan.plaintext.reveal(), loan.branch.id, plaintext.reveal(), context)
        wrapped = await self._ring.wrap(
            target, plaintext, context, self._left(deadline), background=True, calls=use.calls
        )
        use.replica, use.backend_request_id = wrapped.replica, wrapped.value.request_id
        return wrapped.value.entry

    def _left(self, deadline: float | None) -> float | None:
        return None if deadline is None else max(0.0, deadline - self._monotonic())
