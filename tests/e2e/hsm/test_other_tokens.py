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


def test_nss_makes_no_exportable_key_and_the_key_store_uses_none(stores: tuple[Operator, Path]) -> None:
    operator, config = stores
    place = (*at(operator, config, "b"), "--log", str(operator.log))
    ended = operator.run("keygen", "acme-main", "--exportable", *place)
    assert (ended.code, "not known to keep to CKA_WRAP_WITH_TRUSTED" in ended.error["error"]) == (9, True)
    assert operator.done("list", *place)["keys"] == []


def test_nss_derives_keys_that_leave(nss: Nss) -> None:
    """What is tried of a token before a key is made exportable in it, of one that gives such keys away."""
    nss.make_token("derives")
    printed = nss.run_python("derives", _DERIVES)
    assert printed.split() == ["False", "CKM_EXTRACT_KEY_FROM_KEY"]


_DERIVES = """
from ownkey_server.hsm.templates import RIGHTS, passing_key
from ownkey_server.hsm.trust import derived_out, try_untrusted
offered = {int(one) for one in token.slot.get_mechanisms()}
wrapping = {**dict.fromkeys(RIGHTS, False), Attribute.WRAP: True}
wrapper = session.generate_key(KeyType.AES, 256, store=False, template=wrapping)
guarded = {**passing_key(), Attribute.WRAP_WITH_TRUSTED: True}
key = session.generate_key(KeyType.AES, 256, store=False, template=guarded)
print(try_untrusted(session, offered).refused, derived_out(wrapper, key, offered))
"""
