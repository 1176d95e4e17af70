"""Tenants, keys, groups, policy versions and principals in the database: reading them, and changing them.

Every change takes the row ``revision`` first, so that changes happen one after the other on all instances, and its
number becomes the etag of all that it touches. What a change touches is written down for the instances that hold a view
of it (``change_feed.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from ownkey_server.domain.audit import from_microseconds, microseconds
from ownkey_server.domain.errors import EtagMismatch, ResourceNotFound
from ownkey_server.domain.roles import Grant, principal_name
from ownkey_server.domain.tenants import KeyLifecycle, Replica
from ownkey_server.storage import key_usage
from ownkey_server.storage.documents import PolicyTable
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.grants import grants_json, grants_of
from ownkey_server.storage.records import (
    ANY_ETAG,
    GroupRecord,
    KeyRecord,
    PolicyVersion,
    PrincipalRecord,
    ReplicaRecord,
    Stamp,
    TenantRecord,
)
from ownkey_server.storage.schema import (
    CHANGES,
    CUSTOMER_KEYS,
    GROUP_USERS,
    GROUPS,
    NOTICE_NUMBER,
    POLICY_VERSIONS,
    REPLICAS,
    REVISION,
    SERVICE_PRINCIPALS,
    TENANTS,
)

PROVIDER = ""
"""The tenant of the provider's own key, in the list of changes."""
CHANNEL = "ownkey_changes"
"""Where PostgreSQL tells that something changed."""


class Reader:
    """Reads resources in one transaction. Lists are by id, from after ``after``, at most ``limit`` long."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def connection(self) -> Connection:
        """The transaction, for what is kept beside the registry."""
        return self._connection

    def tenant(self, tenant: str) -> TenantRecord | None:
        """A tenant, if there is one."""
        row = self._one(sa.select(TENANTS).where(TENANTS.c.id == tenant))
        return _tenant(row) if row else None

    def tenants(self, after: str, limit: int, only: Collection[str] | None = None) -> list[TenantRecord]:
        """Tenants; of those in ``only``, unless that is None."""
        wanted = TENANTS.c.id > after
        if only is not None:
            wanted = sa.and_(wanted, TENANTS.c.id.in_(only))
        query = sa.select(TENANTS).where(wanted).order_by(TENANTS.c.id).limit(limit)
        return [_tenant(row) for row in self._connection.execute(query)]

    def key(self, name: str) -> KeyRecord | None:
        """A key by its name, if there is one."""
        return next(iter(self._keys(CUSTOMER_KEYS.c.name == name)), None)

    def keys(self, tenant: str) -> list[KeyRecord]:
        """All keys of a tenant, by name; removed ones too."""
        return self._keys(CUSTOMER_KEYS.c.tenant == tenant)

    def key_at(self, place: Replica) -> str | None:
        """The name of the key that is at a place of a key store, if one is."""
        query = sa.select(REPLICAS.c.key).where(
            REPLICAS.c.store == place.store, REPLICAS.c.reference == place.reference
        )
        return self._connection.execute(query).scalar_one_or_none()

    def places_called(self, ending: str) -> list[tuple[str, Replica]]:
        """The places whose references end so, whoever's they are, each with the name of its key."""
        query = sa.select(REPLICAS.c.key, REPLICAS.c.store, REPLICAS.c.reference).where(
            REPLICAS.c.reference.endswith(ending, autoescape=True)
        )
        return [(key, Replica(store, reference)) for key, store, reference in self._connection.execute(query)]

    def places_in(self, stores: Collection[str], after: str, limit: int) -> list[tuple[str, Replica]]:
        """The places in these key stores, by the names of their keys from after that one, of at most so many keys."""
        inside = REPLICAS.c.store.in_(sorted(stores))
        keys = sa.select(REPLICAS.c.key).where(inside, REPLICAS.c.key > after).distinct()
        keys = keys.order_by(REPLICAS.c.key).limit(limit)
        query = sa.select(REPLICAS.c.key, REPLICAS.c.store, REPLICAS.c.reference).where(
            inside, REPLICAS.c.key.in_(keys)
        )
        rows = self._connection.execute(query.order_by(REPLICAS.c.key, REPLICAS.c.position))
        return [(key, Replica(store, reference)) for key, store, reference in rows]

    def group(self, tenant: str, group: str) -> GroupRecord | None:
        """A group, if there is one."""
        found = self._groups(sa.and_(GROUPS.c.tenant == tenant, GROUPS.c.id == group), 1)
        return found[0] if found else None

    def groups(self, tenant: str, after: str = "", limit: int | None = None) -> list[GroupRecord]:
        """Groups of a tenant."""
        return self._groups(sa.and_(GROUPS.c.tenant == tenant, GROUPS.c.id > after), limit)

    def policy_version(self, tenant: str, number: int) -> PolicyVersion | None:
        """A version of a tenant's policy, if there is one."""
        found = self._policies(sa.and_(POLICY_VERSIONS.c.tenant == tenant, POLICY_VERSIONS.c.number == number), 1)
        return found[0] if found else None

    def policy_versions(self, tenant: str, before: int | None, limit: int) -> list[PolicyVersion]:
        """Versions of a tenant's policy, the newest first."""
        wanted = POLICY_VERSIONS.c.tenant == tenant
        if before is not None:
            wanted = sa.and_(wanted, POLICY_VERSIONS.c.number < before)
        return self._policies(wanted, limit)

    def principal(self, principal: str) -> PrincipalRecord | None:
        """A service principal, if there is one."""
        row = self._one(sa.select(SERVICE_PRINCIPALS).where(SERVICE_PRINCIPALS.c.id == principal))
        return _principal(row) if row else None

    def principals(self, after: str, limit: int) -> list[PrincipalRecord]:
        """Service principals."""
        table = SERVICE_PRINCIPALS
        query = sa.select(table).where(table.c.id > after).order_by(table.c.id).limit(limit)
        return [_principal(row) for row in self._connection.execute(query)]

    def revision(self) -> int:
        """The number of the last change."""
        return int(self._connection.execute(sa.select(REVISION.c.number)).scalar_one())

    def counters(self) -> tuple[int, int]:
        """The number of the last change, and how often notices were put."""
        notices = sa.select(NOTICE_NUMBER.c.number).scalar_subquery().label("notices")
        row = self._connection.execute(sa.select(REVISION.c.number, notices)).one()
        return int(row.number), int(row.notices)

    def was_changed(self, tenant: str) -> bool:
        """Whether a tenant of that id was ever changed, which every tenant was that is, or was."""
        return self._one(sa.select(CHANGES).where(CHANGES.c.tenant == tenant)) is not None

    def changed_at(self, tenant: str) -> int:
        """The number of the tenant's last change; 0 when it was never changed."""
        row = self._one(sa.select(CHANGES).where(CHANGES.c.tenant == tenant))
        return int(row.revision) if row is not None else 0

    def changes_since(self, revision: int, limit: int) -> list[tuple[int, str]]:
        """The tenants that were last changed after ``revision``, each with the revision; the oldest first."""
        query = sa.select(CHANGES).where(CHANGES.c.revision > revision).order_by(CHANGES.c.revision).limit(limit)
        return [(row.revision, row.tenant) for row in self._connection.execute(query)]

    def _one(self, query: sa.Select[Any]) -> Row[Any] | None:
        return self._connection.execute(query).one_or_none()

    def _keys(self, wanted: sa.ColumnElement[bool]) -> list[KeyRecord]:
        rows = self._connection.execute(sa.select(CUSTOMER_KEYS).where(wanted).order_by(CUSTOMER_KEYS.c.name)).all()
        places: dict[str, list[ReplicaRecord]] = {row.name: [] for row in rows}
        joined = sa.select(REPLICAS).join(CUSTOMER_KEYS, CUSTOMER_KEYS.c.name == REPLICAS.c.key).where(wanted)
        for row in self._connection.execute(joined.order_by(REPLICAS.c.key, REPLICAS.c.position)):
            verified = None if row.verify_time is None else from_microseconds(row.verify_time)
            places[row.key].append(ReplicaRecord(Replica(row.store, row.reference), verified))
        return [
            KeyRecord(
                row.name, row.tenant or PROVIDER, KeyLifecycle(row.lifecycle), tuple(places[row.name]), _stamp(row)
            )
            for row in rows
        ]

    def _groups(self, wanted: sa.ColumnElement[bool], limit: int | None) -> list[GroupRecord]:
        rows = self._connection.execute(sa.select(GROUPS).where(wanted).order_by(GROUPS.c.id).limit(limit)).all()
        if not rows:
            return []
        users: dict[str, list[str]] = {row.id: [] for row in rows}
        table = GROUP_USERS
        query = sa.select(table).where(
            table.c.tenant == rows[0].tenant, table.c.group_id.between(rows[0].id, rows[-1].id)
        )
        for row in self._connection.execute(query.order_by(table.c.user_id)):
            users[row.group_id].append(row.user_id)
        return [GroupRecord(row.tenant, row.id, tuple(users[row.id]), _stamp(row)) for row in rows]

    def _policies(self, wanted: sa.ColumnElement[bool], limit: int) -> list[PolicyVersion]:
        table = POLICY_VERSIONS
        query = (
            sa.select(table, TENANTS.c.policy_version)
            .join(TENANTS, TENANTS.c.id == table.c.tenant)
            .where(wanted)
            .order_by(table.c.number.desc())
            .limit(limit)
        )
        return [
            PolicyVersion(
                row.tenant,
                row.number,
                PolicyTable.model_validate_json(row.policy),
                row.author,
                row.reason,
                from_microseconds(row.create_time),
                row.policy_version == row.number,
            )
            for row in self._connection.execute(query)
        ]


class Change(Reader):
    """One administrative change. It is in force when the transaction around it commits.

    Args:
        connection: In a transaction that may write.
        now: The present time (UTC).
    """

    def __init__(self, connection: Connection, now: datetime) -> None:
        super().__init__(connection)
        self._now = microseconds(now)
        taken = sa.update(REVISION).values(number=REVISION.c.number + 1).returning(REVISION.c.number)
        self.number = int(connection.execute(taken).scalar_one())
        self._told: set[str] = set()

    def touch(self, tenant: str) -> None:
        """Note that something of a tenant was changed that is kept beside the registry."""
        self._touch(tenant)

    def insert_tenant(self, tenant: str, display_name: str, enrolled_at: datetime, gate: CallGateTable) -> None:
        """Add a tenant without policy."""
        self._touch(tenant)
        self._insert(
            TENANTS,
            id=tenant,
            display_name=display_name,
            enrolled_at=microseconds(enrolled_at),
            call_gate=gate.to_json(),
            policy_version=0,
        )

    def update_tenant(self, tenant: TenantRecord, etag: str, display_name: str, gate: CallGateTable) -> None:
        """Change a tenant.

        Raises:
            EtagMismatch: It was changed meanwhile. Every method with an etag raises this.
        """
        self.require_etag(f"tenants/{tenant.id}", tenant.stamp, etag)
        self._touch(tenant.id)
        self._update(TENANTS, TENANTS.c.id == tenant.id, display_name=display_name, call_gate=gate.to_json())

    def delete_tenant(self, tenant: TenantRecord, etag: str) -> None:
        """Remove a tenant with its policy versions and what is left of removed keys; nothing else may be left."""
        self.require_etag(f"tenants/{tenant.id}", tenant.stamp, etag)
        self._touch(tenant.id)
        for table in (POLICY_VERSIONS, CUSTOMER_KEYS):
            self._connection.execute(sa.delete(table).where(table.c.tenant == tenant.id))
        self._connection.execute(sa.delete(TENANTS).where(TENANTS.c.id == tenant.id))

    def insert_key(
        self, name: str, tenant: str, lifecycle: KeyLifecycle, places: Sequence[Replica], verified: datetime | None
    ) -> None:
        """Add a key."""
        self._touch(tenant)
        self._insert(CUSTOMER_KEYS, name=name, tenant=tenant or None, lifecycle=lifecycle.value)
        self._write_places(name, [ReplicaRecord(place, verified) for place in places])

    def update_key(self, key: KeyRecord, etag: str, lifecycle: KeyLifecycle, places: Sequence[ReplicaRecord]) -> None:
        """Change a key's lifecycle or places."""
        self.require_etag(key.name, key.stamp, etag)
        self._touch(key.tenant)
        self._update(CUSTOMER_KEYS, CUSTOMER_KEYS.c.name == key.name, lifecycle=lifecycle.value)
        self._connection.execute(sa.delete(REPLICAS).where(REPLICAS.c.key == key.name))
        self._write_places(key.name, places)

    def insert_group(self, tenant: str, group: str, users: Iterable[str]) -> None:
        """Add a group."""
        self._touch(tenant)
        self._insert(GROUPS, tenant=tenant, id=group)
        self._write_users(tenant, group, users)

    def update_group(self, group: GroupRecord, etag: str, users: Iterable[str]) -> None:
        """Change who is in a group."""
        self.require_etag(f"tenants/{group.tenant}/groups/{group.id}", group.stamp, etag)
        self._touch(group.tenant)
        self._update(GROUPS, sa.and_(GROUPS.c.tenant == group.tenant, GROUPS.c.id == group.id))
        self._delete_users(group)
        self._write_users(group.tenant, group.id, users)

    def delete_group(self, group: GroupRecord, etag: str) -> None:
        """Remove a group."""
        self.require_etag(f"tenants/{group.tenant}/groups/{group.id}", group.stamp, etag)
        self._touch(group.tenant)
        self._delete_users(group)
        self._connection.execute(sa.delete(GROUPS).where(GROUPS.c.tenant == group.tenant, GROUPS.c.id == group.id))

    def insert_policy(self, tenant: str, policy: PolicyTable, author: str, reason: str) -> int:
        """Add a version of a tenant's policy, not yet in force; gives its number."""
        table = POLICY_VERSIONS
        last = self._connection.execute(sa.select(sa.func.max(table.c.number)).where(table.c.tenant == tenant)).scalar()
        number = int(last or 0) + 1
        self._connection.execute(
            sa.insert(table).values(
                tenant=tenant,
                number=number,
                policy=policy.to_json(),
                author=author,
                reason=reason,
                create_time=self._now,
            )
        )
        return number

    def put_policy_in_force(self, tenant: TenantRecord, etag: str, number: int) -> None:
        """Let another version of a tenant's policy decide from now on."""
        self.require_etag(f"tenants/{tenant.id}", tenant.stamp, etag)
        self._touch(tenant.id)
        self._update(TENANTS, TENANTS.c.id == tenant.id, policy_version=number)

    def insert_principal(self, principal: str, display_name: str, grants: Sequence[Grant]) -> None:
        """Add a service principal."""
        self._insert(SERVICE_PRINCIPALS, id=principal, display_name=display_name, grants=grants_json(grants))
        self._touch(principal_name(principal))

    def update_principal(
        self, principal: PrincipalRecord, etag: str, display_name: str, grants: Sequence[Grant]
    ) -> None:
        """Say anew what a service principal is called, and what it may do."""
        self.require_etag(principal_name(principal.id), principal.stamp, etag)
        which = SERVICE_PRINCIPALS.c.id == principal.id
        self._update(SERVICE_PRINCIPALS, which, display_name=display_name, grants=grants_json(grants))
        self._touch(principal_name(principal.id))

    def delete_principal(self, principal: PrincipalRecord, etag: str) -> None:
        """Remove a service principal."""
        self.require_etag(principal_name(principal.id), principal.stamp, etag)
        self._connection.execute(sa.delete(SERVICE_PRINCIPALS).where(SERVICE_PRINCIPALS.c.id == principal.id))
        self._touch(principal_name(principal.id))

    def require_etag(self, resource: str, stamp: Stamp, etag: str) -> None:
        """Make sure that nobody changed a resource since it was read.

        Raises:
            EtagMismatch: Somebody did.
        """
        if etag not in (ANY_ETAG, stamp.etag):
            raise EtagMismatch(resource)

    def _touch(self, tenant: str) -> None:
        """Tell all instances that what they know of the tenant is no longer so."""
        if tenant not in self._told:
            self._told.add(tenant)
            self._connection.execute(sa.delete(CHANGES).where(CHANGES.c.tenant == tenant))
            self._connection.execute(sa.insert(CHANGES).values(revision=self.number, tenant=tenant))
        if len(self._told) == 1 and self._connection.dialect.name == "postgresql":
            # Once a transaction; PostgreSQL tells it at the commit, and folds equal ones into one.
            self._connection.execute(sa.select(sa.func.pg_notify(CHANNEL, str(self.number))))

    def _insert(self, table: sa.Table, **values: object) -> None:
        stamp = {"etag": self.number, "create_time": self._now, "update_time": self._now}
        self._connection.execute(sa.insert(table).values(**values, **stamp))

    def _update(self, table: sa.Table, which: sa.ColumnElement[bool], **values: object) -> None:
        self._connection.execute(
            sa.update(table).where(which).values(**values, etag=self.number, update_time=self._now)
        )

    def _write_places(self, key: str, places: Sequence[ReplicaRecord]) -> None:
        rows = [
            {
                "key": key,
                "position": position,
                "store": one.place.store,
                "reference": one.place.reference,
                "verify_time": None if one.verify_time is None else microseconds(one.verify_time),
            }
            for position, one in enumerate(places)
        ]
        if rows:
            self._connection.execute(sa.insert(REPLICAS), rows)
            key_usage.remember(self._connection, key, [one.place for one in places])

    def _write_users(self, tenant: str, group: str, users: Iterable[str]) -> None:
        rows = [{"tenant": tenant, "group_id": group, "user_id": user} for user in sorted(set(users))]
        if rows:
            self._connection.execute(sa.insert(GROUP_USERS), rows)

    def _delete_users(self, group: GroupRecord) -> None:
        table = GROUP_USERS
        self._connection.execute(sa.delete(table).where(table.c.tenant == group.tenant, table.c.group_id == group.id))


def required(found: object, resource: str) -> Any:
    """What was looked up.

    Raises:
        ResourceNotFound: Nothing was found.
    """
    if found is None:
        raise ResourceNotFound(resource)
    return found


def _principal(row: Row[Any]) -> PrincipalRecord:
    return PrincipalRecord(row.id, row.display_name, grants_of(row.grants), _stamp(row))


def _stamp(row: Row[Any]) -> Stamp:
    return Stamp(str(row.etag), from_microseconds(row.create_time), from_microseconds(row.update_time))


def _tenant(row: Row[Any]) -> TenantRecord:
    gate = CallGateTable.model_validate_json(row.call_gate)
    enrolled_at = from_microseconds(row.enrolled_at)
    return TenantRecord(row.id, row.display_name, enrolled_at, gate, row.policy_version, _stamp(row))
