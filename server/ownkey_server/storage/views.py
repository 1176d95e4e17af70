"""A tenant as the services decide by it, put together from the database."""

from __future__ import annotations

from dataclasses import dataclass

from ownkey_server.domain.roles import PRINCIPALS, Grant
from ownkey_server.domain.tenants import PROVIDER_KEY_NAME, CustomerKey, KeyLifecycle, Tenant
from ownkey_server.storage import revocations
from ownkey_server.storage.database import Database
from ownkey_server.storage.documents import PolicyTable
from ownkey_server.storage.records import GroupRecord, KeyRecord
from ownkey_server.storage.registry import PROVIDER, Reader


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since a revision.

    Attributes:
        revision: The newest there is.
        tenants: Those that were touched, and the resource names of principals that were; None when they were too many
            to be listed.
        notices: How often notices were put: when it has moved, there may be some to deliver.
    """

    revision: int
    tenants: frozenset[str] | None
    notices: int = 0


# More than this at once, and dropping every view costs less than naming them.
MAX_CHANGES = 10_000


class TenantViews:
    """Reads what the services decide by. Every method raises :class:`DatabaseUnavailable` when it cannot."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, tenant_id: str) -> Tenant | None:
        """A tenant, as it is at this moment; None when there is none."""
        with self._database.reading() as connection:
            reader = Reader(connection)
            # First: what changes meanwhile is read anew under a newer number, and never the reverse.
            revision = reader.changed_at(tenant_id)
            record = reader.tenant(tenant_id)
            if record is None:
                return None
            version = reader.policy_version(tenant_id, record.policy_version)
            keys, groups = reader.keys(tenant_id), reader.groups(tenant_id)
            taken_back = revocations.in_force(connection, tenant_id)
        policy = version.policy if version else PolicyTable()
        return Tenant(
            id=record.id,
            enrolled_at=record.enrolled_at,
            keys={key.id: customer_key(key) for key in keys if key.lifecycle is not KeyLifecycle.REMOVED},
            policy=policy.to_domain(record.enrolled_at),
            groups=frozenset(group.id for group in groups),
            groups_of=_groups_of(groups),
            call_gate=record.call_gate.to_domain(),
            policy_version=record.policy_version,
            revision=revision,
            revocations=taken_back,
        )

    def provider_key(self) -> CustomerKey | None:
        """The provider's own key; None before there is one."""
        with self._database.reading() as connection:
            record = Reader(connection).key(PROVIDER_KEY_NAME)
        return customer_key(record) if record else None

    def revision(self) -> int:
        """The number of the last change."""
        with self._database.reading() as connection:
            return Reader(connection).revision()

    def changes_since(self, revision: int | None) -> Changes:
        """What changed after ``revision``; everything, when that is None."""
        with self._database.reading() as connection:
            reader = Reader(connection)
            newest, notices = reader.counters()
            if revision is None:
                return Changes(newest, None, notices)
            if newest == revision:
                return Changes(newest, frozenset(), notices)
            changed = reader.changes_since(revision, MAX_CHANGES + 1)
        if len(changed) > MAX_CHANGES or newest < revision:
            return Changes(newest, None, notices)
        return Changes(newest, frozenset(tenant for _, tenant in changed), notices)


class PrincipalViews:
    """Reads what callers are told apart by. Every method raises :class:`DatabaseUnavailable` when it cannot."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def grants(self, name: str) -> tuple[Grant, ...] | None:
        """What the principal of that resource name may do, as it is at this moment; None when nobody knows it."""
        principal = name.removeprefix(PRINCIPALS)
        with self._database.reading() as connection:
            record = Reader(connection).principal(principal)
        return record.grants if record else None


def customer_key(record: KeyRecord) -> CustomerKey:
    """The key as the services use it."""
    return CustomerKey(record.name, tuple(one.place for one in record.replicas), record.lifecycle)


def _groups_of(groups: list[GroupRecord]) -> dict[str, frozenset[str]]:
    groups_of: dict[str, frozenset[str]] = {}
    for group in groups:
        for user in group.users:
            groups_of[user] = groups_of.get(user, frozenset()) | {group.id}
    return groups_of


__all__ = ["MAX_CHANGES", "PROVIDER", "Changes", "PrincipalViews", "TenantViews", "customer_key"]
