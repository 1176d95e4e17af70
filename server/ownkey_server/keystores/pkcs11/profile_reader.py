"""Reading a profile strictly: a key that nobody knows and a value that cannot be meant are errors that say where.

A misspelt quirk would otherwise silently be no quirk, and a token be used as it must not be.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class ProfileInvalid(ValueError):
    """A profile cannot be used. The message says which, where in it, and what would do."""


class Table:
    """A table of a profile, read key by key; what was never asked for is unknown.

    Args:
        profile: What the profile is called, for the errors.
        content: The table.
        place: Where it is in the profile, with a dot at its end; empty for the whole of it.
    """

    def __init__(self, profile: str, content: Mapping[str, Any], place: str = "") -> None:
        self._profile = profile
        self._content = content
        self._place = place
        self._asked: list[str] = []

    def wrong(self, key: str, what: str) -> ProfileInvalid:
        """The error of a value."""
        return ProfileInvalid(f"profile {self._profile}: {self._place}{key}: {what}")

    def text(self, key: str) -> str:
        """A text that is not empty."""
        return str(self._required(key, lambda value: isinstance(value, str) and bool(value.strip()), "a text"))

    def choice(self, key: str, choices: Collection[str]) -> str:
        """One of a few words."""
        return str(self._required(key, lambda value: value in choices, f"one of {', '.join(choices)}"))

    def flag(self, key: str) -> bool:
        """True or false."""
        return bool(self._required(key, lambda value: isinstance(value, bool), "true or false"))

    def number(self, key: str, least: int = 0) -> int:
        """A whole number."""

        def sound(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= least

        return int(self._required(key, sound, f">= {least}"))

    def texts(self, key: str, *, least: int = 0) -> tuple[str, ...]:
        """A list of texts, each once."""

        def sound(value: Any) -> bool:
            whole = isinstance(value, list) and all(isinstance(one, str) and one for one in value)
            return whole and len(value) >= least and len(set(value)) == len(value)

        few = f"a list of {least} or more texts" if least else "a list of texts"
        return tuple(self._required(key, sound, f"{few}, each once"))

    def names(self, key: str, known: Collection[str], *, least: int = 0, kind: str) -> tuple[str, ...]:
        """A list of names that are known."""
        found = self.texts(key, least=least)
        for name in found:
            if name not in known:
                raise self.wrong(key, f"{name!r} is no {kind}; a vendor's own needs a line in [vendor]")
        return found

    def table(self, key: str) -> Table:
        """A table; an empty one if there is none."""
        self._asked.append(key)
        found = self._content.get(key, {})
        if not isinstance(found, dict):
            raise self.wrong(key, "must be a table")
        return Table(self._profile, found, f"{self._place}{key}.")

    def tables(self, key: str) -> list[Table]:
        """A list of tables; an empty one if there is none."""
        self._asked.append(key)
        found = self._content.get(key, [])
        if not (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
            raise self.wrong(key, f"must be tables, [[{key}]]")
        return [Table(self._profile, one, f"{self._place}{key}[{index}].") for index, one in enumerate(found)]

    def numbers(self) -> dict[str, int]:
        """The whole table, of names and numbers."""
        return {name: self.number(name) for name in self._content}

    def optional(self, key: str, reader: Callable[[str], T]) -> T | None:
        """What ``reader`` reads, where the key is there."""
        if key in self._content:
            return reader(key)
        self._asked.append(key)
        return None

    def end(self) -> None:
        """Nothing else may be in the table."""
        for key in self._content:
            if key not in self._asked:
                raise self.wrong(key, f"there is no such key; there are {', '.join(self._asked)}")

    def _required(self, key: str, sound: Callable[[Any], bool], what: str) -> Any:
        self._asked.append(key)
        if key not in self._content:
            raise self.wrong(key, f"is missing; it must be {what}")
        value = self._content[key]
        if not sound(value):
            raise self.wrong(key, f"must be {what}, and is {value!r}")
        return value


def names_a_file(name_or_path: str) -> bool:
    """Whether the setting of a profile means a file rather than one that comes with ownkey."""
    return "/" in name_or_path or name_or_path.endswith(".toml")


def document(name: str, path: Path) -> dict[str, Any]:
    """What a file of TOML says.

    Raises:
        ProfileInvalid: It cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        # Its name is not repeated: one that is no file may be a secret, put into the wrong place.
        raise ProfileInvalid(f"the file of the profile cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileInvalid(f"profile {name}: is not valid TOML: {error}") from error
    except ValueError as error:
        raise ProfileInvalid("the file of the profile cannot be read: that is no path") from error


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """One document over another: tables are merged, everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
