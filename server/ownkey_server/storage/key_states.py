"""The states of keys as all instances hold them together, and every change of them once, in the order of commits.

Whoever writes takes the row ``key_state_number`` first, so that of two instances which see the same change the second
finds it made. A sighting that began before a change of state was known where it was seen proves nothing against that
change, except that a key was taken away, which always counts.

Every function takes a connection in a transaction, and may raise what the database says
(:class:`~ownkey_server.domain.errors.DatabaseUnavailable`, outside).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from ownkey_server.domain.audit import from_microseconds, microseconds
from ownkey_server.domain.key_history import WHOLE, EvidenceKind, KeyTransition, PlaceState, Sighting
from ownkey_server.domain.key_state import KeyEvidence, KeyState, combine
from ownkey_server.domain.revocations import of_whole_key
from ownkey_server.domain.tenants import tenant_of
from ownkey_server.storage import revocations
from ownkey_server.storage.registry import CHANNEL
from ownkey_server.storage.schema import KEY_STATE_NUMBER, KEY_STATES, KEY_TRANSITIONS

Listener = Callable[[Connection, KeyTransition], None]
"""Called for each change in the transaction that writes it: what it writes is durable exactly when the change is."""


def record(connection: Connection, sightings: Iterable[Sighting], listeners: Sequence[Listener] = ()) -> int:
    """Write what an instance has seen, and the changes of state that follow.

    Returns:
        The number of the last sighting that is written, whoever's it was.
    """
    number = before_all = _take_number(connection)
    for sighting in sightings:
        before = of_place(connection, sighting.key, sighting.replica)
        if before is not None and _overtaken(before, sighting):
            continue
        number += 1
        _write(connection, before, _place(sighting, before, number), listeners)
        whole = _whole(connection, sighting.key, sighting.replicas, number + 1, sighting.since, sighting.kind)
        if whole is not None:
            number += 1
            _write(connection, of_place(connection, sighting.key, WHOLE), whole, listeners)
    _told(connection, before_all, number)
    return number


def settle(
    connection: Connection, keys: Iterable[tuple[str, Sequence[str]]], now: datetime, listeners: Sequence[Listener] = ()
) -> None:
    """Find out anew what is so of keys as a whole, when what their tenant takes back here has changed.

    Args:
        connection: In the transaction of that change.
        keys: Their names, and their places in order of preference.
        now: The present time (UTC).
        listeners: As for :func:`record`.
    """
    number = before_all = _take_number(connection)
    for key, replicas in keys:
        before = of_place(connection, key, WHOLE)
        whole = _whole(connection, key, replicas, number + 1, now, EvidenceKind.TRAFFIC)
        if whole is None and before is not None:
            cause = "it was not seen since it was given back"
            whole = PlaceState(
                key, WHOLE, KeyState.UNKNOWN, cause, EvidenceKind.TRAFFIC, now, now, number + 1, number + 1
            )
        if whole is not None and (before is None or (before.state, before.cause) != (whole.state, whole.cause)):
            number += 1
            _write(connection, before, whole, listeners)
    _told(connection, before_all, number)


def _told(connection: Connection, before: int, number: int) -> None:
    """Keep the number, and tell the other instances, once a transaction."""
    if number != before:
        connection.execute(sa.update(KEY_STATE_NUMBER).values(number=number))
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_notify(CHANNEL, f"keys {number}")))


def _write(connection: Connection, before: PlaceState | None, after: PlaceState, listeners: Sequence[Listener]) -> None:
    if before is not None and before.state is after.state:
        after = replace(after, since=before.since, revision=before.revision)
    _put(connection, after)
    if after.revision == after.number:
        record_transition(connection, _transition(before, after), listeners)


def record_transition(connection: Connection, transition: KeyTransition, listeners: Sequence[Listener] = ()) -> None:
    """Add a change to the history, and tell those who write more in the same transaction."""
    connection.execute(
        sa.insert(KEY_TRANSITIONS).values(
            sequence=transition.sequence,
            tenant=transition.tenant,
            key=transition.key,
            replica=transition.replica,
            before=transition.before.value if transition.before else "",
            state=transition.state.value,
            cause=transition.cause,
            kind=transition.kind.value,
            time=microseconds(transition.time),
        )
    )
    for tell in listeners:
        tell(connection, transition)


def of_place(connection: Connection, key: str, replica: str) -> PlaceState | None:
    """What is held of a key in one place; with :data:`WHOLE`, as a whole."""
    table = KEY_STATES
    row = connection.execute(sa.select(table).where(table.c.key == key, table.c.replica == replica)).one_or_none()
    return _state(row) if row else None


def changed_since(
    connection: Connection, number: int, limit: int, seen_since: datetime | None = None
) -> list[PlaceState]:
    """What was written after that number, in order, at most so many.

    Args:
        connection: In a transaction.
        number: Of the last that is known.
        limit: At most so many.
        seen_since: Only what was seen since then, or is taken away.
    """
    table = KEY_STATES
    query = sa.select(table).where(table.c.number > number).order_by(table.c.number).limit(limit)
    if seen_since is not None:
        taken = sa.or_(table.c.revoked_at.is_not(None), table.c.state == KeyState.REVOKED.value)
        query = query.where(sa.or_(table.c.observed_at >= microseconds(seen_since), taken))
    return [_state(row) for row in connection.execute(query)]


def newest(connection: Connection) -> int:
    """The number of the last sighting."""
    return int(connection.execute(sa.select(KEY_STATE_NUMBER.c.number)).scalar_one())


def pruned(connection: Connection) -> int:
    """Up to which number changes are not in the history any more."""
    return int(connection.execute(sa.select(KEY_STATE_NUMBER.c.pruned)).scalar_one())


def transitions(
    connection: Connection,
    tenant: str,
    *,
    after: int | None = None,
    before: int | None = None,
    key: str = "",
    limit: int,
) -> list[KeyTransition]:
    """Changes of a tenant's keys: the oldest first from after a sequence, or the newest first from before one.

    Args:
        connection: In a transaction.
        tenant: Whose; empty for the provider.
        after: The oldest first, from the one after this.
        before: Else the newest first, from the one before this; None for the newest.
        key: Name of the only key that is meant; empty for all.
        limit: At most so many.
    """
    table = KEY_TRANSITIONS
    query = sa.select(table).where(table.c.tenant == tenant).limit(limit)
    if key:
        query = query.where(table.c.key == key)
    if after is not None:
        query = query.where(table.c.sequence > after).order_by(table.c.sequence)
    else:
        if before is not None:
            query = query.where(table.c.sequence < before)
        query = query.order_by(table.c.sequence.desc())
    return [_kept(row) for row in connection.execute(query)]


def transitions_between(connection: Connection, after: int, last: int) -> list[KeyTransition]:
    """Changes of all keys after a number, up to another, in order."""
    table = KEY_TRANSITIONS
    query = sa.select(table).where(table.c.sequence > after, table.c.sequence <= last).order_by(table.c.sequence)
    return [_kept(row) for row in connection.execute(query)]


def prune(connection: Connection, until: datetime) -> int:
    """Let go of the changes of before a time; gives how many there were."""
    table = KEY_TRANSITIONS
    old = table.c.time < microseconds(until)
    last = connection.execute(sa.select(sa.func.max(table.c.sequence)).where(old)).scalar_one()
    if last is None:
        return 0
    # By sequence, so that what is left has no gaps, whatever the clocks of those who saw it.
    gone = connection.execute(sa.delete(table).where(table.c.sequence <= last, old)).rowcount
    connection.execute(sa.update(KEY_STATE_NUMBER).values(pruned=last))
    return int(gone)


def _take_number(connection: Connection) -> int:
    taken = sa.update(KEY_STATE_NUMBER).values(number=KEY_STATE_NUMBER.c.number).returning(KEY_STATE_NUMBER.c.number)
    return int(connection.execute(taken).scalar_one())


def _overtaken(before: PlaceState, sighting: Sighting) -> bool:
    """Whether a sighting began before the present state was known where it was made, and says otherwise."""
    if sighting.state is KeyState.REVOKED:
        return False
    return sighting.known < before.revision and sighting.state is not before.state


def _place(sighting: Sighting, before: PlaceState | None, number: int) -> PlaceState:
    observed_at = sighting.observed_at
    if before is not None and before.state is sighting.state:
        observed_at = max(observed_at, before.observed_at)
    revoked_at = sighting.revoked_at
    if revoked_at is None and before is not None and sighting.state is not KeyState.AVAILABLE:
        revoked_at = before.revoked_at
    return PlaceState(
        key=sighting.key,
        replica=sighting.replica,
        state=sighting.state,
        cause=sighting.cause,
        kind=sighting.kind,
        since=sighting.since,
        observed_at=observed_at,
        number=number,
        revision=number,
        revoked_at=revoked_at,
        ours=sighting.ours,
    )


def _whole(
    connection: Connection, key: str, replicas: Sequence[str], number: int, since: datetime, kind: EvidenceKind
) -> PlaceState | None:
    """What the states of its places say of the key as a whole; what its tenant has taken back here is revoked."""
    tenant = tenant_of(key)
    taken = of_whole_key(revocations.in_force(connection, tenant), key.rpartition("/")[2]) if tenant else None
    if taken is not None:
        at = taken.create_time
        return PlaceState(
            key, WHOLE, KeyState.REVOKED, taken.told, EvidenceKind.TRAFFIC, at, at, number, number, revoked_at=at
        )
    table = KEY_STATES
    rows = connection.execute(sa.select(table).where(table.c.key == key, table.c.replica != WHOLE))
    places = {row.replica: _state(row) for row in rows}
    evidence = combine([(name, _evidence(places.get(name))) for name in replicas])
    if evidence is None:
        return None
    return PlaceState(
        key=key,
        replica=WHOLE,
        state=evidence.state,
        cause=evidence.cause,
        kind=kind,
        since=since,
        observed_at=evidence.observed_at,
        number=number,
        revision=number,
        revoked_at=evidence.revoked_at,
        ours=evidence.ours,
    )


def _evidence(place: PlaceState | None) -> KeyEvidence | None:
    if place is None:
        return None
    return KeyEvidence(place.state, place.cause, place.observed_at, place.revoked_at, ours=place.ours)


def _transition(before: PlaceState | None, after: PlaceState) -> KeyTransition:
    state = before.state if before else None
    return KeyTransition(
        after.number, after.key, after.replica, state, after.state, after.cause, after.kind, after.since
    )


def _put(connection: Connection, place: PlaceState) -> None:
    values: dict[str, Any] = {
        "state": place.state.value,
        "cause": place.cause,
        "kind": place.kind.value,
        "ours": place.ours,
        "since": microseconds(place.since),
        "observed_at": microseconds(place.observed_at),
        "revoked_at": None if place.revoked_at is None else microseconds(place.revoked_at),
        "number": place.number,
        "revision": place.revision,
    }
    insert = (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(KEY_STATES)
    statement = insert.values(key=place.key, replica=place.replica, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["key", "replica"], set_=values))


def _state(row: Row[Any]) -> PlaceState:
    return PlaceState(
        key=row.key,
        replica=row.replica,
        state=KeyState(row.state),
        cause=row.cause,
        kind=EvidenceKind(row.kind),
        since=from_microseconds(row.since),
        observed_at=from_microseconds(row.observed_at),
        number=row.number,
        revision=row.revision,
        revoked_at=None if row.revoked_at is None else from_microseconds(row.revoked_at),
        ours=row.ours,
    )


def _kept(row: Row[Any]) -> KeyTransition:
    return KeyTransition(
        sequence=row.sequence,
        key=row.key,
        replica=row.replica,
        before=KeyState(row.before) if row.before else None,
        state=KeyState(row.state),
        cause=row.cause,
        kind=EvidenceKind(row.kind),
        time=from_microseconds(row.time),
    )
