"""Which calls go to an emergency service. They are set up whatever the state of a key, a server or a network.

It stands in the SDK, so that a phone service can tell an emergency call even when it cannot ask anybody. In doubt the
answer is yes: a call let through by mistake costs less than one that is not.

The numbers of each country are libphonenumber's short-number data (``phonenumberslite``), kept up to date there, and
those of :mod:`ownkey.emergency_numbers`, each with its source.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from urllib.parse import unquote

import phonenumbers

from ownkey.emergency_numbers import EVERYWHERE, NATIONAL, SERVICES, WITHOUT_A_COUNTRY, numbers

UNIVERSAL_NUMBERS = numbers(EVERYWHERE)
NO_COUNTRY_NUMBERS = numbers(WITHOUT_A_COUNTRY)
SOS_URN = SERVICES[0].number
# Emergency numbers have 2 to 6 digits in the data; a longer number needs no look-up, which is what calls mostly are.
LONGEST = 8

_BRACKETED = re.compile("<([^<>]*)>")
# The longest emergency number in the data has six digits; 00, a country and an outside line may stand before it.
_LONG_NUMBER = re.compile(r"\+[0-9]{10,}|[0-9]{13,}")
_CONTEXT = re.compile(r";\s*phone-context=(\+[0-9.()-]+)", re.IGNORECASE)
_STARS = re.compile("[*#]+")
_PAUSE = re.compile(r"[,pwx]|ext\.?")
# What gateways make of an emergency number that was dialled. Other names with digits are people's: bob18, room-110.
_NAMES = frozenset({"e911", "e112"})

COUNTRIES: frozenset[str] = frozenset(phonenumbers.SUPPORTED_SHORT_REGIONS)
"""ISO 3166 codes of the countries whose emergency numbers are known."""


def is_emergency(
    callee: str,
    countries: Collection[str] = (),
    *,
    own_numbers: Collection[str] = (),
    outside_line_prefixes: Iterable[str] = (),
) -> bool:
    """Whether a call to ``callee`` goes to an emergency service. Never raises, whatever it is given.

    Args:
        callee: A number in any way of writing, or a ``tel:``, ``sip:``, ``sips:`` or ``urn:service:`` URI.
        countries: ISO 3166 codes whose numbers count; none means every country's.
        own_numbers: Further numbers that count.
        outside_line_prefixes: Digits dialled before an outside number; numbers count with and without them.
    """
    prefixes = [prefix for prefix in outside_line_prefixes if prefix]
    own = _bare_numbers(frozenset(own_numbers))
    regions = _regions(tuple(countries))
    for target, named in _targets(callee):
        if _LONG_NUMBER.fullmatch(target):
            # What calls mostly go to: too long for any country's emergency number, whatever stands before it.
            number = target.removeprefix("+")
            if own and not own.isdisjoint({number, *(number.removeprefix(prefix) for prefix in prefixes)}):
                return True
            continue
        name = target.partition("#")[0]
        if name == SOS_URN or name.startswith(SOS_URN + ".") or target.partition(":")[0] in _NAMES:
            return True
        for number in _numbers(target, prefixes, named=named):
            if number.removeprefix("+") in own or _is_emergency_number(number, regions):
                return True
    return False


def _targets(callee: str) -> Iterator[tuple[str, bool]]:
    """Every part of a callee that may name whom to reach, without host, parameters and escapes.

    With each, whether it is the user of an address, which may be somebody's name.
    """
    # Directional marks and the like come along when a number is pasted.
    text = callee if callee.isascii() else "".join(c for c in callee if unicodedata.category(c) != "Cf")
    text = text.strip()
    bracketed = _BRACKETED.findall(text)
    # In a name-addr the URI stands in the last brackets; a display name may hold others.
    for uri in {text, *bracketed[-1:]} if bracketed else {text}:
        scheme, colon, rest = uri.partition(":")
        scheme = scheme.strip().lower() if colon else ""
        known = scheme in ("tel", "sip", "sips")
        user = unquote((rest.removeprefix("//") if known else uri).partition("@")[0])
        # The whole of what has brackets is looked at besides: its letters may be those of a display name.
        named = not (bracketed and uri == text) and (scheme in ("sip", "sips") or ("@" in uri and not known))
        # A SIP URI may carry a whole URN as its user part. `;` and `?` begin what is not part of a name (RFC 8141).
        target = re.split("[;?]", user)[0].strip().lower()
        yield target, named
        context = _CONTEXT.search(user)
        if context and not target.startswith("+"):
            # Where the number is dialled (RFC 3966, 5.1.5), wherever the tenant is. An area may follow the country.
            code = re.sub("[^0-9]", "", context[1])
            yield from ((f"+{code[:length]}{target}", named) for length in range(1, min(len(code), 3) + 1))


def _numbers(target: str, prefixes: list[str], *, named: bool) -> Iterator[str]:
    """Every number that the dialled text may mean: with pauses and service codes, or without; with prefixes, or not."""
    # A password may follow the user (RFC 3261, 19.1.1).
    for dialled in {target, target.partition(":")[0]}:
        yield from _dialled(dialled, prefixes, named=named)


def _dialled(target: str, prefixes: list[str], *, named: bool) -> Iterator[str]:
    # *67911 withholds the caller's number, and #31#112 does: what follows the code is what is called.
    for text in {target, target[3:], target[4:], _STARS.split(target)[-1]} if target[:1] in "*#" else {target}:
        # An extension may follow the number after a pause, and a pause may follow the outside line.
        parts = _PAUSE.split(text)
        # Nobody dials letters: what has some is a name, and what stands before them may be a number all the same.
        until = next((at for at, part in enumerate(parts) if named and _has_letters(part)), len(parts))
        if not until:
            continue
        first, *others = (_digits(part) for part in parts[:until])
        candidates = {first}
        if until == len(parts):
            candidates.add("".join((first, *(other.removeprefix("+") for other in others))))
        if others and (not first or first in prefixes):
            candidates.add(others[0])
        for prefix in prefixes:
            candidates |= {number.removeprefix("+").removeprefix(prefix) for number in candidates}
        # The trunk prefix of North America: 1911 is 911.
        candidates |= {number[1:] for number in candidates if number.startswith("1")}
        yield from candidates - {""}


@lru_cache(maxsize=1024)
def _bare_numbers(numbers: frozenset[str]) -> frozenset[str]:
    return frozenset(_digits(number).removeprefix("+") for number in numbers) - {""}


@lru_cache(maxsize=1024)
def _regions(countries: tuple[str, ...]) -> frozenset[str]:
    return frozenset(countries) & COUNTRIES or COUNTRIES


def _has_letters(text: str) -> bool:
    return any(letter.isalpha() for letter in text)


def _digits(text: str) -> str:
    """The dialled digits, ASCII, with a leading ``+`` kept; empty when there are none."""
    plus = "+" if text.lstrip().startswith(("+", "\uff0b")) else ""
    digits = phonenumbers.normalize_digits_only(text)
    return plus + digits if digits else ""


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
    return len(number) <= LONGEST and _numbers_of(regions).fullmatch(number) is not None


@lru_cache(maxsize=1024)
def _numbers_of(regions: frozenset[str]) -> re.Pattern[str]:
    """Every emergency number of the regions in one pattern: asked one by one, all countries take two milliseconds."""
    return re.compile("|".join(f"(?:{pattern})" for pattern in sorted(patterns(regions))) or "(?!)")


def patterns(countries: Collection[str]) -> frozenset[str]:
    """Regular expressions of the national emergency numbers of these countries, or of all when none is known.

    :data:`UNIVERSAL_NUMBERS` count besides, everywhere.
    """
    regions = frozenset(countries) & COUNTRIES or COUNTRIES
    descriptions = (phonenumbers.PhoneMetadata.short_metadata_for_region(region) for region in regions)
    found = {one.emergency.national_number_pattern for one in descriptions if one and one.emergency}
    more = numbers(entry for entry in NATIONAL if entry.country in regions)
    return frozenset(filter(None, found)) | more | (NO_COUNTRY_NUMBERS if regions == COUNTRIES else frozenset())
