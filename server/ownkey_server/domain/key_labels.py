"""How keys in a token are named: a name and a version, ``acme-main/v2``. The whole label is a key's reference."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

MOST_VERSIONS = 999_999
# No other key of a token may begin so: a key that is being made is found by nobody who looks for its label.
PENDING = "~pending~"
_LABEL = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)(?:/v([1-9][0-9]{0,5}))?")
_RULE = (
    "must be 1 to 100 letters, digits, dots, hyphens and underscores, with a letter or digit at both ends,"
    " and may end in its version, as in acme-main/v2"
)


class LabelInvalid(ValueError):
    """The text is no label of a key. The message says what one is."""


@dataclass(frozen=True, slots=True, order=True)
class KeyLabel:
    """A key's label.

    Attributes:
        name: What all versions have in common.
        version: 1 and up; 0 for a label without a version, which counts as older than all others.
    """

    name: str
    version: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """The label in a text.

        Raises:
            LabelInvalid: It is none.
        """
        found = _LABEL.fullmatch(text)
        if found is None:
            raise LabelInvalid(_RULE)
        return cls(found[1], int(found[2] or 0))

    def with_version(self, version: int) -> KeyLabel:
        """The same name in another version.

        Raises:
            LabelInvalid: There are no more versions.
        """
        if version > MOST_VERSIONS:
            raise LabelInvalid(f"there are at most {MOST_VERSIONS} versions of a name: choose another name")
        return KeyLabel(self.name, version)

    def __str__(self) -> str:
        return f"{self.name}/v{self.version}" if self.version else self.name


def versions_of(name: str, labels: Iterable[str]) -> list[KeyLabel]:
    """The versions of a name among labels of a token, the oldest first; other labels are left out."""
    found = set()
    for text in labels:
        try:
            label = KeyLabel.parse(text)
        except LabelInvalid:
            continue
        if label.name == name:
            found.add(label)
    return sorted(found)


def pending(label: str) -> str:
    """What a key is called until it may be used."""
    return PENDING + label


def pending_for(label: str) -> str:
    """What a key will be called that is being made; empty for any other."""
    return label.removeprefix(PENDING) if label.startswith(PENDING) else ""
