"""Data keys: made for one asset under the key that policy names, and opened again for that asset alone.

Policy says whether the key store wraps them one by one, or a branch key does (``branch_keys.py``); they are opened
whichever way they were wrapped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ownkey.container import (
    EncryptedDataKey,
    wrap_with_branch_key,
)
from ownkey_server.domain import encryption_context
from ownkey_server.domain.assets import Asset
from ownkey_server.domain.audit import Action, Caller
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import KeyUnreachable
from ownkey_server.domain.policy import Decision, Wrapping
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey
from ownkey_server.keystores.base import DATA_KEY_LENGTH
from ownkey_server.service.access import require_key, require_not_revoked, rule_on
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.audited import Audited
from ownkey_server.service.branch_keys import BranchKeys
from ownkey_server.service.branch_loans import Loan
from ownkey_server.service.directory import Directory
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.opening import Opener, tell_branch, with_bound_group

ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class IssuedDataKey:
    """A data key just made, and everything that opening it again needs."""

    key: CustomerKey
    decision: Decision
    plaintext: SecretBytes
    wrapped: EncryptedDataKey
    context: Mapping[str, str]
    lease_expires_at: datetime


@dataclass(frozen=True, slots=True)
class OpenedDataKey:
    """A data key unwrapped, and how long it may be used."""

    key: CustomerKey
    plaintext: SecretBytes
    lease_expires_at: datetime


class DataKeys:
    """Makes and opens data keys. Every use, and every refusal, is in the audit trail before its answer leaves.

    Args:
        lease: How long the plaintext of a data key may be used before the caller must ask again.
    """

    def __init__(
        self,
        directory: Directory,
        ring: KeyRing,
        branches: BranchKeys,
        audit: AuditLog,
        clock: Clock,
        lease: timedelta,
    ) -> None:
        self._directory = directory
        self._branches = branches
        self._ring = ring
        self._opener = Opener(ring, branches)
        self._audit = audit
        self._clock = clock
        self._lease = lease

    async def generate(
        self,
        asset: Asset,
        extra: Mapping[str, str],
        remaining: float | None,
        caller: Caller,
        action: Action = Action.GENERATE_DATA_KEY,
    ) -> IssuedDataKey:
        """Make a data key for one asset.

        Args:
            asset: What it is for.
            extra: The caller's own pairs for the encryption context.
            remaining: Seconds that the caller is still waiting, if it said so.
            caller: Who asks.
            action: What for, as the audit trail has it.

        Raises:
            InvalidRequest: A pair uses a reserved prefix, or the group is unknown.
            TenantNotFound: There is no such tenant.
            PolicyDenied: The tenant's policy says no.
            KeyStoreError: The key that policy names cannot be used; no other is tried.
            ServiceImpaired: The tenant is not known for certain, or the use cannot be recorded.
        """
        for _ in range(ATTEMPTS):
            issued, loan = await self._generate(asset, extra, remaining, caller, action)
            if loan is None or self._branches.holds(loan):
                return issued
            # Recording it took until after the lease's end: what the key store says now is what counts.
            issued.plaintext.wipe()
        raise _too_late(issued.key)

    async def _generate(
        self, asset: Asset, extra: Mapping[str, str], remaining: float | None, caller: Caller, action: Action
    ) -> tuple[IssuedDataKey, Loan | None]:
        plaintext: SecretBytes | None = None
        loan: Loan | None = None
        try:
            async with Audited(self._audit, self._clock, action, caller, asset) as use:
                tenant = await self._directory.tenant(asset.tenant)
                now = self._clock()
                ruling = use.ruling = rule_on(tenant, self._directory.provider_key, asset, now)
                key = require_key(ruling, asset)
                group = ruling.decision.group or asset.group
                context = use.context = encryption_context.build(asset, group, now, extra)
                require_not_revoked(tenant, asset, key, now, context)
                if ruling.decision.wrapping is Wrapping.BRANCH:
                    loan = await self._branches.to_wrap(tenant, key, remaining, background=caller.background)
                    tell_branch(use, loan)
                    plaintext = SecretBytes(os.urandom(DATA_KEY_LENGTH))
                    wrapped = wrap_with_branch_key(loan.plaintext.reveal(), loan.branch.id, plaintext.reveal(), context)
                else:
                    generated = await self._ring.generate(
                        key, context, remaining, background=caller.background, calls=use.calls
                    )
                    plaintext, wrapped, use.replica = (
                        generated.value.plaintext,
                        generated.value.wrapped,
                        generated.replica,
                    )
                    use.backend_request_id = generated.value.request_id
                self._require_still(asset, key, context)
        except BaseException:
            if plaintext is not None:
                plaintext.wipe()
            raise
        until = now + self._lease_of(loan)
        return IssuedDataKey(key, ruling.decision, plaintext, wrapped, context, until), loan

    async def unwrap(
        self,
        asset: Asset,
        entries: Sequence[EncryptedDataKey],
        context: Mapping[str, str],
        remaining: float | None,
        caller: Caller,
        action: Action = Action.UNWRAP,
        *,
        named_key: str = "",
        expected: Mapping[str, str] | None = None,
        finishing: bool = False,
    ) -> OpenedDataKey:
        """Open a data key for the asset that it was made for.

        Policy must still allow the asset, though not necessarily under the key that wrapped it: content stays
        readable when a rule moves its class to another key.

        Args:
            asset: What the caller says it is for.
            entries: The data key, wrapped under one or more keys.
            context: The encryption context that came with it.
            remaining: Seconds that the caller is still waiting, if it said so.
            caller: Who asks.
            action: What for, as the audit trail has it.
            named_key: The key name that the wrapped key carries, if any: it must be that of the entry.
            expected: Further pairs that the context must hold.
            finishing: Whether it is for an object that is being encrypted already, which a revocation may let finish.

        Raises:
            AssetMismatch: The context is another asset's.
            KeyNotFound: No key of this tenant made any entry.
            PolicyDenied: The tenant's policy denies the asset.
            KeyStoreError: The key cannot be used, or the ciphertext is not its.
            ServiceImpaired: The tenant is not known for certain, or the use cannot be recorded.
        """
        for _ in range(ATTEMPTS):
            opened, loan = await self._unwrap(
                asset, entries, context, remaining, caller, action, named_key, expected or {}, finishing
            )
            if loan is None or self._branches.holds(loan):
                return opened
            opened.plaintext.wipe()  # as in generate
        raise _too_late(opened.key)

    async def _unwrap(
        self,
        asset: Asset,
        entries: Sequence[EncryptedDataKey],
        context: Mapping[str, str],
        remaining: float | None,
        caller: Caller,
        action: Action,
        named_key: str,
        expected: Mapping[str, str],
        finishing: bool,
    ) -> tuple[OpenedDataKey, Loan | None]:
        plaintext: SecretBytes | None = None
        try:
            async with Audited(self._audit, self._clock, action, caller, asset) as use:
                use.context = context
                tenant = await self._directory.tenant(asset.tenant)
                now = self._clock()
                asset = use.asset = with_bound_group(asset, context, tenant)
                provider_key = self._directory.provider_key
                use.ruling = rule_on(tenant, provider_key, asset, now)
                require_key(use.ruling, asset)
                encryption_context.require_asset(context, asset, expected)
                found = await self._opener.find(
                    tenant, provider_key, entries, named_key, remaining, use, background=caller.background
                )
                if require_not_revoked(tenant, asset, found.key, now, context, finishing=finishing):
                    use.detail["finishing"] = True
                plaintext = await self._opener.open(found, context, remaining, use, background=caller.background)
                if self._require_still(asset, found.key, context, finishing=finishing):
                    use.detail["finishing"] = True
        except BaseException:
            if plaintext is not None:
                plaintext.wipe()
            raise
        return OpenedDataKey(found.key, plaintext, now + self._lease_of(found.loan)), found.loan

    def _require_still(
        self, asset: Asset, key: CustomerKey, context: Mapping[str, str], *, finishing: bool = False
    ) -> bool:
        """Look at what the tenant has taken back once more, by the newest view, before the use takes its place.

        The record of a revocation's effect comes after the view that knows of it: so no use stands after that record.
        """
        newest = self._directory.last_known(asset.tenant)
        return newest is not None and require_not_revoked(
            newest, asset, key, self._clock(), context, finishing=finishing
        )

    def _lease_of(self, loan: Loan | None) -> timedelta:
        """How long a data key may be used: in an outage that a grace bridges, no longer than that."""
        if loan is None or not loan.beyond:
            return self._lease
        return min(self._lease, timedelta(seconds=max(0.0, loan.seconds)))


def _too_late(key: CustomerKey) -> KeyUnreachable:
    place = key.primary
    return KeyUnreachable(place.name, place.reference, "a branch key's lease ended before its use was recorded")
