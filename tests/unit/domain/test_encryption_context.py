from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from ownkey_server.domain import encryption_context
from ownkey_server.domain.assets import Asset, AssetClass
from ownkey_server.domain.errors import AssetMismatch, InvalidRequest

ASSET = Asset("acme", AssetClass.PHONE_VOICEMAIL, "vm-7")
NOW = datetime(2026, 11, 23, 16, 59, 59, tzinfo=UTC)


def test_the_reserved_pairs_are_the_published_ones() -> None:
    assert encryption_context.build(ASSET, "finance", NOW, {"purpose": "billing"}) == {
        "ownkey:tenant": "acme",
        "ownkey:asset-class": "phone_voicemail",
        "ownkey:asset-id": "vm-7",
        "ownkey:group": "finance",
        "ownkey:hour": "2026-11-23T16",
        "purpose": "billing",
    }


def test_without_a_group_there_is_no_group_pair() -> None:
    assert "ownkey:group" not in encryption_context.build(ASSET, "", NOW, {})


def test_the_hour_is_utc_whatever_the_clock_s_zone() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=9)))
    assert encryption_context.build(ASSET, "", there, {})["ownkey:hour"] == "2026-11-23T16"


@pytest.mark.parametrize("key", ["ownkey:tenant", "ownkey:anything", "aws-crypto-public-key", "aws:x"])
def test_a_caller_cannot_write_a_reserved_pair(key: str) -> None:
    with pytest.raises(InvalidRequest, match="must not begin with"):
        encryption_context.build(ASSET, "", NOW, {key: "x"})


@pytest.mark.parametrize("key", ["ownkey:tenant", "ownkey:asset-class", "ownkey:asset-id", "ownkey:group", "purpose"])
@pytest.mark.parametrize("change", ["missing", "different"])
def test_a_context_of_another_asset_is_refused(key: str, change: str) -> None:
    asset = Asset("acme", AssetClass.PHONE_VOICEMAIL, "vm-7", group="finance")
    context = encryption_context.build(asset, "finance", NOW, {"purpose": "billing"})
    encryption_context.require_asset(context, asset, {"purpose": "billing"})
    if change == "missing":
        del context[key]
    else:
        context[key] = "other"
    with pytest.raises(AssetMismatch, match=key) as caught:
        encryption_context.require_asset(context, asset, {"purpose": "billing"})
    assert "other" not in str(caught.value)


SHADOWS = [
    "Ownkey:Asset-Class",
    "OWNKEY:HOUR",
    "own\N{KELVIN SIGN}ey:tenant",
    "AWS-x",
    "aw\N{LATIN SMALL LETTER LONG S}:x",
]


@pytest.mark.parametrize("key", SHADOWS)
def test_case_makes_no_reserved_pair_free(key: str) -> None:
    """AWS compares the names of pairs without their case: such a one would stand before a customer's condition."""
    with pytest.raises(InvalidRequest, match="must not begin with"):
        encryption_context.build(ASSET, "", NOW, {key: "x"})


@pytest.mark.parametrize("twice", [("purpose", "Purpose"), ("file", "F\N{LATIN SMALL LETTER DOTLESS I}LE")])
def test_names_that_differ_by_case_alone_are_refused(twice: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="case alone"):
        encryption_context.build(ASSET, "", NOW, dict.fromkeys(twice, "x"))


@pytest.mark.parametrize("key", [*SHADOWS, "Purpose"])
def test_a_context_with_such_a_name_opens_nothing(key: str) -> None:
    context = encryption_context.build(ASSET, "", NOW, {"purpose": "billing"})
    encryption_context.require_asset(context, ASSET, {})
    with pytest.raises(AssetMismatch) as caught:
        encryption_context.require_asset({**context, key: "x"}, ASSET, {})
    assert caught.value.pair in {key, "purpose"}


def test_a_pair_of_the_hour_or_group_in_another_case_is_no_substitute_for_it() -> None:
    context = encryption_context.build(ASSET, "", NOW, {})
    hour = context.pop(encryption_context.HOUR)
    with pytest.raises(AssetMismatch) as caught:
        encryption_context.require_asset({**context, "ownkey:Hour": hour}, ASSET, {})
    assert caught.value.pair == "ownkey:Hour"


def test_reserved_pairs_of_a_later_version_do_not_keep_content_from_opening() -> None:
    context = encryption_context.build(ASSET, "", NOW, {})
    encryption_context.require_asset({**context, "ownkey:later": "x"}, ASSET, {})
