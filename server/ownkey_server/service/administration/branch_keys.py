"""Branch keys, as they are administered: listed, made anew, and moved to another customer key without any object."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ownkey.container import ContainerError
from ownkey.wrapped_key import WrappedKey
from ownkey_server.domain.approvals import Danger, Effect
from ownkey_server.domain.branch_keys import BranchKey
from ownkey_server.domain.errors import CiphertextInvalid, OwnkeyError, ResourceInUse
from ownkey_server.domain.tenants import PROVIDER_KEY_NAME, CustomerKey, Replica, Tenant, key_name
from ownkey_server.service.administration.desk import Act, Dangerous, Desk, Done
from ownkey_server.service.administration.tenants import name as tenant_name
from ownkey_server.service.branch_keys import BranchKeys
from ownkey_server.service.branch_source import BranchSource
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.key_store_calls import DETAIL, KeyStoreCalls, as_detail
from ownkey_server.storage import branch_keys as kept
from ownkey_server.storage.registry import Change, Reader, required

PROVIDER_KEY = "provider_key"
"""What names the provider's key where otherwise a key's id stands; no id has an underscore."""


@dataclass(frozen=True, slots=True)
class Moved:
    """How far branch keys were moved.

    Attributes:
        rewrapped: How many now.
        remaining: How many are still under the first key.
    """

    rewrapped: int
    remaining: int


class BranchKeyOffice:
    """What can be done with branch keys."""

    def __init__(self, desk: Desk, ring: KeyRing, source: BranchSource, branches: BranchKeys) -> None:
        self._desk = desk
        self._ring = ring
        self._source = source
        self._branches = branches

    async def list(self, tenant: str, key: str, after: str, limit: int) -> list[BranchKey]:
        """A tenant's branch keys by id: all, or those under one key.

        Raises:
            ResourceNotFound: There is no such tenant.
        """

        def question(reader: Reader) -> list[BranchKey]:
            required(reader.tenant(tenant), tenant_name(tenant))
            return kept.listed(reader.connection, tenant, full_name(tenant, key) if key else None, after, limit)

        return await self._desk.read(question)

    async def rotate(self, act: Act, tenant: str, key: str) -> BranchKey:
        """Make a new branch key under a key; the one before wraps no more.

        Raises:
            ResourceNotFound: There is no such tenant or key.
            ResourceInUse: Another was made at the same moment.
            KeyStoreError: The key cannot be used.
        """
        resource = full_name(tenant, key)
        owner = await self._owner(tenant)
        holder = self._key(owner, resource)
        before = await self._desk.read(lambda reader: kept.active(reader.connection, tenant, resource))
        try:
            made, use = await self._source.make(tenant, holder)
            use.value.plaintext.wipe()
        except OwnkeyError as error:
            await self._desk.refuse(act, "rotate_branch_key", tenant, resource, error)
            raise
        asked = {
            "replica": use.replica,
            "backend_request_id": use.value.request_id,
            **as_detail(list(use.calls)),
        }

        def work(change: Change) -> Done:
            change.touch(tenant)
            self._require_wrapping(change, resource)
            now = kept.add(change.connection, made, before.id if before else "")
            if now.id != made.id:
                raise ResourceInUse(resource, "another branch key was made at the same moment: look, and try again")
            detail = {
                "before": {"branch": before.id if before else ""},
                "after": {"branch": made.id},
                **asked,
            }
            return Done(now, detail)

        # The key was used, whether or not anything comes of it.
        added: BranchKey = await self._desk.change(act, "rotate_branch_key", tenant, resource, work, asked)
        return added

    async def rewrap(self, act: Act, tenant: str, from_key: str, to_key: str, most: int) -> Moved:
        """Move branch keys from one key to another, each in a transaction of its own.

        Whoever holds the other key can open them from then on, and all that they wrapped, even when the first key's
        holder has taken that away. So it may take two persons, who agree to these branch keys and no others; no key is
        used before they have.

        Raises:
            ResourceNotFound: There is no such tenant or key.
            ResourceInUse: Both are one, the key that they shall go to wraps nothing, or the places of one were changed
                just now.
            ApprovalRequired: A second person must agree first.
            KeyStoreError: A key cannot be used. What was moved before stays moved.
        """
        source, target = full_name(tenant, from_key), key_name(tenant, to_key)
        owner = await self._owner(tenant)
        old, new = self._key(owner, source), self._key(owner, target)
        if old.name == new.name:
            raise ResourceInUse(source, "both keys are the same one")
        if not new.lifecycle.wraps:
            error = ResourceInUse(target, _would_not_wrap(tenant, new, to_key))
            await self._desk.refuse(act, "rewrap_branch_key", tenant, target, error)
            raise error
        waiting: Sequence[BranchKey] = await self._desk.read(
            lambda reader: kept.listed(reader.connection, tenant, source, "", most)
        )
        if waiting and self._desk.takes_two(Danger.MOVE_BRANCH_KEYS):
            waiting = await self._agreed(act, tenant, old, new, most)
        rewrapped = 0
        for branch in waiting:
            calls = self._source.calls(branch, "admin.rewrap_branch_key")
            try:
                wrapped = await self._wrapped_anew(branch, old, new, calls)
            except OwnkeyError as error:
                resource = f"{source}/branchKeys/{branch.id}"
                await self._desk.refuse(act, "rewrap_branch_key", tenant, resource, error, _told(calls))
                raise
            rewrapped += await self._put_under(act, branch, target, wrapped, _told(calls))
            self._branches.forget(branch)
        remaining = await self._desk.read(lambda reader: kept.under(reader.connection, source, tenant))
        return Moved(rewrapped, remaining)

    async def _agreed(
        self, act: Act, tenant: str, old: CustomerKey, new: CustomerKey, most: int
    ) -> Sequence[BranchKey]:
        """The branch keys to be moved, once somebody else has agreed to just these, and to the places of both keys."""

        def work(change: Change) -> Done:
            change.touch(tenant)
            for key in (old, new):
                holder = change.key(key.name)
                if holder is None or tuple(one.place for one in holder.replicas) != key.replicas:
                    raise ResourceInUse(key.name, "its places were changed just now: look, and try again")
            self._require_wrapping(change, new.name)
            moved = kept.listed(change.connection, tenant, old.name, "", most)
            remaining = kept.under(change.connection, old.name, tenant)
            ids = [branch.id for branch in moved]
            shown = {"key": old.name, "replicas": _shown(old.replicas), "branch_keys": ids}
            then = {"key": new.name, "replicas": _shown(new.replicas), "branch_keys": ids}
            effect = Effect(Danger.MOVE_BRANCH_KEYS, old.name, shown, then)
            summary = (
                f"move {len(moved)} of {remaining} branch keys to {new.name}: whoever holds that key then opens what"
                f" they wrapped, and {old.name} is not needed for it any more"
            )
            agreed = self._desk.require_agreement(
                change, act, Dangerous(tenant, old.name, summary, [effect], field="to_key")
            )
            return Done(moved, {**agreed, "from": old.name, "to": new.name, "branch_keys": ids})

        waiting: Sequence[BranchKey] = await self._desk.change(act, "rewrap_branch_keys", tenant, old.name, work)
        return waiting

    async def _wrapped_anew(self, branch: BranchKey, old: CustomerKey, new: CustomerKey, calls: KeyStoreCalls) -> bytes:
        """The same branch key, wrapped under another key; its plaintext is here for this long only."""
        try:
            entry = WrappedKey.from_bytes(branch.wrapped).encrypted_data_keys[0]
        except ContainerError:
            place = old.primary
            raise CiphertextInvalid(place.name, place.reference, f"branch key {branch.id} was changed") from None
        opened = await self._ring.unwrap(old, entry, branch.context, None, calls=calls)
        try:
            wrapped = await self._ring.wrap(new, opened.value.plaintext, branch.context, None, calls=calls)
            # What is kept is the only one there is: never one that was not seen to open.
            again = await self._ring.unwrap(new, wrapped.value.entry, branch.context, None, calls=calls)
            same = hmac.compare_digest(again.value.plaintext.reveal(), opened.value.plaintext.reveal())
            again.value.plaintext.wipe()
            if not same:
                place = new.primary
                raise CiphertextInvalid(place.name, place.reference, "it opens what it has just wrapped to other bytes")
        finally:
            opened.value.plaintext.wipe()
        return WrappedKey(new.name, (wrapped.value.entry,)).to_bytes()

    async def _put_under(
        self, act: Act, branch: BranchKey, target: str, wrapped: bytes, calls: Mapping[str, object]
    ) -> bool:
        """Whether it was moved; not if somebody else had done so meanwhile."""

        def work(change: Change) -> Done:
            change.touch(branch.tenant)
            self._require_wrapping(change, target)
            now = kept.rewrap(change.connection, branch, target, wrapped)
            detail = {"before": {"key": branch.key}, "after": {"key": now.key if now else ""}, **calls}
            return Done(now is not None, detail)

        resource = f"{branch.key}/branchKeys/{branch.id}"
        moved: bool = await self._desk.change(act, "rewrap_branch_key", branch.tenant, resource, work, calls)
        return moved

    @staticmethod
    def _require_wrapping(change: Change, key: str) -> None:
        """Make sure that a key was not retired or removed while it was used: nothing is kept under it then."""
        holder = change.key(key)
        if holder is not None and not holder.lifecycle.wraps:
            raise ResourceInUse(key, "it was retired or removed meanwhile, and wraps nothing")

    async def _owner(self, tenant: str) -> Tenant:
        required(await self._desk.read(lambda reader: reader.tenant(tenant)), tenant_name(tenant))
        return await self._desk.directory.tenant(tenant)

    def _key(self, tenant: Tenant, name: str) -> CustomerKey:
        provider = self._desk.directory.provider_key
        keys = (provider, *tenant.keys.values())
        found: CustomerKey = required(next((key for key in keys if key.name == name), None), name)
        return found


def _shown(places: Sequence[Replica]) -> list[Mapping[str, str]]:
    return [{"key_store": place.store, "reference": place.reference} for place in places]


def _would_not_wrap(tenant: str, key: CustomerKey, key_id: str) -> str:
    return (
        f"it is {key.lifecycle}, and wraps nothing: move them to another key, or let it wrap again first, with:"
        f" ownkey admin key activate {key_id} --tenant {tenant}"
    )


def _told(calls: KeyStoreCalls) -> Mapping[str, object]:
    return {DETAIL: [call.described() for call in calls.tell()]}


def full_name(tenant: str, key: str) -> str:
    """A key's name, by its id or :data:`PROVIDER_KEY`."""
    return PROVIDER_KEY_NAME if key == PROVIDER_KEY else key_name(tenant, key)
