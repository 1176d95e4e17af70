from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from ownkey_server.domain.errors import EtagMismatch
from ownkey_server.domain.policy import Effect
from ownkey_server.domain.tenants import KeyLifecycle, Replica
from ownkey_server.storage.database import Database
from ownkey_server.storage.documents import PolicyTable, RuleTable
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.records import ReplicaRecord
from ownkey_server.storage.registry import PROVIDER, Change, Reader
from ownkey_server.storage.views import MAX_CHANGES, TenantViews

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
MAIN = Replica("embedded", "acme-main")
POLICY = PolicyTable(default="key:main", rules=[RuleTable(name="finance", use="deny", groups=["finance"])])


def change(database: Database, work: Callable[[Change], object], now: datetime = NOW) -> int:
    with database.writing() as connection:
        made = Change(connection, now)
        work(made)
        return made.number


def add_acme(made: Change) -> None:
    made.insert_tenant("acme", "Acme", NOW - timedelta(days=1), CallGateTable())
    made.insert_key("tenants/acme/keys/main", "acme", KeyLifecycle.ACTIVE, [MAIN], NOW)
    made.insert_group("acme", "finance", ["frida", "felix"])
    number = made.insert_policy("acme", POLICY, "ann", "the first")
    owner = made.tenant("acme")
    assert owner is not None
    made.put_policy_in_force(owner, "*", number)


def test_what_is_written_is_read(database: Database) -> None:
    number = change(database, add_acme)
    with database.reading() as connection:
        reader = Reader(connection)
        tenant, key = reader.tenant("acme"), reader.key("tenants/acme/keys/main")
        group, policy = reader.group("acme", "finance"), reader.policy_version("acme", 1)
        assert reader.key_at(MAIN) == "tenants/acme/keys/main"
        assert reader.places_called(MAIN.reference[-3:]) == [("tenants/acme/keys/main", MAIN)]
        assert reader.places_called("%") == []
    assert tenant is not None
    assert key is not None
    assert group is not None
    assert policy is not None
    assert (tenant.display_name, tenant.policy_version, tenant.stamp.etag) == ("Acme", 1, str(number))
    assert (key.id, key.replicas) == ("main", (ReplicaRecord(MAIN, NOW),))
    assert group.users == ("felix", "frida")
    assert (policy.policy, policy.author, policy.reason, policy.in_force) == (POLICY, "ann", "the first", True)


def test_a_view_holds_what_the_services_decide_by(database: Database) -> None:
    change(database, add_acme)
    views = TenantViews(database)
    view = views.load("acme")
    assert view is not None
    assert view.keys["main"].primary == MAIN
    assert view.groups_of == {"frida": {"finance"}, "felix": {"finance"}}
    assert view.policy.rules[0].outcome.effect is Effect.DENY
    assert view.policy_version == 1
    assert views.load("nobody") is None
    assert views.provider_key() is None


def test_a_view_s_revision_tells_of_every_change_of_its_tenant_and_of_no_other(database: Database) -> None:
    views = TenantViews(database)

    def revision() -> int:
        view = views.load("acme")
        assert view is not None
        return view.revision

    first = change(database, add_acme)
    assert revision() == first
    change(database, lambda made: made.insert_tenant("umbrella", "", NOW, CallGateTable()))
    assert revision() == first
    second = change(database, lambda made: made.touch("acme"))  # what is kept beside, such as branch keys
    assert revision() == second > first


def test_a_removed_key_is_in_no_view_and_a_retired_one_opens_alone(database: Database) -> None:
    def add(made: Change) -> None:
        add_acme(made)
        for name, lifecycle in (("old", KeyLifecycle.RETIRED), ("gone", KeyLifecycle.REMOVED)):
            places = [] if lifecycle is KeyLifecycle.REMOVED else [Replica("embedded", name)]
            made.insert_key(f"tenants/acme/keys/{name}", "acme", lifecycle, places, NOW)

    change(database, add)
    view = TenantViews(database).load("acme")
    assert view is not None
    assert set(view.keys) == {"main", "old"}
    assert (view.keys["old"].lifecycle.wraps, view.keys["old"].lifecycle.unwraps) == (False, True)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_change_that_fails_half_way_changes_nothing(database: Database, step: int) -> None:
    def fail(made: Change) -> None:
        steps = (
            lambda: made.insert_tenant("acme", "", NOW, CallGateTable()),
            lambda: made.insert_key("tenants/acme/keys/main", "acme", KeyLifecycle.ACTIVE, [MAIN], NOW),
            lambda: made.insert_group("acme", "finance", ["frida"]),
            lambda: made.insert_policy("acme", POLICY, "", ""),
        )
        for one in steps[:step]:
            one()
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        change(database, fail)
    with database.reading() as connection:
        reader = Reader(connection)
        assert reader.tenant("acme") is None
        assert reader.revision() == 0
    assert TenantViews(database).changes_since(0).tenants == frozenset()


def test_of_two_administrators_one_is_told_and_nothing_is_lost(database: Database) -> None:
    change(database, add_acme)
    with database.reading() as connection:
        seen = Reader(connection).group("acme", "finance")
    assert seen is not None
    outcomes: list[str] = []
    together = threading.Barrier(2)

    def set_users(user: str) -> None:
        together.wait()
        try:
            change(database, lambda made: made.update_group(_group(made), seen.stamp.etag, [user]))
            outcomes.append(user)
        except EtagMismatch:
            outcomes.append("told")

    threads = [threading.Thread(target=set_users, args=(user,)) for user in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "told" in outcomes
    [winner] = set(outcomes) - {"told"}
    with database.reading() as connection:
        group = Reader(connection).group("acme", "finance")
    assert group is not None
    assert group.users == (winner,)


def _group(made: Change):  # type: ignore[no-untyped-def]
    found = made.group("acme", "finance")
    assert found is not None
    return found


def test_changes_are_told_by_tenant_from_any_revision_on(database: Database) -> None:
    views = TenantViews(database)
    change(database, add_acme)
    second = change(database, lambda made: made.insert_tenant("umbrella", "", NOW, CallGateTable()))
    change(database, lambda made: made.insert_principal("recorder", "", ()))
    third = change(
        database, lambda made: made.insert_key("provider/keys/main", PROVIDER, KeyLifecycle.ACTIVE, [MAIN_P], NOW)
    )
    assert views.changes_since(0).tenants == {"acme", "umbrella", "servicePrincipals/recorder", PROVIDER}
    assert views.changes_since(second).tenants == {"servicePrincipals/recorder", PROVIDER}
    assert views.changes_since(third) == views.changes_since(third)
    assert views.changes_since(third).tenants == frozenset()
    assert views.changes_since(third + 5).tenants is None, "an older copy of the database was restored"


MAIN_P = Replica("embedded", "provider")


def test_too_many_changes_to_list_are_told_as_everything(database: Database) -> None:
    def add_many(made: Change) -> None:
        for number in range(MAX_CHANGES + 1):
            made._touch(f"tenant-{number}")

    change(database, add_many)
    assert TenantViews(database).changes_since(0).tenants is None


def test_lists_come_in_pages(database: Database) -> None:
    names = [f"tenant-{number:02}" for number in range(7)]

    def add(made: Change) -> None:
        for name in names:
            made.insert_tenant(name, "", NOW, CallGateTable())
            made.insert_principal(name, "", ())

    change(database, add)
    with database.reading() as connection:
        reader = Reader(connection)
        assert [one.id for one in reader.tenants("", 3)] == names[:3]
        assert [one.id for one in reader.tenants(names[2], 3)] == names[3:6]
        assert [one.id for one in reader.principals(names[5], 3)] == names[6:]


def test_a_place_of_a_key_store_belongs_to_one_key(database: Database) -> None:
    change(database, add_acme)

    def take_it(made: Change) -> None:
        made.insert_key("tenants/acme/keys/thief", "acme", KeyLifecycle.ACTIVE, [MAIN], NOW)

    with pytest.raises(Exception, match=r"(?i)unique"):
        change(database, take_it)


def test_after_an_outage_everything_counts_as_changed(database: Database) -> None:
    change(database, add_acme)
    assert TenantViews(database).changes_since(None).tenants is None
