"""Every number that is ours says where it is written."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from phonenumbers import shortnumberinfo

from ownkey import emergency, emergency_numbers
from ownkey.emergency_numbers import EVERYWHERE, NATIONAL, SERVICES, WITHOUT_A_COUNTRY, Entry

ALL = (*EVERYWHERE, *WITHOUT_A_COUNTRY, *SERVICES, *NATIONAL)
PAGE = Path(__file__).resolve().parents[3] / "docs" / "call-gate.md"
PAGES = {entry.source for entry in ALL}


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.country + entry.number)
def test_every_number_says_whom_it_reaches_and_where_that_is_written(entry: Entry) -> None:
    assert entry.reaches
    assert entry.source.publisher
    assert len(entry.source.title) > 10
    address = urlsplit(entry.source.address)
    assert address.scheme in ("http", "https")
    assert "." in address.netloc
    assert len(address.path) > 1, "a page, not a whole site"
    assert date(2026, 1, 1) <= date.fromisoformat(entry.source.read)
    assert "wikipedia" not in entry.source.address


@pytest.mark.parametrize("entry", [*EVERYWHERE, *WITHOUT_A_COUNTRY, *SERVICES], ids=lambda entry: entry.number)
def test_what_counts_everywhere_counts(entry: Entry) -> None:
    assert entry.country == ""
    assert emergency.is_emergency(entry.number)


@pytest.mark.parametrize("entry", NATIONAL, ids=lambda entry: entry.country + entry.number)
def test_a_number_of_a_country_counts_there_and_is_not_in_the_library_s_data(entry: Entry) -> None:
    assert entry.country in emergency.COUNTRIES
    assert re.fullmatch("[0-9]{2,6}", entry.number)
    assert emergency.is_emergency(entry.number, [entry.country])
    # When it is, it has its source there, and goes from here.
    assert not shortnumberinfo.is_emergency_number(entry.number, entry.country)


def test_no_number_comes_from_anywhere_else() -> None:
    """The patterns of a country are the library's, and what is listed here."""
    for country in emergency.COUNTRIES:
        listed = {entry.number for entry in NATIONAL if entry.country == country}
        own = {pattern for pattern in emergency.patterns([country]) if pattern.isdigit()}
        theirs = {number for number in own if shortnumberinfo.is_emergency_number(number, country)}
        assert own - theirs <= listed, country
    assert emergency_numbers.numbers(EVERYWHERE) == {"112", "911"}


def test_the_page_names_every_source() -> None:
    text = PAGE.read_text(encoding="utf-8")
    missing = [source.address for source in PAGES if source.address not in text]
    assert missing == []
