from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey_server.domain.assets import Asset, AssetClass
from ownkey_server.domain.revocations import Ending, Revocation, Scope, revoking, subject

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
ASSET = Asset("acme", AssetClass.PHONE_RECORDING, "call-1", user="ann", group="sales")

WITHIN = [
    Scope(),
    Scope(keys=frozenset({"main", "other"})),
    Scope(groups=frozenset({"sales"})),
    Scope(groups=frozenset({"finance"})),  # the user is in it
    Scope(users=frozenset({"ann"})),
    Scope(asset_classes=frozenset({AssetClass.PHONE_RECORDING})),
    Scope(asset_ids=frozenset({"call-1"})),
    Scope(created_from=NOW),
    Scope(created_before=NOW + timedelta(microseconds=1)),
    Scope(queues=frozenset({"support"})),
    Scope(users=frozenset({"ann"}), asset_classes=frozenset({AssetClass.PHONE_RECORDING}), created_from=NOW),
]
BEYOND = [
    Scope(keys=frozenset({"other", "provider_key"})),
    Scope(groups=frozenset({"legal"})),
    Scope(users=frozenset({"bob", ""})),
    Scope(asset_classes=frozenset({AssetClass.PHONE_VOICEMAIL})),
    Scope(asset_ids=frozenset({"call-11"})),
    Scope(created_from=NOW + timedelta(microseconds=1)),
    Scope(created_before=NOW),
    Scope(queues=frozenset({"sales"})),
    Scope(users=frozenset({"ann"}), asset_classes=frozenset({AssetClass.PHONE_VOICEMAIL})),
]


def revocation(scope: Scope) -> Revocation:
    return Revocation("r", "acme", scope, Ending.CUT, "lost laptop", "ann", NOW)


@pytest.mark.parametrize("scope", WITHIN)
def test_a_use_is_within_what_names_it(scope: Scope) -> None:
    use = subject(ASSET, "main", {"finance"}, NOW, queue="support")
    assert revoking([revocation(scope)], use) is not None


@pytest.mark.parametrize("scope", BEYOND)
def test_a_use_is_beyond_what_names_another(scope: Scope) -> None:
    use = subject(ASSET, "main", {"finance"}, NOW, queue="support")
    assert revoking([revocation(scope)], use) is None


def test_what_names_nothing_is_everything() -> None:
    assert Scope().is_everything
    assert not any(scope.is_everything for scope in (*WITHIN[1:], *BEYOND))


@pytest.mark.parametrize("told", [None, NOW - timedelta(days=400)])
def test_the_hour_of_a_data_key_counts_whatever_time_the_caller_tells(told: datetime | None) -> None:
    asset = Asset("acme", AssetClass.TEAM_CHAT, "chat", create_time=told)
    scope = Scope(created_from=NOW.replace(minute=0), created_before=NOW.replace(minute=1))
    use = subject(asset, "main", (), NOW + timedelta(days=9), "2026-11-23T16")
    assert revoking([revocation(scope)], use) is not None
    for hour in ("2026-11-23T15", "2026-11-23T17"):
        assert revoking([revocation(scope)], subject(asset, "main", (), NOW + timedelta(days=9), hour)) is None


def test_an_hour_that_is_none_is_as_if_it_were_not_there() -> None:
    use = subject(ASSET, "main", (), NOW, "garbage")
    assert revoking([revocation(Scope(created_from=NOW))], use) is not None


@given(st.sets(st.sampled_from(WITHIN)), st.sets(st.sampled_from(BEYOND)))
def test_one_revocation_that_names_a_use_is_enough(within: set[Scope], beyond: set[Scope]) -> None:
    use = subject(ASSET, "main", {"finance"}, NOW, queue="support")
    found = revoking([revocation(one) for one in (*beyond, *within)], use)
    assert (found is not None) == bool(within)
