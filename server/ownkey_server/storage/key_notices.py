"""Changes of keys' states, told to their tenants in the transaction that writes them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ownkey_server.domain.key_history import WHOLE, KeyTransition
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.notifications import NoticeKind, kind_of_transition
from ownkey_server.storage import outbox
from ownkey_server.storage.schema import KEY_STATES, KEY_TRANSITIONS


def tell(connection: Connection, transition: KeyTransition) -> None:
    """Tell a tenant of a change of its key, if it is one to be told (:func:`kind_of_transition`)."""
    if transition.replica != WHOLE:
        return
    before = _last_known(connection, transition)
    kind = kind_of_transition(before, transition.state)
    if kind is None:
        return
    data: dict[str, Any] = {"state": transition.state.value, "previous_state": before.value}
    failing = _failing(connection, transition.key)
    if failing and kind is not NoticeKind.KEY_RECOVERED:
        data["replicas"] = failing
    only = failing[0] if kind is NoticeKind.REPLICA_DEGRADED and len(failing) == 1 else ""
    outbox.put(
        connection,
        outbox.new_notice(
            transition.tenant,
            kind,
            transition.time,
            key=transition.key,
            replica=only,
            cause=transition.cause,
            data=data,
        ),
    )


def _last_known(connection: Connection, transition: KeyTransition) -> KeyState:
    """The state before, past all times when nothing was known."""
    if transition.before not in (None, KeyState.UNKNOWN):
        return transition.before
    table = KEY_TRANSITIONS
    query = sa.select(table.c.state).where(
        table.c.tenant == transition.tenant,
        table.c.key == transition.key,
        table.c.replica == WHOLE,
        table.c.state != KeyState.UNKNOWN.value,
        table.c.sequence < transition.sequence,
    )
    found = connection.execute(query.order_by(table.c.sequence.desc()).limit(1)).scalar()
    return KeyState.UNKNOWN if found is None else KeyState(found)


def _failing(connection: Connection, key: str) -> list[str]:
    table = KEY_STATES
    works = (KeyState.AVAILABLE.value, KeyState.UNKNOWN.value)
    query = sa.select(table.c.replica).where(table.c.key == key, table.c.replica != WHOLE, table.c.state.not_in(works))
    return list(connection.execute(query.order_by(table.c.replica).limit(20)).scalars())
