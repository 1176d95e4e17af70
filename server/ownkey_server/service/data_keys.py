"""Data keys: made for one asset under the key that policy names, and opened again for that asset alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ownkey.container import EncryptedDataKey
from ownkey_server.domain import encryption_context
from ownkey_server.domain.assets import Asset
from ownkey_server.domain.audit import Action, Caller
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import KeyNotFound
from ownkey_server.domain.policy import Decision
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey
from ownkey_server.service.access import require_key, rule_on
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.audited import Audited
from ownkey_server.service.directory import Directory
from ownkey_server.service.key_ring import KeyRing


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

    def __init__(self, directory: Directory, ring: KeyRing, audit: AuditLog, clock: Clock, lease: timedelta) -> None:
        self._directory = directory
        self._ring = ring
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
        plaintext: SecretBytes | None = None
        try:
            async with Audited(self._audit, self._clock, action, caller, asset) as use:
                tenant = await self._directory.tenant(asset.tenant)
                now = self._clock()
                ruling = use.ruling = rule_on(tenant, self._directory.provider_key, asset, now)
                key = require_key(ruling, asset)
                group = ruling.decision.group or asset.group
                context = use.context = encryption_context.build(asset, group, now, extra)
                generated = await self._ring.generate(key, context, remaining, background=caller.background)
                plaintext, use.replica = generated.value.plaintext, generated.replica
                use.backend_request_id = generated.value.request_id
        except BaseException:
            if plaintext is not None:
                plaintext.wipe()
            raise
        return IssuedDataKey(key, ruling.decision, plaintext, generated.value.wrapped, context, now + self._lease)

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

        Raises:
            AssetMismatch: The context is another asset's.
            KeyNotFound: No key of this tenant made any entry.
            PolicyDenied: The tenant's policy denies the asset.
            KeyStoreError: The key cannot be used, or the ciphertext is not its.
            ServiceImpaired: The tenant is not known for certain, or the use cannot be recorded.
        """
        plaintext: SecretBytes | None = None
        try:
            async with Audited(self._audit, self._clock, action, caller, asset) as use:
                use.context = context
                tenant = await self._directory.tenant(asset.tenant)
                now = self._clock()
                # The group by which content was protected is bound to it: leaving it out gets nobody around that
                # group's rule.
                group = context.get(encryption_context.GROUP, "")
                if not asset.group and group in tenant.groups:
                    asset = use.asset = replace(asset, group=group)
                provider_key = self._directory.provider_key
                use.ruling = rule_on(tenant, provider_key, asset, now)
                require_key(use.ruling, asset)
                encryption_context.require_asset(context, asset, expected or {})
                key, entry = self._ring.find(tenant, provider_key, entries)
                use.key = key.name
                _require_name(named_key, key, tenant.id)
                opened = await self._ring.unwrap(key, entry, context, remaining, background=caller.background)
                plaintext, use.replica = opened.value.plaintext, opened.replica
                use.backend_request_id = opened.value.request_id
        except BaseException:
            if plaintext is not None:
                plaintext.wipe()
            raise
        return OpenedDataKey(key, plaintext, now + self._lease)


def _require_name(named_key: str, key: CustomerKey, tenant: str) -> None:
    if named_key and named_key != key.name:
        raise KeyNotFound(tenant, f"the wrapped key names another key than {key.name!r}, which made its entry")
