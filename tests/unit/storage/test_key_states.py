from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.engine import Connection

from ownkey_server.domain.key_history import WHOLE, EvidenceKind, KeyTransition, Sighting
from ownkey_server.domain.key_state import KeyState
from ownkey_server.storage import key_states, probe_leases
from ownkey_server.storage.database import Database

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
KEY = "tenants/acme/keys/main"


def sighting(state: KeyState, known: int = 10**9, replica: str = "hsm", seconds: float = 0.0) -> Sighting:
    at = NOW + timedelta(seconds=seconds)
    cause = "" if state is KeyState.AVAILABLE else f"it is {state}"
    return Sighting(KEY, ("hsm", "aws"), replica, state, cause, EvidenceKind.PROBE, at, at, known)


def record(database: Database, *sightings: Sighting) -> int:
    with database.writing() as connection:
        return key_states.record(connection, sightings)


def history(database: Database) -> list[tuple[str, KeyState | None, KeyState]]:
    with database.reading() as connection:
        found = key_states.transitions(connection, "acme", after=0, limit=1000)
    return [(one.replica, one.before, one.state) for one in found]


def test_two_instances_that_see_the_same_change_yield_one_transition(database: Database) -> None:
    record(database, sighting(KeyState.AVAILABLE))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: record(database, sighting(KeyState.REVOKED, 0)), range(16)))
    assert history(database) == [
        ("hsm", None, KeyState.AVAILABLE),
        (WHOLE, None, KeyState.AVAILABLE),
        ("hsm", KeyState.AVAILABLE, KeyState.REVOKED),
        (WHOLE, KeyState.AVAILABLE, KeyState.REVOKED),
    ]


def test_numbers_are_in_the_order_of_commits_and_every_reader_sees_all(database: Database) -> None:
    """Whoever has read up to a number, and asks for what is after it, misses nothing however many write meanwhile."""
    read: list[KeyTransition] = []
    with ThreadPoolExecutor(4) as threads:
        writes = [
            threads.submit(
                record,
                database,
                replace(
                    sighting((KeyState.UNREACHABLE, KeyState.AVAILABLE)[n % 2]), key=f"tenants/acme/keys/k{n // 2}"
                ),
            )
            for n in range(40)
        ]
        while not all(one.done() for one in writes):
            with database.reading() as connection:
                read += key_states.transitions_between(
                    connection, read[-1].sequence if read else 0, (read[-1].sequence if read else 0) + 5
                )
    with database.reading() as connection:
        while more := key_states.transitions_between(
            connection, read[-1].sequence if read else 0, (read[-1].sequence if read else 0) + 5
        ):
            read += more
        assert read == key_states.transitions_between(connection, 0, 10**9)
    assert len(read) >= 40


def test_what_began_before_a_change_was_known_does_not_undo_it(database: Database) -> None:
    before = record(database, sighting(KeyState.AVAILABLE))
    after = record(database, sighting(KeyState.REVOKED))
    for state in (KeyState.AVAILABLE, KeyState.UNREACHABLE, KeyState.MISCONFIGURED):
        record(database, sighting(state, known=before, seconds=5))
    with database.reading() as connection:
        held = key_states.of_place(connection, KEY, WHOLE)
    assert held is not None
    assert held.state is KeyState.REVOKED
    record(database, sighting(KeyState.AVAILABLE, known=after, seconds=6))
    assert history(database)[-1] == (WHOLE, KeyState.REVOKED, KeyState.AVAILABLE)


def test_a_place_that_was_taken_away_and_goes_silent_is_still_remembered_as_such(database: Database) -> None:
    record(database, replace(sighting(KeyState.REVOKED), revoked_at=NOW))
    record(database, sighting(KeyState.UNREACHABLE, seconds=1), sighting(KeyState.AVAILABLE, replica="aws"))
    with database.reading() as connection:
        held = key_states.of_place(connection, KEY, "hsm")
        whole = key_states.of_place(connection, KEY, WHOLE)
    assert held is not None
    assert whole is not None
    assert held.revoked_at == NOW
    assert whole.state is KeyState.UNREACHABLE, "an outage after a revocation is no reason to go around it"


def test_listeners_write_in_the_same_transaction_or_not_at_all(database: Database) -> None:
    told: list[KeyTransition] = []

    def tell(_: Connection, transition: KeyTransition) -> None:
        told.append(transition)
        raise RuntimeError("the outbox is full")

    with pytest.raises(RuntimeError), database.writing() as connection:
        key_states.record(connection, [sighting(KeyState.REVOKED)], [tell])
    assert [one.state for one in told] == [KeyState.REVOKED]
    assert history(database) == []


def test_what_is_pruned_is_said_to_be(database: Database) -> None:
    record(database, sighting(KeyState.AVAILABLE))
    last = record(database, sighting(KeyState.REVOKED, seconds=60))
    with database.writing() as connection:
        assert key_states.prune(connection, NOW + timedelta(seconds=30)) == 2
        assert 0 < key_states.pruned(connection) < last
    assert history(database) == [
        ("hsm", KeyState.AVAILABLE, KeyState.REVOKED),
        (WHOLE, KeyState.AVAILABLE, KeyState.REVOKED),
    ]


def test_a_key_is_leased_to_one_and_taken_over_when_its_time_is_up(database: Database) -> None:
    def claim(holder: str, seconds: float) -> frozenset[str]:
        with database.writing() as connection:
            return probe_leases.claim(connection, holder, [KEY, "provider/keys/default"], seconds)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: (n, claim(f"instance {n}", 60.0)), range(8)))
    (winner,) = {n for n, keys in found if keys}
    assert claim(f"instance {winner}", -1.0) == {KEY, "provider/keys/default"}, "the holder keeps it"
    assert claim("another", 60.0) == {KEY, "provider/keys/default"}, "its time was up"
    assert claim(f"instance {winner}", 60.0) == frozenset()
    with database.writing() as connection:
        probe_leases.give_up(connection, "another")
    assert claim(f"instance {winner}", 60.0)
