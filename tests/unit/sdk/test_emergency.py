from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneMetadata, shortnumberinfo

from ownkey import emergency
from ownkey.emergency import COUNTRIES, is_emergency
from ownkey.emergency_numbers import NATIONAL
from support.emergency_calls import PREFIXES, calls, numbers_of


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
        "sip:911:12345@pbx.example",
        "sip:911:a1@pbx.example",
        "sip:911,,12a@pbx.example",
        "sip:*67911:1@pbx.example",
        "911:12345@pbx.example",
        "sip:e911@pbx.example",
        "sip:E112:x@pbx.example",
        "Emergency 911",
        '"Emergency 911" <sip:911:1@pbx.example>',
        "sip:+1-911;phone-context=example.com@pbx.example",
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


@pytest.mark.parametrize(
    "user",
    [
        "bob18",
        "anna.08",
        "room-110",
        "911a",
        "e18",
        "bob911",
        "112.bob",
        "bob:911",
        "*67bob911",
        "9,bob911",
    ],
)
def test_somebody_whose_name_has_digits_is_no_emergency_service(user: str) -> None:
    for callee in (f"sip:{user}@acme.example", f"SIPS:{user}@acme.example;user=phone", f"{user}@acme.example"):
        assert not is_emergency(callee, outside_line_prefixes=["9"]), callee


@pytest.mark.parametrize(
    "callee",
    [
        "tel:999;phone-context=+44",
        "sip:999;phone-context=+44@pbx.example;user=phone",
        "TEL:110;ext=1;Phone-Context=+49-30",
    ],
)
def test_a_number_counts_in_the_country_that_its_context_names(callee: str) -> None:
    assert is_emergency(callee, ["US"])
    assert not is_emergency(callee.lower().replace("+44", "+33").replace("+49-30", "acme.example"), ["US"])


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
        theirs = shortnumberinfo.is_emergency_number(number, country)
        ours = any(entry.number == number for entry in NATIONAL if entry.country == country)
        assert emergency._known(number, here) == (theirs or ours), number


FORMS = [
    "{}",
    " {} ",
    "9{}",
    "9,{}",
    "{},,12",
    "{} ext 5",
    "tel:{}",
    "tel:{};phone-context=+1",
    "TEL:{};ext=12;isub=3",
    "sip:{}@pbx.example",
    "sips:{};phone-context=example.org@pbx.example;user=phone",
    "SIP:{}:secret@192.0.2.1:5060;transport=tcp?Subject=x",
    '"Help <now>" <sip:{}@pbx.example>;tag=1',
    "<tel:{}>",
]


@pytest.mark.parametrize("country", sorted(COUNTRIES))
def test_every_number_of_a_country_is_known_in_every_form(country: str) -> None:
    code = phonenumbers.country_code_for_region(country)
    for number in numbers_of(country):
        written = {
            number,
            "-".join(number),
            ".".join(number),
            f"({number[0]}) {number[1:]}",
            "".join(f"%{ord(digit):02x}" for digit in number),
            "".join(chr(0x660 + int(digit)) for digit in number),
            "".join(chr(0xFF10 + int(digit)) for digit in number),
            f"+{code}{number}",
        }
        for text in written:
            for form in FORMS:
                escaped = "%" in text and not form.lower().lstrip("<").startswith(("sip", "tel", '"'))
                abroad = text.startswith("+") and form.startswith("9")
                if not escaped and not abroad:
                    callee = form.format(text)
                    assert is_emergency(callee, [country], outside_line_prefixes=["9"]), callee


@given(calls())
def test_an_emergency_call_of_any_country_is_known_in_whatever_spelling(call: tuple[str, str]) -> None:
    country, callee = call
    assert is_emergency(callee, [country], outside_line_prefixes=PREFIXES)
    assert is_emergency(callee, outside_line_prefixes=PREFIXES)


@pytest.mark.parametrize("service", ["", ".police", ".FIRE", ".ambulance", ".x.y", ";a=b", "?x", "#f"])
@pytest.mark.parametrize("form", ["{}", "<{}>", " {} ", "sip:{}@psap.example", '"SOS" <{}>'])
@pytest.mark.parametrize("country", ["US", "DE", "JP"])
def test_the_emergency_service_is_known_by_its_name(service: str, form: str, country: str) -> None:
    for name in ("urn:service:sos", "URN:SERVICE:SOS", "Urn:Service:sOs"):
        assert is_emergency(form.format(name + service), [country])


@pytest.mark.parametrize("number", ["112", "911", "000", "08", "110", "118", "119", "999"])
def test_what_a_phone_without_a_card_takes_is_known_where_nobody_names_a_country(number: str) -> None:
    assert is_emergency(number)
    assert is_emergency(f"tel:{number}", ["??"])


# Written down apart from the data, so that an update of it that loses one is seen.
KNOWN_ABROAD = {
    "AU": "000 112",
    "BR": "190 192 193",
    "CN": "110 119 120",
    "DE": "110 112",
    "ES": "112 062 091",
    "FR": "15 17 18 112 114",
    "GB": "999 112",
    "IN": "100 101 102 108 112",
    "IT": "112 113 115 118",
    "JP": "110 118 119",
    "KR": "112 119",
    "NZ": "111",
    "PE": "105 106 116",
    "SA": "997 998 999 911",
    "UA": "101 102 103 112",
    "ZA": "10111 10177 112",
}


@pytest.mark.parametrize("country", KNOWN_ABROAD)
def test_what_people_dial_there_is_known(country: str) -> None:
    assert [number for number in KNOWN_ABROAD[country].split() if not is_emergency(number, [country])] == []
