"""A key in components: its holders together load it, and fewer of them know nothing of it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from support.hsm_operator import Operator


def split(operator: Operator, *how: str) -> tuple[Any, list[str]]:
    """Components in files; what was told, and the references to them."""
    folder = operator.folder / "components"
    told = operator.done("split", *how, "--out", str(folder))
    assert all(Path(file).stat().st_mode & 0o777 == 0o600 for file in told["components"])
    return told, [f"file:{file}" for file in told["components"]]


def given(references: list[str]) -> list[str]:
    return list(itertools.chain.from_iterable(("--component", reference) for reference in references))


def test_all_components_by_xor_load_the_key_and_it_is_the_one_that_was_split(two: Operator) -> None:
    told, references = split(two, "--method", "xor", "--of", "3")
    load = ("load", "acme-main", "--method", "xor", "--check-value", told["check_value"], *two.at())
    by = two.by("alice", "bob")
    short = two.run(*load, *given(references[:2]), *by)
    assert (short.code, "the components give a key with check value" in short.error["error"]) == (3, True)
    made = two.done(*load, *given(references), *by)
    assert (made["key"], made["check_values"]) == ("acme-main/v1", {"aes-ecb": told["check_value"]})
    key = two.keys()["acme-main/v1"]
    assert (key["sensitive"], key["extractable"], key["remarks"]) == (True, False, [])
    assert two.records()[-2]["detail"] == {"how": ["wrapped"], "method": "xor"}
    written = "".join(two.printed) + two.log.read_text(encoding="utf-8")
    for reference in references:
        component = Path(reference.removeprefix("file:")).read_text(encoding="ascii").strip()
        assert component not in written
        assert component.replace(" ", "").lower() not in written.lower()


@pytest.mark.parametrize("chosen", [(0, 1), (2, 0), (1, 2), (0, 1, 2)])
def test_as_many_shares_as_are_needed_load_the_key(alone: Operator, chosen: tuple[int, ...]) -> None:
    told, references = split(alone, "--method", "slip39", "--of", "3", "--need", "2")
    load = ("load", "acme-main", "--method", "slip39", "--check-value", told["check_value"], *alone.at())
    made = alone.done(*load, *given([references[number] for number in chosen]))
    assert made["check_values"] == {"aes-ecb": told["check_value"]}
    words = Path(references[0].removeprefix("file:")).read_text(encoding="ascii").split()
    assert len(words) == 33
    assert " ".join(words[4:8]) not in "".join(alone.printed)


def test_one_share_too_few_or_of_another_key_or_misspelt_loads_nothing(alone: Operator) -> None:
    _, references = split(alone, "--method", "slip39", "--of", "3", "--need", "3")
    load = ("load", "acme-main", "--method", "slip39", *alone.at())
    assert alone.run(*load, *given(references[:2])).code == 3
    again = alone.run(*load, *given([references[0], references[0]]))
    assert (again.code, again.error["error"]) == (3, "component 2 was given already")
    misspelt = Path(references[2].removeprefix("file:"))
    words = misspelt.read_text(encoding="ascii").split()
    secret = " ".join([*words[:9], words[9][:-1] + "q", *words[10:]])
    ended = alone.run(*load, *given([*references[:2], alone.secret("misspelt", secret)]))
    assert (ended.code, "this is no share" in ended.error["error"]) == (3, True)
    assert not [word for word in words[4:] if len(word) > 6 and word in ended.printed]
    assert alone.keys() == {}


@pytest.mark.parametrize("wrong", ["00", "g" * 64, "0" * 63])
def test_a_component_that_is_none_is_refused_and_not_repeated(alone: Operator, wrong: str) -> None:
    references = [alone.secret("first", "11" * 32), alone.secret("second", wrong)]
    ended = alone.run("load", "acme-main", "--method", "xor", *given(references), *alone.at())
    assert (ended.code, "64 hexadecimal digits" in ended.error["error"]) == (2, True)
    assert len(wrong) < 10 or wrong not in ended.printed


def test_the_same_component_twice_is_refused(alone: Operator) -> None:
    references = [alone.secret("first", "11" * 32), alone.secret("second", "11" * 32)]
    ended = alone.run("load", "acme-main", "--method", "xor", *given(references), *alone.at())
    assert (ended.code, "cancel each other out" in ended.error["error"]) == (3, True)


def test_components_are_never_printed_where_a_machine_reads(operator: Operator) -> None:
    ended = operator.run("split", "--method", "xor", "--of", "2")
    assert (ended.code, "--out writes files" in ended.error["error"]) == (2, True)
