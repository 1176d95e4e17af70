from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from ownkey_server.domain.branch_keys import BranchKey, BranchKeyState, branch_context
from ownkey_server.storage import branch_keys as kept
from ownkey_server.storage.database import Database
from ownkey_server.storage.registry import Change

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)


def branch(number: int, tenant: str = "acme", key: str = "tenants/acme/keys/main") -> BranchKey:
    branch_id = f"{number:032x}"
    context = branch_context(tenant, branch_id)
    return BranchKey(branch_id, tenant, key, key, BranchKeyState.ACTIVE, 0, b"wrapped", context, NOW)


def add(database: Database, made: BranchKey, instead_of: str = "") -> BranchKey:
    with database.writing() as connection:
        change = Change(connection, NOW)
        change.touch(made.tenant)
        return kept.add(connection, made, instead_of)


def test_what_is_kept_is_read_as_it_was(database: Database) -> None:
    made = branch(1)
    assert add(database, made) == replace(made, version=1)
    with database.reading() as connection:
        assert kept.active(connection, "acme", made.key) == replace(made, version=1)
        assert kept.find(connection, "acme", [made.id]) == [replace(made, version=1)]
        assert kept.find(connection, "globex", [made.id]) == []
        assert kept.active(connection, "globex", made.key) is None


def test_of_many_instances_one_makes_the_active_one(database: Database) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: add(database, branch(number)).id, range(1, 17)))
    assert len(set(found)) == 1
    with database.reading() as connection:
        assert len(kept.listed(connection, "acme", None, "", 100)) == 1


def test_of_many_that_rotate_at_once_one_does(database: Database) -> None:
    first = add(database, branch(1))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: add(database, branch(number), first.id).id, range(2, 18)))
    assert len(set(found)) == 1
    with database.reading() as connection:
        states = {one.version: one.state for one in kept.listed(connection, "acme", None, "", 100)}
    assert states == {1: BranchKeyState.DECRYPT_ONLY, 2: BranchKeyState.ACTIVE}


def test_the_database_itself_allows_one_active_for_each_tenant_and_key(database: Database) -> None:
    add(database, branch(1))
    add(database, branch(2, tenant="globex"))
    with pytest.raises(sa.exc.IntegrityError), database.writing() as connection:
        connection.execute(
            sa.text(
                "insert into branch_keys (id, tenant, key, first_key, state, version, wrapped, context, create_time)"
                " select 'x', tenant, key, first_key, state, 9, wrapped, context, create_time from branch_keys"
                " where tenant = 'acme'"
            )
        )


def test_one_that_moves_opens_only_and_is_moved_once(database: Database) -> None:
    first = add(database, branch(1))
    with database.writing() as connection:
        moved = kept.rewrap(connection, first, "tenants/acme/keys/next", b"other")
    assert moved == replace(
        first, key="tenants/acme/keys/next", wrapped=b"other", state=BranchKeyState.DECRYPT_ONLY, version=1
    )
    with database.writing() as connection:
        assert kept.rewrap(connection, first, "tenants/acme/keys/next", b"again") is None
        assert kept.under(connection, first.key) == 0
        assert kept.under(connection, "tenants/acme/keys/next", "acme") == 1
        assert kept.active(connection, "acme", first.key) is None


def test_a_key_that_leaves_has_no_active_one(database: Database) -> None:
    first = add(database, branch(1))
    with database.writing() as connection:
        kept.abandon(connection, first.key)
        assert kept.active(connection, "acme", first.key) is None
        assert kept.find(connection, "acme", [first.id])


def test_they_are_listed_by_id_page_by_page(database: Database) -> None:
    for number in range(1, 6):
        add(database, branch(number, key=f"tenants/acme/keys/k{number}"))
    with database.reading() as connection:
        page = kept.listed(connection, "acme", None, "", 2)
        rest = kept.listed(connection, "acme", None, page[-1].id, 10)
        assert [one.id for one in (*page, *rest)] == [branch(number).id for number in range(1, 6)]
        assert [one.id for one in kept.listed(connection, "acme", "tenants/acme/keys/k3", "", 10)] == [branch(3).id]
