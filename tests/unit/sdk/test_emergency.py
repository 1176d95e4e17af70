from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneMetadata, shortnumberinfo

from ownkey import emergency
from ownkey.emergency import COUNTRIES, is_emergency


@pytest.mark.parametrize(
    "callee",
    [
        "911",
        "9-1-1",
        " 911 ",
        "tel:911",
        "TEL:9.1.1",
        "tel:911;phone-context=+1",
        "sip:911@pbx.example;user=phone",
        "sips:911:secret@pbx.example",
        '"Emergency" <sip:911@pbx.example>',
        "sip:%39%31%31@pbx.example",
        "\uff19\uff11\uff11",
        "911,,1",
        "9911",
        "+1911",
        "+49112",
        "0049112",
        "112",
        "7777",
        "urn:service:sos",
        "URN:service:SOS.police",
        "urn:service:sos.fire;x=1",
        "sip:urn:service:sos.ambulance@psap.example",
        "9,911",
        "9w911",
        "9p911",
        ",911",
        "*67911",
        "*82911",
        "#31#112",
        "*31#112",
        "97777",
        "9-7777",
        "911@10.0.0.5",
        "911@host1.example.net",
        '"a<b" <sip:911@x>',
        "1911",
        "91911",
        "911 ext 5",
        "911x5",
        "tel:911?x=1",
        "\u200esip:911@h",
        "urn:service:%73os",
        '"' + "x" * 600 + '" <sip:911@x>',
        "+4930123456789",
        "4930123456789",
    ],
)
def test_an_emergency_call_is_known_in_every_way_of_writing(callee: str) -> None:
    assert is_emergency(callee, ["US"], own_numbers=["77-77", "4930123456789"], outside_line_prefixes=["9"])


@pytest.mark.parametrize(
    "callee",
    [
        "",
        " ",
        "+15551234567",
        "tel:+15551234567",
        "sip:alice@pbx.example",
        "urn:service:sosx",
        "urn:service:counseling",
        "4911",
        "*67",
        "555x911",
        "91",
        "12345",
    ],
)
def test_other_calls_are_not_emergencies(callee: str) -> None:
    assert not is_emergency(callee, ["US"], own_numbers=["7777"], outside_line_prefixes=["9"])


@pytest.mark.parametrize("callee", ["9,+911", "+1,+911", "00,+1911", "+1p+911"])
def test_a_country_after_a_pause_is_no_hindrance(callee: str) -> None:
    assert is_emergency(callee, ["US"], outside_line_prefixes=["9"])


@pytest.mark.parametrize("callee", ["00,+0", "e+00\x00Al,+e0", "+,+,+", "00p+p+1"])
def test_signs_in_wrong_places_break_nothing(callee: str) -> None:
    assert not is_emergency(callee, ["US"])


def test_the_numbers_of_a_country_count_there_and_wherever_no_country_is_known() -> None:
    assert is_emergency("999", ["GB"])
    assert not is_emergency("999", ["US"])
    assert is_emergency("999")
    assert is_emergency("000")


def test_a_country_nobody_knows_is_as_good_as_none() -> None:
    assert is_emergency("999", ["XX"])


@pytest.mark.parametrize("country", sorted(COUNTRIES))
def test_every_country_with_numbers_in_the_data_is_served(country: str) -> None:
    metadata = PhoneMetadata.short_metadata_for_region(country)
    example = metadata.emergency.example_number if metadata and metadata.emergency else None
    numbers = ["112", "911"] + ([example] if example else [])
    for number in numbers:
        assert is_emergency(number, [country]), number
        assert is_emergency(f"tel:{number}", [country]), number


@given(st.text(max_size=60), st.lists(st.text(max_size=3), max_size=2))
def test_no_callee_makes_it_fail(callee: str, prefixes: list[str]) -> None:
    assert is_emergency(callee, ["US"], own_numbers=[callee], outside_line_prefixes=prefixes) in (True, False)


def test_the_longest_number_in_the_data_is_as_long_as_is_assumed() -> None:
    metadata = [PhoneMetadata.short_metadata_for_region(country) for country in COUNTRIES]
    lengths = [n for one in metadata if one and one.emergency for n in one.emergency.possible_length]
    assert max(lengths) == 6
    assert is_emergency("900353112", ["IE"], outside_line_prefixes=["9"])


@pytest.mark.parametrize("country", sorted(COUNTRIES))
def test_a_country_s_numbers_are_those_of_the_library(country: str) -> None:
    numbers = [str(number).zfill(width) for width in (2, 3) for number in range(10**width)]
    metadata = PhoneMetadata.short_metadata_for_region(country)
    if metadata and metadata.emergency and metadata.emergency.example_number:
        numbers.append(metadata.emergency.example_number)
    here = frozenset([country])
    for number in numbers:
        assert emergency._known(number, here) == shortnumberinfo.is_emergency_number(number, country), number
