"""How long audit records are kept at least, as was agreed, in the database. Ages are microseconds; None is for ever."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ownkey_server.storage.schema import AUDIT_RETENTION


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was agreed.

    Attributes:
        etag: Changes with every agreement.
    """

    age: int | None
    etag: str


def agreed(connection: Connection) -> Agreement | None:
    """What was agreed last; None when nothing ever was."""
    row = connection.execute(sa.select(AUDIT_RETENTION)).one_or_none()
    return Agreement(row.age, str(row.etag)) if row is not None else None


def agree(connection: Connection, age: int | None, revision: int) -> None:
    """Let something else be agreed, by the change of that revision."""
    connection.execute(sa.delete(AUDIT_RETENTION))
    connection.execute(sa.insert(AUDIT_RETENTION).values(id=1, age=age, etag=revision))


def is_less(age: int | None, than: int | None) -> bool:
    """Whether records would be removed earlier."""
    return age is not None and (than is None or age < than)


def longer(one: int | None, other: int | None) -> int | None:
    """The longer of two ages."""
    return other if is_less(one, other) else one
