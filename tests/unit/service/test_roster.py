"""Who may do what: loaded once, forgotten when changed, and nothing when it is not known for certain."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ownkey_server.domain.errors import DatabaseUnavailable, PermissionDenied, ViewStale
from ownkey_server.domain.roles import EVERYWHERE, Facts, Grant, Role, principal_name
from ownkey_server.service.authorization import Authorizer
from ownkey_server.service.roster import Roster
from ownkey_server.storage.views import Changes

ANN = Grant(Role.AUDITOR, "acme")


class Known:
    """The registry's principals, counting who asks."""

    def __init__(self) -> None:
        self.grants_of: dict[str, tuple[Grant, ...]] = {principal_name("corp/ann"): (ANN,)}
        self.asked: list[str] = []
        self.away = False

    def grants(self, name: str) -> tuple[Grant, ...] | None:
        self.asked.append(name)
        if self.away:
            raise DatabaseUnavailable("away")
        return self.grants_of.get(name)


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def now() -> list[float]:
    return [1000.0]


@pytest.fixture
def roster(known: Known, now: list[float]) -> Iterator[Roster]:
    with ThreadPoolExecutor(1) as executor:
        made = Roster(
            known,  # type: ignore[arg-type]
            executor,
            operators=["spiffe://example.org/admin"],
            development=None,
            max_age=60,
            monotonic=lambda: now[0],
        )
        made.start()
        yield made


async def test_a_principal_is_loaded_once_and_anew_when_it_changes(roster: Roster, known: Known) -> None:
    for _ in range(3):
        assert await roster.grants("corp/ann") == (ANN,)
        assert await roster.grants("corp/nobody") == ()
    assert len(known.asked) == 2
    known.grants_of.clear()
    roster.changed(1001, Changes(2, frozenset({principal_name("corp/ann")})))
    assert await roster.grants("corp/ann") == ()
    known.grants_of[principal_name("corp/nobody")] = (ANN,)
    roster.changed(1002, Changes(3, None))
    assert await roster.grants("corp/nobody") == (ANN,)


async def test_an_operator_of_the_settings_is_one_whatever_the_registry_says(roster: Roster) -> None:
    assert await roster.grants("spiffe://example.org/admin") == (Grant(Role.OPERATOR, EVERYWHERE),)


async def test_what_is_too_old_or_cannot_be_asked_allows_nothing(
    roster: Roster, known: Known, now: list[float]
) -> None:
    assert await roster.grants("corp/ann") == (ANN,)
    known.away = True
    now[0] += 59
    assert await roster.grants("corp/ann") == (ANN,)
    with pytest.raises(DatabaseUnavailable):
        await roster.grants("corp/bob")
    now[0] += 2
    with pytest.raises(ViewStale, match="knows of its callers is 61 s old"):
        await roster.grants("corp/ann")
    with pytest.raises(ViewStale):
        await Authorizer(roster).require("corp/ann", "GetTenant", Facts(("acme",)))


async def test_development_is_a_principal_of_its_own_and_only_where_it_is_set(roster: Roster) -> None:
    with pytest.raises(PermissionDenied, match="no role of 'development' allows GetTenant for tenant 'acme'"):
        await Authorizer(roster).require("development", "GetTenant", Facts(("acme",)))
