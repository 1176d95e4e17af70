"""Emergency calls of every country, in the ways that telephones write them."""

from __future__ import annotations

import re

from hypothesis import strategies as st
from phonenumbers import PhoneMetadata

from ownkey.emergency import COUNTRIES, NO_COUNTRY_NUMBERS, UNIVERSAL_NUMBERS, patterns
from ownkey.emergency_numbers import NATIONAL


def numbers_of(country: str) -> list[str]:
    """Every emergency number of a country of up to three digits, an example of longer ones, and the universal ones."""
    short = [str(number).zfill(width) for width in (2, 3) for number in range(10**width)]
    known = re.compile("|".join(f"(?:{one})" for one in patterns([country])) or "(?!)")
    metadata = PhoneMetadata.short_metadata_for_region(country)
    example = metadata.emergency.example_number if metadata and metadata.emergency else None
    listed = {entry.number for entry in NATIONAL if entry.country == country}
    return sorted({*filter(known.fullmatch, short), *UNIVERSAL_NUMBERS, *listed} | ({example} if example else set()))


BY_COUNTRY = {country: numbers_of(country) for country in sorted(COUNTRIES)}
NUMBERS = sorted({number for numbers in BY_COUNTRY.values() for number in numbers} | NO_COUNTRY_NUMBERS)
PREFIXES = ("0", "8", "9")
"""Digits for an outside line, which the spellings use."""


def _escaped(number: str) -> str:
    return "".join(f"%{byte:02X}" for byte in number.encode())


def _full_width(number: str) -> str:
    return "".join(chr(0xFF10 + int(digit)) for digit in number)


# What stands around the digits, as the user part of a URI.
SPELLINGS = (
    lambda n: n,
    "-".join,
    ".".join,
    lambda n: f"({n[0]}){n[1:]}",
    lambda n: f"9{n}",
    lambda n: f"0,{n}",
    lambda n: f"8w{n}",
    lambda n: f"9p{n}",
    lambda n: f",{n}",
    lambda n: f"{n},,1",
    lambda n: f"{n}x5",
    lambda n: f"{n}ext.5",
    lambda n: f"1{n}",
    lambda n: f"91{n}",
    lambda n: f"*67{n}",
    lambda n: f"*31#{n}",
    lambda n: f"+{n}",
    lambda n: f"{n}:12345",
    lambda n: f"{n},,1a",
    lambda n: f"{n};phone-context=+1",
    lambda n: f"{n};x=y",
    _escaped,
    lambda n: f"{n[0]}{_escaped(n[1:])}",
    lambda n: _escaped(_full_width(n)),
    _full_width,
)
URIS = (
    lambda user: f"sip:{user}@pbx.example",
    lambda user: f"sip:{user}@127.0.0.1;user=phone",
    lambda user: f"sips:{user}@pbx.example",
    lambda user: f"SIP:{user}@pbx.example",
    lambda user: f"tel:{user}",
)
SOS = (
    "urn:service:sos",
    "URN:SERVICE:SOS.police",
    "urn:service:sos.ambulance.x",
    "sip:urn:service:sos.fire@psap.example",
)


def request_uris() -> st.SearchStrategy[str]:
    """Request URIs of emergency calls, of some country."""
    return st.one_of(_spelled(st.sampled_from(NUMBERS)), st.sampled_from(SOS))


def calls() -> st.SearchStrategy[tuple[str, str]]:
    """A country, and a request URI of an emergency call there."""
    return st.sampled_from(sorted(BY_COUNTRY)).flatmap(
        lambda country: st.tuples(
            st.just(country), st.one_of(_spelled(st.sampled_from(BY_COUNTRY[country])), st.sampled_from(SOS))
        )
    )


def plain() -> list[tuple[str, str]]:
    """Every country and number, as it is dialled, and as URIs of both kinds."""
    return [
        (country, form.format(number))
        for country, numbers in BY_COUNTRY.items()
        for number in numbers
        for form in ("{}", "tel:{}", "sip:{}@pbx.example;user=phone")
    ]


def _spelled(numbers: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda number, spelling, uri: uri(spelling(number)), numbers, st.sampled_from(SPELLINGS), st.sampled_from(URIS)
    )
