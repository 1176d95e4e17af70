"""Number ranges, and the numbers that a call's ends may mean.

A range is what numbers begin with in E.164 (``+4930``), from one number to another of the same length
(``+493012340000-+493012349999``), or one or several extensions (``7001``, ``7000-7999``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

import phonenumbers

_ONE = r"\+?[0-9]{1,15}"
_RANGE = re.compile(rf"({_ONE})(?:-({_ONE}))?")
_BRACKETED = re.compile("<([^<>]*)>")
_CONTEXT = re.compile(r";\s*phone-context=\+([0-9.()-]+)", re.IGNORECASE)
# What is dialled before the country where 00 is not it (ITU-T E.164, national lists).
_EXITS = {1: "011"}


class NumberInvalid(ValueError):
    """It is no number range. The message says what one is."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A set of numbers.

    Attributes:
        prefixes: What numbers of it begin with, in E.164 with the plus sign.
        spans: From and to, both within, of the same length.
    """

    prefixes: tuple[str, ...] = ()
    spans: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[str]) -> Numbers:
        """The numbers of these ranges.

        Raises:
            NumberInvalid: One is none.
        """
        prefixes, spans = [], []
        for text in ranges:
            parts = _RANGE.fullmatch(text)
            if parts is None:
                raise NumberInvalid(f"{text[:40]!r} is no number range: write +4930, 7001, or +49301000-+49301999")
            first, last = parts[1], parts[2]
            if last is None and first.startswith("+"):
                prefixes.append(first)
                continue
            last = last or first
            if len(first) != len(last) or first.startswith("+") != last.startswith("+") or first > last:
                raise NumberInvalid(f"{text!r}: both ends of a range have the same length, the lower one first")
            spans.append((first, last))
        return cls(tuple(prefixes), tuple(spans))

    def __bool__(self) -> bool:
        """Whether there is any number in it."""
        return bool(self.prefixes or self.spans)

    def holds(self, candidates: Iterable[str]) -> bool:
        """Whether one of these spellings of a number is within it."""
        return any(
            one.startswith(self.prefixes)
            or any(len(one) == len(first) and first <= one <= last for first, last in self.spans)
            for one in candidates
        )


ANYBODY = Numbers()
"""No range: as a condition it always holds."""


@lru_cache(maxsize=8192)
def spellings(
    text: str, countries: tuple[str, ...] = (), outside_line_prefixes: tuple[str, ...] = ()
) -> frozenset[str]:
    """Every number that the end of a call may mean: in E.164, and as it was dialled. Never raises.

    Args:
        text: A number in any way of writing, or a ``tel:``, ``sip:`` or ``sips:`` URI.
        countries: Where the tenant's phones are: in one country, national numbers are known by it.
        outside_line_prefixes: Digits dialled before an outside number; numbers count with and without them.
    """
    bracketed = _BRACKETED.findall(text)
    uri = (bracketed[-1] if bracketed else text).strip()
    scheme, colon, rest = uri.partition(":")
    known = bool(colon) and scheme.strip().lower() in ("tel", "sip", "sips")
    user = unquote((rest if known else uri).partition("@")[0])
    context = _CONTEXT.search(user)
    number = re.split("[;?]", user)[0]
    plus = number.lstrip().startswith(("+", "\uff0b"))
    if any(c.isalpha() for c in number):
        return frozenset()
    digits = phonenumbers.normalize_digits_only(number)
    if not digits:
        return frozenset()
    if plus:
        return frozenset({"+" + digits})
    code = int(re.sub("[^0-9]", "", context[1])[:3] or 0) if context else 0
    regions = phonenumbers.region_codes_for_country_code(code)[:1] if code else countries if len(countries) == 1 else ()
    found = {digits}
    for prefix in outside_line_prefixes:
        if digits.startswith(prefix) and len(digits) > len(prefix):
            found.add(digits[len(prefix) :])
    return frozenset(found | {one for dialled in found for one in _international(dialled, regions)})


def _international(dialled: str, regions: Collection[str]) -> set[str]:
    found = {"+" + dialled[2:]} if dialled.startswith("00") and len(dialled) > 4 else set()
    for region in regions:
        exit_code = _EXITS.get(phonenumbers.country_code_for_region(region), "00")
        if exit_code != "00" and dialled.startswith(exit_code):
            found.add("+" + dialled[len(exit_code) :])
        try:
            parsed = phonenumbers.parse(dialled, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_possible_number(parsed):
            found.add(phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164))
    return found
