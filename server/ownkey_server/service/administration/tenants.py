"""Tenants: create, read, change, and delete where nothing depends on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from ownkey_server.domain.approvals import Danger, Effect
from ownkey_server.domain.errors import InvalidRequest, ResourceExists, ResourceInUse
from ownkey_server.domain.tenants import PROVIDER_KEY_NAME, KeyLifecycle
from ownkey_server.service.administration.desk import Act, Dangerous, Desk, Done
from ownkey_server.storage import branch_keys, outbox
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.records import TenantRecord
from ownkey_server.storage.registry import Change, Reader, required
from ownkey_server.storage.tables import plain


class Tenants:
    """What can be done with tenants."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def get(self, tenant: str) -> TenantRecord:
        """A tenant.

        Raises:
            ResourceNotFound: There is none of that id.
        """
        found: TenantRecord = required(await self._desk.read(lambda reader: reader.tenant(tenant)), name(tenant))
        return found

    async def list(self, after: str, limit: int, only: Collection[str] | None = None) -> list[TenantRecord]:
        """Tenants by id, from after ``after``; of those in ``only``, unless that is None."""
        return await self._desk.read(lambda reader: reader.tenants(after, limit, only))

    async def create(
        self, act: Act, tenant: str, display_name: str, enrolled_at: datetime | None, gate: CallGateTable
    ) -> TenantRecord:
        """Add a tenant, with a policy that denies everything.

        Args:
            act: Who, and why.
            tenant: Its id.
            display_name: Its name for people.
            enrolled_at: From when on its content is under its own keys; None means now.
            gate: How its calls are gated.

        Raises:
            ResourceExists: There is one of that id.
        """
        since = enrolled_at or self._desk.clock()

        def work(change: Change) -> Done:
            if change.tenant(tenant):
                raise ResourceExists(name(tenant), "there is a tenant of that id already")
            require_unused(change, tenant)
            _require_groups(gate, set())
            change.insert_tenant(tenant, display_name, since, gate)
            created = change.tenant(tenant)
            return Done(created, {"after": {"display_name": display_name, "call_gate": plain(gate)}})

        made: TenantRecord = await self._desk.change(act, "create_tenant", tenant, name(tenant), work)
        return made

    async def update(
        self, act: Act, tenant: str, etag: str, display_name: str | None, gate: CallGateTable | None
    ) -> TenantRecord:
        """Change a tenant; None leaves a field as it is.

        Raises:
            ResourceNotFound: There is none of that id.
            InvalidRequest: The call gate names a group that the tenant does not have.
            EtagMismatch: It was changed since it was read.
        """

        def work(change: Change) -> Done:
            before: TenantRecord = required(change.tenant(tenant), name(tenant))
            new_name = before.display_name if display_name is None else display_name
            new_gate = before.call_gate if gate is None else gate
            change.require_etag(name(tenant), before.stamp, etag)
            if gate is not None:
                _require_groups(gate, {group.id for group in change.groups(tenant)})
            agreed = self._agreed(change, act, before, new_gate)
            change.update_tenant(before, etag, new_name, new_gate)
            detail = {
                **agreed,
                "before": {"display_name": before.display_name, "call_gate": plain(before.call_gate)},
                "after": {"display_name": new_name, "call_gate": plain(new_gate)},
            }
            return Done(change.tenant(tenant), detail)

        changed: TenantRecord = await self._desk.change(act, "update_tenant", tenant, name(tenant), work)
        return changed

    def _agreed(self, change: Change, act: Act, before: TenantRecord, after: CallGateTable) -> Mapping[str, str]:
        if not after.gates_less_than(before.call_gate):
            return {}
        resource = name(before.id)
        effect = Effect(Danger.GATE_OFF, resource, gate_shown(before.call_gate), gate_shown(after))
        summary = f"gate fewer calls: {before.call_gate.mode} before, {after.mode} after"
        dangerous = Dangerous(before.id, resource, summary, [effect], field="call_gate")
        return self._desk.require_agreement(change, act, dangerous)

    async def delete(self, act: Act, tenant: str, etag: str, *, abandon_branch_keys: bool = False) -> None:
        """Delete a tenant without keys and groups. Its audit records stay, and its id stays taken.

        Args:
            act: Who, and why.
            tenant: Its id.
            etag: As it was read.
            abandon_branch_keys: Whether its branch keys are deleted too, and all that they wrapped is given up. A
                tenant without a key may have some: under the provider's key, and from keys that were removed.

        Raises:
            ResourceNotFound: There is none of that id.
            ResourceInUse: It has keys that are not removed, or groups, or branch keys that are not given up.
            EtagMismatch: It was changed since it was read.
            ApprovalRequired: A second person must agree first, as when a key is removed.
        """

        def work(change: Change) -> Done:
            before: TenantRecord = required(change.tenant(tenant), name(tenant))
            keys = [key.id for key in change.keys(tenant) if key.lifecycle is not KeyLifecycle.REMOVED]
            groups = [group.id for group in change.groups(tenant, limit=10)]
            if keys:
                raise ResourceInUse(name(tenant), f"it has keys: {', '.join(keys)}; retire and remove them first")
            if groups:
                raise ResourceInUse(name(tenant), f"it has groups: {', '.join(groups)}; delete them first")
            change.require_etag(name(tenant), before.stamp, etag)
            count, under_provider = (
                branch_keys.of_tenant(change.connection, tenant, key) for key in (None, PROVIDER_KEY_NAME)
            )
            if count and not abandon_branch_keys:
                raise ResourceInUse(name(tenant), _would_lose(tenant, count, under_provider))
            agreed = self._agreed_to_abandon(change, act, tenant, count, under_provider)
            branch_keys.delete(change.connection, tenant)
            outbox.forget_tenant(change.connection, tenant)
            change.delete_tenant(before, etag)
            return Done(None, {**agreed, **({"deleted_branch_keys": count} if count else {})})

        await self._desk.change(act, "delete_tenant", tenant, name(tenant), work)

    def _agreed_to_abandon(
        self, change: Change, act: Act, tenant: str, count: int, under_provider: int
    ) -> Mapping[str, str]:
        """As when a key is removed: what the branch keys wrapped is lost."""
        if not count:
            return {}
        was = {"branch_keys": count, "under_provider_key": under_provider}
        now = {"branch_keys": 0, "under_provider_key": 0}
        summary = f"delete the tenant with its branch keys ({count}): nothing that they wrapped can be opened again"
        effect = Effect(Danger.REMOVE_KEY, name(tenant), was, now)
        dangerous = Dangerous(tenant, name(tenant), summary, [effect], field="abandon_branch_keys")
        return self._desk.require_agreement(change, act, dangerous)


def _require_groups(gate: CallGateTable, groups: set[str]) -> None:
    """Make sure that the tenant has every group that its call gate names.

    Raises:
        InvalidRequest: It has not.
    """
    mistakes = gate.mistakes(groups)
    if mistakes:
        raise InvalidRequest("call_gate.rules", "; ".join(mistakes))


def _would_lose(tenant: str, count: int, under_provider: int) -> str:
    keys = "1 branch key" if count == 1 else f"{count} branch keys"
    return (
        f"it has {keys}, {under_provider} of them under the provider's key: nothing that they wrapped could be opened"
        f" again. Keep them first (ownkey admin branch-key list --tenant {tenant} --json), or give that up by"
        " abandon_branch_keys (--abandon-branch-keys)"
    )


def require_unused(reader: Reader, tenant: str) -> None:
    """Make sure that no tenant ever had the id: the audit trail must never mean two by one name.

    Raises:
        ResourceExists: One had.
    """
    if reader.was_changed(tenant):
        raise ResourceExists(name(tenant), "there was a tenant of that id, and ids are not used again: take another")


def gate_shown(gate: CallGateTable) -> Mapping[str, Any]:
    """Every field of a call gate, those that are as they are by default too."""
    return {"call_gate": gate.model_dump(mode="json")}


def name(tenant: str) -> str:
    """A tenant's name as a resource."""
    return f"tenants/{tenant}"
