"""One key in several tokens: made in one, in clear nowhere, proved to be the same by use."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.hsm_operator import Operator, named

OPENS = """
import asyncio, sys
from pathlib import Path
from ownkey_server import settings
from ownkey_server.composition.core import open_key_stores
async def main():
    stores = open_key_stores(settings.load(Path(sys.argv[1])))
    context = {"ownkey:tenant": "acme"}
    made = await stores["a"].generate_data_key(sys.argv[2], context, 10)
    opened = await stores["b"].unwrap(sys.argv[2], made.wrapped, context, 10)
    print(opened.plaintext.reveal() == made.plaintext.reveal())
    for store in stores.values():
        await store.close()
asyncio.run(main())
"""


@pytest.fixture
def both(operator: Operator) -> tuple[Operator, Path]:
    """Two tokens as key stores a and b."""
    other = f"{operator.token}-b"
    operator.softhsm.make_token(operator.token)
    operator.softhsm.make_token(other)
    operator.open_log("alice", "bob")
    return operator, operator.settings({"a": operator.token, "b": other})


def at(operator: Operator, config: Path, *, log: bool = True) -> tuple[str, ...]:
    place = ("--config", str(config), "--store", "a", "--replica", "b")
    return (*place, "--log", str(operator.log), *operator.by("alice", "bob")) if log else place


def test_the_same_key_in_two_tokens_opens_in_one_what_the_other_wrapped(both: tuple[Operator, Path]) -> None:
    operator, config = both
    made = operator.done("keygen", "acme-main", *at(operator, config))
    assert len({token["serial"] for token in made["tokens"]}) == 2
    compared = operator.done("compare", "acme-main/v1", *at(operator, config, log=False))
    assert compared["check_values"]["a"] == compared["check_values"]["b"] == made["check_values"]
    assert operator.softhsm.run_python(OPENS, str(config), made["key"]).strip() == "True"
    for store in ("a", "b"):
        keys = operator.done("list", "--config", str(config), "--store", store, "--log", str(operator.log))["keys"]
        assert [(key["extractable"], key["sensitive"], key["remarks"]) for key in keys] == [(False, True, [])]
    operator.done("rotate", "acme-main", *at(operator, config))
    operator.done("retire", "acme-main/v1", *named(made), *at(operator, config))


def test_different_keys_under_one_label_are_told_apart(both: tuple[Operator, Path]) -> None:
    operator, config = both
    for store in ("a", "b"):
        place = ("--config", str(config), "--store", store, "--log", str(operator.log))
        operator.done("keygen", "acme-main", *place, *operator.by("alice", "bob"))
    ended = operator.run("compare", "acme-main/v1", *at(operator, config, log=False))
    assert (ended.code, "the check values differ" in ended.error["error"]) == (9, True)


def test_a_label_that_one_of_them_has_is_made_in_none(both: tuple[Operator, Path]) -> None:
    operator, config = both
    place = ("--config", str(config), "--store", "b", "--log", str(operator.log))
    operator.done("keygen", "acme-main", *place, *operator.by("alice", "bob"))
    ended = operator.run("keygen", "acme-main", *at(operator, config))
    assert (ended.code, "b has acme-main/v1 already" in ended.error["error"]) == (10, True)
    assert operator.keys() == {}


def test_one_token_by_two_names_is_no_replica(both: tuple[Operator, Path]) -> None:
    operator, _ = both
    config = operator.settings({"a": operator.token, "b": operator.token})
    ended = operator.run("keygen", "acme-main", *at(operator, config))
    assert ended.code != 0
    assert operator.keys() == {}
