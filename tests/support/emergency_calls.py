"""Emergency calls of every country, in the ways that telephones write them."""

from __future__ import annotations

from hypothesis import strategies as st
from phonenumbers import PhoneMetadata

from ownkey.emergency import COUNTRIES


def examples() -> dict[str, str]:
    """A number of each country that has one in the data."""
    found = {}
    for country in sorted(COUNTRIES):
        metadata = PhoneMetadata.short_metadata_for_region(country)
        if metadata and metadata.emergency and metadata.emergency.example_number:
            found[country] = metadata.emergency.example_number
    return found


NUMBERS = sorted({*examples().values(), "112", "911", "999", "000", "110", "119"})


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
    """Request URIs of emergency calls."""
    spelled = st.builds(
        lambda number, spelling, uri: uri(spelling(number)),
        st.sampled_from(NUMBERS),
        st.sampled_from(SPELLINGS),
        st.sampled_from(URIS),
    )
    return st.one_of(spelled, st.sampled_from(SOS))
