"""Customer keys: enrolled when proven, active, retired to open alone, and removed. The primary first, then replicas."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from ownkey_server.domain.approvals import Danger, Effect
from ownkey_server.domain.canaries import Canary
from ownkey_server.domain.errors import (
    DatabaseUnavailable,
    EnrolmentFailed,
    KeyStoreError,
    OwnkeyError,
    ResourceExists,
    ResourceInUse,
    ResourceNotFound,
)
from ownkey_server.domain.tenants import KeyLifecycle, Replica, key_name
from ownkey_server.service.administration import notices
from ownkey_server.service.administration.desk import Act, Dangerous, Desk, Done
from ownkey_server.service.administration.enrolment import Enrolment
from ownkey_server.service.administration.places import NO_CANARIES, Places
from ownkey_server.service.administration.tenants import name as tenant_name
from ownkey_server.storage import branch_keys, canaries
from ownkey_server.storage.records import KeyRecord, ReplicaRecord, TenantRecord
from ownkey_server.storage.registry import Change, Reader, required

_log = logging.getLogger(__name__)

NOTHING: Mapping[str, str] = {}


class Keys:
    """What can be done with customer keys.

    Args:
        kinds: The kind of each key store, by its name.
        canaries: As of :class:`~ownkey_server.service.administration.places.Places`.
    """

    def __init__(
        self,
        desk: Desk,
        enrolment: Enrolment,
        kinds: Mapping[str, str],
        canaries: Mapping[str, tuple[str, ...]] = NO_CANARIES,
    ) -> None:
        self._desk = desk
        self._enrolment = enrolment
        self.places = Places(kinds, canaries)

    async def get(self, tenant: str, key: str) -> KeyRecord:
        """A key.

        Raises:
            ResourceNotFound: There is none of that id.
        """
        found: KeyRecord = required(
            await self._desk.read(lambda reader: reader.key(key_name(tenant, key))), key_name(tenant, key)
        )
        return found

    async def list(self, tenant: str) -> list[KeyRecord]:
        """All keys of a tenant, by name; removed ones too.

        Raises:
            ResourceNotFound: There is no such tenant.
        """

        def question(reader: Reader) -> list[KeyRecord]:
            required(reader.tenant(tenant), tenant_name(tenant))
            return reader.keys(tenant)

        return await self._desk.read(question)

    async def enrol(self, act: Act, tenant: str, key: str, primary: Replica) -> KeyRecord:
        """Add a key by its primary place. It is active at once when it proves itself, and is not added otherwise.

        Raises:
            ResourceNotFound: There is no such tenant.
            ResourceExists: There is a key of that id, or was one.
            ResourceInUse: The place is another key's, or a wrapped key could not tell the two apart.
            InvalidRequest: There can be no such key: no such key store, or no name of one in it.
            EnrolmentFailed: The key does not wrap and unwrap.
            KeyStoreError: It could not be tried, by no fault of the key's.
        """
        resource = key_name(tenant, key)
        required(await self._desk.read(lambda reader: reader.tenant(tenant)), tenant_name(tenant))
        await self._proven(act, "enrol_key", tenant, resource, [(primary, primary)], new="primary")
        made_canaries = await self._enrolment.canaries(resource, [primary])
        now = self._desk.clock()

        def work(change: Change) -> Done:
            required(change.tenant(tenant), tenant_name(tenant))
            before = change.key(resource)
            if before:
                raise ResourceExists(resource, f"there is a key of that id already, which is {before.lifecycle}")
            self.places.require_free(change, tenant, resource, primary)
            change.insert_key(resource, tenant, KeyLifecycle.ACTIVE, [primary], now)
            keep_canaries(change, made_canaries, now)
            return Done(change.key(resource), {"after": {"replicas": [_shown(primary)], "lifecycle": "active"}})

        made: KeyRecord = await self._desk.change(act, "enrol_key", tenant, resource, work)
        return made

    async def add_replica(self, act: Act, tenant: str, key: str, etag: str, place: Replica) -> KeyRecord:
        """Add another place where the key can be used, after all others.

        Raises:
            ResourceNotFound: There is no such key.
            ResourceInUse: The place is taken, or is in a key store that has a replica of this key.
            InvalidRequest: There can be no such key: no such key store, or no name of one in it.
            EnrolmentFailed: It is not the same key, or cannot be used.
            KeyStoreError: It could not be tried, by no fault of the key's.
            EtagMismatch: The key was changed since it was read.
        """
        resource = key_name(tenant, key)
        primary = self._primary(await self.get(tenant, key))
        await self._proven(act, "add_replica", tenant, resource, [(primary, place)], new="replica")
        made_canaries = await self._enrolment.canaries(resource, [place])
        now = self._desk.clock()

        def work(change: Change) -> Done:
            before: KeyRecord = required(change.key(resource), resource)
            if self._primary(before) != primary:
                raise ResourceInUse(resource, "its primary was changed while the replica was tried: try again")
            if any(one.place.name == place.name for one in before.replicas):
                raise ResourceInUse(resource, f"it has a replica in {place.name!r} already")
            self.places.require_free(change, tenant, resource, place)
            after = (*before.replicas, ReplicaRecord(place, now))
            change.update_key(before, etag, before.lifecycle, after)
            keep_canaries(change, made_canaries, now)
            return Done(change.key(resource), _places(before.replicas, after))

        changed: KeyRecord = await self._desk.change(act, "add_replica", tenant, resource, work)
        return changed

    async def remove_replica(self, act: Act, tenant: str, key: str, etag: str, place: str) -> KeyRecord:
        """Take a place away from a key. Without its primary, the next place is the primary.

        Args:
            act: Who, and why.
            tenant: Id of the tenant.
            key: Id of the key.
            etag: Of the key, as it was read.
            place: The place's name; that of its key store is enough where the key has no other place in that.

        Raises:
            ResourceNotFound: There is no such key, or it has no replica of that name.
            ResourceInUse: It is the only one.
            EtagMismatch: The key was changed since it was read.
        """
        resource = key_name(tenant, key)

        def work(change: Change) -> Done:
            before: KeyRecord = required(change.key(resource), resource)
            there = [one.place for one in before.replicas]
            meant = [one for one in there if one.name == place] or [one for one in there if one.store == place]
            if len(meant) != 1:
                raise ResourceNotFound(f"{resource}/replicas/{place}", [one.name for one in there])
            after = [one for one in before.replicas if one.place not in meant]
            if not after:
                raise ResourceInUse(resource, "it is the key's only replica; retire and remove the key instead")
            change.update_key(before, etag, before.lifecycle, after)
            return Done(change.key(resource), _places(before.replicas, after))

        changed: KeyRecord = await self._desk.change(act, "remove_replica", tenant, resource, work)
        return changed

    async def activate(self, act: Act, tenant: str, key: str, etag: str) -> KeyRecord:
        """Prove a key anew in all of its places, and let it wrap (again).

        Raises:
            ResourceNotFound: There is no such key.
            ResourceInUse: It was removed.
            EnrolmentFailed: It cannot be used in one of its places.
            KeyStoreError: It could not be tried in one of its places, by no fault of the key's.
            EtagMismatch: The key was changed since it was read.
        """
        resource = key_name(tenant, key)
        record = await self.get(tenant, key)
        primary = self._primary(record)
        pairs = [(primary, one.place) for one in record.replicas]
        await self._proven(act, "activate_key", tenant, resource, pairs)
        made_canaries = await self._enrolment.canaries(resource, [one.place for one in record.replicas])
        now = self._desk.clock()

        def work(change: Change) -> Done:
            before: KeyRecord = required(change.key(resource), resource)
            if [one.place for one in before.replicas] != [one.place for one in record.replicas]:
                raise ResourceInUse(resource, "its replicas were changed while they were tried: try again")
            after = [ReplicaRecord(one.place, now) for one in before.replicas]
            change.update_key(before, etag, KeyLifecycle.ACTIVE, after)
            keep_canaries(change, made_canaries, now)
            return Done(change.key(resource), _lifecycle(before, KeyLifecycle.ACTIVE))

        changed: KeyRecord = await self._desk.change(act, "activate_key", tenant, resource, work)
        return changed

    async def retire(self, act: Act, tenant: str, key: str, etag: str) -> KeyRecord:
        """Let a key open what it has wrapped, and wrap nothing more.

        Raises:
            ResourceNotFound: There is no such key.
            ResourceInUse: The policy in force names it, or it was removed.
            EtagMismatch: The key was changed since it was read.
        """
        return await self._leave(act, "retire_key", tenant, key, etag, KeyLifecycle.RETIRED)

    async def remove(
        self, act: Act, tenant: str, key: str, etag: str, *, abandon_branch_keys: bool = False
    ) -> KeyRecord:
        """Let go of a retired key: nothing that it wrapped can be opened here any more.

        Its id stays taken, so that the audit trail never means two keys by one name.

        Args:
            act: Who, and why.
            tenant: Id of the tenant.
            key: Id of the key.
            etag: Of the key, as it was read.
            abandon_branch_keys: Whether to give up what the branch keys under it wrapped.

        Raises:
            ResourceNotFound: There is no such key.
            ResourceInUse: It is not retired, or branch keys are under it that are not to be given up.
            EtagMismatch: The key was changed since it was read.
        """
        return await self._leave(
            act, "remove_key", tenant, key, etag, KeyLifecycle.REMOVED, abandon_branch_keys=abandon_branch_keys
        )

    async def _leave(
        self,
        act: Act,
        what: str,
        tenant: str,
        key: str,
        etag: str,
        lifecycle: KeyLifecycle,
        *,
        abandon_branch_keys: bool = False,
    ) -> KeyRecord:
        resource = key_name(tenant, key)

        def work(change: Change) -> Done:
            before: KeyRecord = required(change.key(resource), resource)
            if before.lifecycle is KeyLifecycle.REMOVED:
                raise ResourceInUse(resource, "it was removed")
            if lifecycle is KeyLifecycle.REMOVED and before.lifecycle is KeyLifecycle.ACTIVE:
                raise ResourceInUse(resource, "it is active: retire it first")
            owner: TenantRecord = required(change.tenant(tenant), tenant_name(tenant))
            policy = change.policy_version(tenant, owner.policy_version)
            where = policy.policy.keys().get(key) if policy else None
            if where:
                raise ResourceInUse(resource, f"{where} of the policy in force names it: put another version in force")
            places: Sequence[ReplicaRecord] = () if lifecycle is KeyLifecycle.REMOVED else before.replicas
            change.require_etag(resource, before.stamp, etag)
            detail, count, agreed = _lifecycle(before, lifecycle), 0, NOTHING
            if lifecycle is KeyLifecycle.REMOVED:
                count = branch_keys.under(change.connection, resource)
                if count and not abandon_branch_keys:
                    raise ResourceInUse(resource, _would_lose(tenant, key, count))
                agreed = self._agreed_to_remove(change, act, before, count)
            change.update_key(before, etag, lifecycle, places)
            if lifecycle is KeyLifecycle.REMOVED:
                branch_keys.abandon(change.connection, resource)
                detail |= {"abandoned_branch_keys": count} if count else {}
            return Done(change.key(resource), {**agreed, **detail})

        changed: KeyRecord = await self._desk.change(act, what, tenant, resource, work)
        return changed

    def _agreed_to_remove(self, change: Change, act: Act, before: KeyRecord, abandoned: int) -> Mapping[str, str]:
        places = [_shown(one.place) for one in before.replicas]
        was = {"lifecycle": before.lifecycle.value, "replicas": places, "branch_keys": abandoned}
        now = {"lifecycle": KeyLifecycle.REMOVED.value, "replicas": [], "branch_keys": 0}
        summary = "remove the key: nothing that it wrapped can be opened any more"
        effect = Effect(Danger.REMOVE_KEY, before.name, was, now)
        dangerous = Dangerous(before.tenant, before.name, summary, [effect], field="key")
        return self._desk.require_agreement(change, act, dangerous)

    async def _proven(
        self,
        act: Act,
        what: str,
        tenant: str,
        resource: str,
        pairs: Sequence[tuple[Replica, Replica]],
        *,
        new: str = "",
    ) -> None:
        """Try each place, and each replica against the primary; record a failure.

        Args:
            act: Who, and why.
            what: The call's name.
            tenant: Id of the tenant.
            resource: Name of the key.
            pairs: The primary, and a place.
            new: The request's field that the places come from; empty where the registry had them.
        """
        try:
            for primary, place in pairs:
                if new:
                    self._enrolment.require_possible(new, place)
                    await self.begin_anew(place)
                try:
                    await self._enrolment.prove_at(resource, primary, place)
                except EnrolmentFailed:
                    if new:
                        raise
                    # Another key by that name may be meant: that is what is proven then. Not before it is known that
                    # the one which worked does not: what is forgotten tells no outage and no revocation any more.
                    self._enrolment.begin_anew(place)
                    await self._enrolment.prove_at(resource, primary, place)
        except OwnkeyError as error:
            await self._desk.refuse(act, what, tenant, resource, error)
            await self.tell_of_failure(act, what, tenant, resource, error)
            raise

    async def begin_anew(self, place: Replica) -> bool:
        """Look without prejudice at a place that is nobody's; the key of one that is somebody's stays the same.

        Returns:
            Whether it is nobody's.
        """
        if await self._desk.read(lambda reader: reader.key_at(place)) is not None:
            return False
        self._enrolment.begin_anew(place)
        return True

    async def tell_of_failure(self, act: Act, what: str, tenant: str, resource: str, error: OwnkeyError) -> None:
        """Tell the tenant that a key of its could not be proven, where it was tried."""
        if not isinstance(error, EnrolmentFailed | KeyStoreError):
            return
        notice = notices.enrolment_failed(tenant, act, what, resource, error, self._desk.clock())
        try:
            await self._desk.tell(notice)
        except DatabaseUnavailable as unavailable:
            # The caller has the failure itself, and the trail had it before.
            _log.warning("tenant %s was not told that %s failed: %s", tenant, what, unavailable.cause)

    def _primary(self, record: KeyRecord) -> Replica:
        if not record.replicas:
            raise ResourceInUse(record.name, "it was removed")
        return record.replicas[0].place


def keep_canaries(change: Change, made: Mapping[Replica, Canary], now: datetime) -> None:
    """Keep canaries of a key that was proven just now, instead of those that there were."""
    for place, canary in made.items():
        canaries.keep(change.connection, place, canary, now, instead=True)


def _would_lose(tenant: str, key: str, count: int) -> str:
    one = count == 1
    return (
        f"{count} branch {'key is' if one else 'keys are'} wrapped under it, and what {'it' if one else 'they'} wrapped"
        f" would be lost: move {'it' if one else 'them'} first, with: ownkey admin branch-key rewrap --tenant {tenant}"
        f" --from {key} --to OTHER"
    )


def _shown(place: Replica) -> dict[str, str]:
    return {"key_store": place.store, "reference": place.reference}


def _places(before: Sequence[ReplicaRecord], after: Sequence[ReplicaRecord]) -> dict[str, object]:
    return {
        "before": {"replicas": [_shown(one.place) for one in before]},
        "after": {"replicas": [_shown(one.place) for one in after]},
    }


def _lifecycle(before: KeyRecord, after: KeyLifecycle) -> dict[str, object]:
    return {"before": {"lifecycle": before.lifecycle.value}, "after": {"lifecycle": after.value}}
