"""Which calls go to an emergency service. They are set up whatever the state of a key, a server or a network.

It stands in the SDK, so that a phone service can tell an emergency call even when it cannot ask anybody. In doubt the
answer is yes: a call let through by mistake costs less than one that is not.

The numbers of each country are libphonenumber's short-number data (``phonenumberslite``), kept up to date there.
``urn:service:sos`` and its sub-services are RFC 5031's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from urllib.parse import unquote

import phonenumbers
from phonenumbers import shortnumberinfo

# 3GPP TS 22.101 section 10.1: every mobile phone takes these for emergency calls, wherever it is.
UNIVERSAL_NUMBERS = frozenset({"112", "911"})
SOS_URN = "urn:service:sos"
# Emergency numbers have 2 to 6 digits in the data; a longer number needs no look-up, which is what calls mostly are.
LONGEST = 8

COUNTRIES: frozenset[str] = frozenset(phonenumbers.SUPPORTED_SHORT_REGIONS)
"""ISO 3166 codes of the countries whose emergency numbers are known."""


def is_emergency(
    callee: str,
    countries: Collection[str] = (),
    *,
    own_numbers: Collection[str] = (),
    outside_line_prefixes: Iterable[str] = (),
) -> bool:
    """Whether a call to ``callee`` goes to an emergency service.

    Args:
        callee: A number in any way of writing, or a ``tel:``, ``sip:``, ``sips:`` or ``urn:service:`` URI.
        countries: ISO 3166 codes whose numbers count; none means every country's.
        own_numbers: Further numbers that count.
        outside_line_prefixes: Digits dialled before an outside number; numbers count with and without them.
    """
    target = _target(callee)
    if target == SOS_URN or target.startswith(SOS_URN + "."):
        return True
    digits = _digits(target)
    if not digits:
        return False
    if digits in {_digits(number) for number in own_numbers}:
        return True
    regions = frozenset(countries) & COUNTRIES or COUNTRIES
    candidates = [digits]
    candidates += [digits[len(p) :] for p in outside_line_prefixes if p and digits.startswith(p)]
    return any(_is_emergency_number(candidate, regions) for candidate in candidates)


def _target(callee: str) -> str:
    """The part of a callee that names whom to reach, without display name, host, parameters and escapes."""
    text = callee.strip()
    if "<" in text:
        text = text[text.index("<") + 1 :].partition(">")[0]
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() == "urn":
        # `;`, `?` and `#` begin what is not part of the name (RFC 8141).
        return text.lower().partition(";")[0].partition("?")[0].partition("#")[0]
    if colon and scheme.lower() in ("tel", "sip", "sips"):
        text = rest.removeprefix("//").partition("@")[0]
    text = unquote(text)
    # A SIP URI may carry a whole URN as its user part.
    if text.lower().startswith("urn:"):
        return text.lower().partition(";")[0]
    return text.partition(";")[0]


def _digits(target: str) -> str:
    """The dialled digits, ASCII, with a leading ``+`` kept; empty when this is no number."""
    number = target.partition(",")[0].lower().partition("p")[0].partition("w")[0]
    plus = "+" if number.lstrip().startswith(("+", "\uff0b")) else ""
    return plus + phonenumbers.normalize_digits_only(number) if any(c.isdigit() for c in number) else ""


@lru_cache(maxsize=8192)
def _is_emergency_number(digits: str, regions: frozenset[str]) -> bool:
    bare = digits.removeprefix("+")
    if bare in UNIVERSAL_NUMBERS or _known(bare, regions):
        return True
    # +49 112: some phones put the country before whatever is dialled.
    international = bare if digits.startswith("+") else bare.removeprefix("00") if bare.startswith("00") else ""
    for length in (1, 2, 3):
        code, national = international[:length], international[length:]
        there = frozenset(phonenumbers.region_codes_for_country_code(int(code or 0))) & COUNTRIES
        if there and national and (national in UNIVERSAL_NUMBERS or _known(national, there)):
            return True
    return False


def _known(number: str, regions: frozenset[str]) -> bool:
    return len(number) <= LONGEST and any(shortnumberinfo.is_emergency_number(number, region) for region in regions)
