"""Branch keys in the database: wrapped, one active for each tenant and key, whoever made it.

Every function takes a connection in a transaction, and may raise what the database says
(:class:`~ownkey_server.domain.errors.DatabaseUnavailable`, outside).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from ownkey_server.domain.audit import from_microseconds, microseconds
from ownkey_server.domain.branch_keys import BranchKey, BranchKeyState
from ownkey_server.storage.schema import BRANCH_KEYS

_ACTIVE = BranchKeyState.ACTIVE.value
_DECRYPT_ONLY = BranchKeyState.DECRYPT_ONLY.value


def find(connection: Connection, tenant: str, ids: Collection[str]) -> list[BranchKey]:
    """Those of the tenant's branch keys that have one of these ids."""
    table = BRANCH_KEYS
    query = sa.select(table).where(table.c.tenant == tenant, table.c.id.in_(ids))
    return [_branch_key(row) for row in connection.execute(query)]


def active(connection: Connection, tenant: str, key: str) -> BranchKey | None:
    """The branch key that wraps what the tenant has under the key of that name, if there is one."""
    table = BRANCH_KEYS
    query = sa.select(table).where(table.c.tenant == tenant, table.c.key == key, table.c.state == _ACTIVE)
    row = connection.execute(query).one_or_none()
    return _branch_key(row) if row else None


def add(connection: Connection, made: BranchKey, instead_of: str = "") -> BranchKey:
    """Let a branch key be the active one of its tenant and key, unless somebody else's became so meanwhile.

    Args:
        connection: In a transaction that may write.
        made: The new one; its version is given here.
        instead_of: Id of the one that was active when this one was made.

    Returns:
        The one that is active now.
    """
    table = BRANCH_KEYS
    if instead_of:
        replaced = sa.update(table).where(table.c.id == instead_of, table.c.state == _ACTIVE)
        connection.execute(replaced.values(state=_DECRYPT_ONLY))
    insert = (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(table)
    values = {
        "id": made.id,
        "tenant": made.tenant,
        "key": made.key,
        "first_key": made.first_key,
        "state": _ACTIVE,
        "version": _next_version(connection, made.tenant, made.key),
        "wrapped": made.wrapped,
        "context": json.dumps(dict(made.context), sort_keys=True),
        "create_time": microseconds(made.create_time),
    }
    connection.execute(insert.values(**values).on_conflict_do_nothing())
    now = active(connection, made.tenant, made.key)
    if now is None:
        raise LookupError("a branch key was added and is not there")
    return now


def rewrap(connection: Connection, moved: BranchKey, key: str, wrapped: bytes) -> BranchKey | None:
    """Keep a branch key under another key, by which it opens from now on, and wraps no more.

    Args:
        connection: In a transaction that may write.
        moved: As it was read.
        key: Name of the other key.
        wrapped: The same branch key, wrapped under that.

    Returns:
        As it is now; None when somebody else changed it meanwhile, and nothing was done.
    """
    table = BRANCH_KEYS
    as_read = sa.and_(table.c.id == moved.id, table.c.key == moved.key, table.c.wrapped == moved.wrapped)
    version = _next_version(connection, moved.tenant, key)
    values = {"key": key, "wrapped": wrapped, "version": version, "state": _DECRYPT_ONLY}
    row = connection.execute(sa.update(table).where(as_read).values(**values).returning(table)).one_or_none()
    return _branch_key(row) if row else None


def under(connection: Connection, key: str, tenant: str | None = None) -> int:
    """How many branch keys are wrapped under the key of that name: a tenant's, or everybody's."""
    table = BRANCH_KEYS
    query = sa.select(sa.func.count()).select_from(table).where(table.c.key == key)
    if tenant is not None:
        query = query.where(table.c.tenant == tenant)
    return int(connection.execute(query).scalar_one())


def of_tenant(connection: Connection, tenant: str, key: str | None) -> int:
    """How many branch keys a tenant has: under the key of that name, or at all."""
    table = BRANCH_KEYS
    query = sa.select(sa.func.count()).select_from(table).where(table.c.tenant == tenant)
    if key is not None:
        query = query.where(table.c.key == key)
    return int(connection.execute(query).scalar_one())


def delete(connection: Connection, tenant: str) -> None:
    """Delete all of a tenant's branch keys: nothing that they wrapped can be opened again."""
    connection.execute(sa.delete(BRANCH_KEYS).where(BRANCH_KEYS.c.tenant == tenant))


def abandon(connection: Connection, key: str) -> None:
    """Let no branch key under the key of that name wrap any more: the key is leaving."""
    table = BRANCH_KEYS
    connection.execute(sa.update(table).where(table.c.key == key).values(state=_DECRYPT_ONLY))


def listed(connection: Connection, tenant: str, key: str | None, after: str, limit: int) -> list[BranchKey]:
    """A tenant's branch keys by id, from after ``after``: all, or those under the key of that name."""
    table = BRANCH_KEYS
    query = sa.select(table).where(table.c.tenant == tenant, table.c.id > after)
    if key is not None:
        query = query.where(table.c.key == key)
    return [_branch_key(row) for row in connection.execute(query.order_by(table.c.id).limit(limit))]


def _next_version(connection: Connection, tenant: str, key: str) -> int:
    table = BRANCH_KEYS
    query = sa.select(sa.func.max(table.c.version)).where(table.c.tenant == tenant, table.c.key == key)
    return int(connection.execute(query).scalar() or 0) + 1


def _branch_key(row: Row[Any]) -> BranchKey:
    return BranchKey(
        id=row.id,
        tenant=row.tenant,
        key=row.key,
        first_key=row.first_key,
        state=BranchKeyState(row.state),
        version=row.version,
        wrapped=bytes(row.wrapped),
        context=json.loads(row.context),
        create_time=from_microseconds(row.create_time),
    )
