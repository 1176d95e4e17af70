"""The same ceremonies at another vendor's token: NSS has other mechanisms, and wants arguments for its module."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from support.hsm_operator import Operator, named
from support.nss import Nss

_numbers = itertools.count()


@pytest.fixture
def stores(operator: Operator, nss: Nss) -> tuple[Operator, Path]:
    """Key stores a, of SoftHSM, and b and c, of NSS."""
    operator.softhsm.make_token(operator.token)
    operator.open_log()
    config = operator.settings({"a": operator.token}, mechanism="aes-key-wrap")
    sections = []
    for name in ("b", "c"):
        options = nss.make_token(f"ceremony-{next(_numbers)}")
        sections.append(
            f'[key_stores.{name}]\nkind = "pkcs11"\nmodule = "{options.module}"\npin = "{options.pin}"\n'
            f'token_label = "{options.token_label}"\nmodule_arguments = "{options.module_arguments}"\n'
        )
    with config.open("a", encoding="utf-8") as file:
        file.write("\n".join(sections))
    return operator, config


def at(operator: Operator, config: Path, store: str, *replicas: str) -> tuple[str, ...]:
    named = itertools.chain.from_iterable(("--replica", replica) for replica in replicas)
    return ("--config", str(config), "--store", store, *named)


def test_keys_of_nss_are_made_closed_and_retired(stores: tuple[Operator, Path]) -> None:
    operator, config = stores
    place = (*at(operator, config, "b"), "--log", str(operator.log))
    made = operator.done("keygen", "acme-main", *place)
    assert {*made["check_values"]} == {"rfc3394"}
    assert operator.done("rotate", "acme-main", *place)["key"] == "acme-main/v2"
    assert operator.done("close", "acme-main/v1", *named(made), *place)["use"] == "opens-only"
    assert operator.done("retire", "acme-main/v1", *named(made), *place)["use"] == "retired"
    keys = {key["key"]: key for key in operator.done("list", *place)["keys"]}
    assert keys["acme-main/v2"]["rights"] == ["wrap", "unwrap"]
    assert keys["acme-main/v2"]["remarks"] == []


def test_one_key_in_tokens_of_two_vendors(stores: tuple[Operator, Path]) -> None:
    operator, config = stores
    made = operator.done("keygen", "acme-main", *at(operator, config, "a", "b", "c"), "--log", str(operator.log))
    assert {*made["check_values"]} == {"rfc3394"}
    compared = operator.done("compare", "acme-main/v1", *at(operator, config, "c", "a", "b"))
    assert len({str(values) for values in compared["check_values"].values()}) == 1
