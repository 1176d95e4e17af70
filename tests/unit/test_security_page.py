"""Each claim of docs/security.md and docs/cryptography.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ALL = TEXT + (ROOT / "docs" / "cryptography.md").read_text(encoding="utf-8")
FOLDERS = "|".join(sorted(one.name for one in TESTS.iterdir() if one.is_dir()))
NAMED = sorted(set(re.findall(rf"`((?:{FOLDERS})(?:/[\w./]+)?(?:::\w+)?)`", ALL)))


@pytest.mark.parametrize("name", NAMED)
def test_a_named_test_exists(name: str) -> None:
    path, _, function = name.partition("::")
    place = TESTS / path
    if place.is_dir():
        assert list(place.rglob("test_*.py")), f"{name} holds no test"
        return
    text = place.read_text(encoding="utf-8")
    assert re.search(rf"def {function}\(" if function else r"def test_", text), f"{name} is not there"


def test_every_row_of_attackers_names_a_test_or_says_that_there_is_none() -> None:
    rows = TEXT.partition("## Who can attack")[2].partition("\n## ")[0].splitlines()
    rows = [row for row in rows if row.startswith("|")][2:]
    assert len(rows) > 15
    for row in rows:
        assert re.search(rf"`(?:{FOLDERS})|no test", row.split("|")[4]), row
