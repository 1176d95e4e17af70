"""Revocations in the database, and what each instance did about them.

Every function takes a connection in a transaction, and may raise what the database says
(:class:`~ownkey_server.domain.errors.DatabaseUnavailable`, outside).
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from ownkey_server.domain.assets import AssetClass
from ownkey_server.domain.audit import from_microseconds, microseconds
from ownkey_server.domain.revocations import Ending, Revocation, Scope
from ownkey_server.storage.schema import REVOCATIONS

_SETS = ("keys", "groups", "users", "asset_ids", "queues")


def add(connection: Connection, made: Revocation, revision: int) -> None:
    """Put a revocation into force, by the change of that number."""
    connection.execute(
        sa.insert(REVOCATIONS).values(
            id=made.id,
            tenant=made.tenant,
            scope=scope_json(made.scope),
            ending=made.ending.value,
            reason=made.reason,
            author=made.author,
            create_time=microseconds(made.create_time),
            revision=revision,
        )
    )


def restore(connection: Connection, revocation: str, now: datetime, revision: int) -> bool:
    """End a revocation by the change of that number; False when it was not in force."""
    table = REVOCATIONS
    which = sa.and_(table.c.id == revocation, table.c.restore_time.is_(None))
    values = {"restore_time": microseconds(now), "restore_revision": revision}
    return connection.execute(sa.update(table).where(which).values(values)).rowcount == 1


def revisions_of(connection: Connection, revocation: str) -> tuple[int, int | None]:
    """The numbers of the changes by which a revocation came into force, and was restored, if it was."""
    table = REVOCATIONS
    query = sa.select(table.c.revision, table.c.restore_revision).where(table.c.id == revocation)
    revision, restored = connection.execute(query).one()
    return int(revision), None if restored is None else int(restored)


def find(connection: Connection, tenant: str, revocation: str) -> Revocation | None:
    """A revocation of a tenant, if there is one of that id."""
    table = REVOCATIONS
    row = connection.execute(sa.select(table).where(table.c.tenant == tenant, table.c.id == revocation)).one_or_none()
    return _revocation(row) if row else None


def in_force(connection: Connection, tenant: str) -> tuple[Revocation, ...]:
    """What a tenant has taken back at present, the oldest first."""
    table = REVOCATIONS
    query = sa.select(table).where(table.c.tenant == tenant, table.c.restore_time.is_(None))
    return tuple(_revocation(row) for row in connection.execute(query.order_by(table.c.create_time, table.c.id)))


def held(connection: Connection, tenant: str) -> tuple[int, int]:
    """How many revocations of a tenant are in force, and how many characters their scopes have."""
    table = REVOCATIONS
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(sa.func.length(table.c.scope)), 0))
    count, size = connection.execute(query.where(table.c.tenant == tenant, table.c.restore_time.is_(None))).one()
    return int(count), int(size)


def new_since(connection: Connection, revision: int) -> list[Revocation]:
    """What was put into force or restored by changes after that one, whoever's it is; the oldest first."""
    table = REVOCATIONS
    query = sa.select(table).where(sa.or_(table.c.revision > revision, table.c.restore_revision > revision))
    return [_revocation(row) for row in connection.execute(query.order_by(table.c.revision, table.c.id))]


def latest(
    connection: Connection, tenant: str, before: tuple[datetime, str] | None, limit: int, *, restored: bool
) -> list[Revocation]:
    """A tenant's revocations, the newest first.

    Args:
        connection: In a transaction.
        tenant: Whose.
        before: Time and id of the last one that was given.
        limit: At most so many.
        restored: Whether those too that are not in force any more.
    """
    table = REVOCATIONS
    query = sa.select(table).where(table.c.tenant == tenant)
    if not restored:
        query = query.where(table.c.restore_time.is_(None))
    if before is not None:
        query = query.where(sa.tuple_(table.c.create_time, table.c.id) < sa.tuple_(microseconds(before[0]), before[1]))
    query = query.order_by(table.c.create_time.desc(), table.c.id.desc()).limit(limit)
    return [_revocation(row) for row in connection.execute(query)]


def scope_json(scope: Scope) -> str:
    """A scope as it is stored: only what it says, in one order."""
    said: dict[str, Any] = {name: sorted(getattr(scope, name)) for name in _SETS if getattr(scope, name)}
    if scope.asset_classes:
        said["asset_classes"] = sorted(one.value for one in scope.asset_classes)
    for name in ("created_from", "created_before"):
        if (time := getattr(scope, name)) is not None:
            said[name] = microseconds(time)
    return json.dumps(said, sort_keys=True)


def _scope(text: str) -> Scope:
    said = json.loads(text)
    values: dict[str, Any] = {name: frozenset(said.get(name, ())) for name in _SETS}
    for name in ("created_from", "created_before"):
        values[name] = from_microseconds(said[name]) if name in said else None
    return Scope(asset_classes=frozenset(AssetClass(one) for one in said.get("asset_classes", ())), **values)


def _revocation(row: Row[Any]) -> Revocation:
    return Revocation(
        id=row.id,
        tenant=row.tenant,
        scope=_scope(row.scope),
        ending=Ending(row.ending),
        reason=row.reason,
        author=row.author,
        create_time=from_microseconds(row.create_time),
        restore_time=None if row.restore_time is None else from_microseconds(row.restore_time),
    )
