"""Keys are made, rotated, closed and retired by ceremonies, and nothing is lost or used by accident."""

from __future__ import annotations

import pytest

from support.hsm_operator import Operator, named


def test_a_key_is_made_with_its_version_and_its_check_value(two: Operator) -> None:
    made = two.done("keygen", "acme-main", *two.at(), *two.by("alice", "bob"))
    assert made["key"] == "acme-main/v1"
    assert made["use"] == "active"
    key = two.keys()["acme-main/v1"]
    assert key["check_values"] == made["check_values"]
    assert len(bytes.fromhex(key["check_values"]["aes-ecb"])) == 3
    assert (key["sensitive"], key["extractable"], key["never_extractable"], key["local"]) == (True, False, True, True)
    assert key["rights"] == ["encrypt", "decrypt"]
    assert (key["version"], key["remarks"]) == (1, [])
    begun, done = two.records()[-2:]
    assert (begun["phase"], done["phase"], done["ceremony"]) == ("begun", "done", begun["number"])
    assert begun["confirmed_by"] == done["confirmed_by"] == ["alice", "bob"]
    assert done["detail"]["keys"][0]["check_values"] == made["check_values"]
    assert key["ceremony"] == begun["number"]


def test_the_check_value_is_what_the_token_itself_computes_of_zeros(alone: Operator) -> None:
    made = alone.done("keygen", "acme-main", *alone.at())
    script = (
        "import sys, pkcs11\n"
        "module, token, pin = sys.argv[1:]\n"
        "with pkcs11.lib(module).get_token(token_label=token).open(user_pin=pin) as session:\n"
        "    key = session.get_key(label='acme-main/v1')\n"
        "    print(bytes(key.encrypt(bytes(16), mechanism=pkcs11.Mechanism.AES_ECB))[:3].hex())\n"
    )
    seen = alone.softhsm.run_python(script, str(alone.softhsm.module), alone.token, alone.pin).strip()
    assert made["check_values"] == {"aes-ecb": seen}


def test_a_name_that_is_taken_is_never_made_again(alone: Operator) -> None:
    alone.done("keygen", "acme-main", *alone.at())
    before = alone.keys()
    ended = alone.run("keygen", "acme-main", *alone.at())
    assert ended.code == 10
    assert "rotate" in ended.error["hint"]
    alone.softhsm.make_key(alone.token, "bare", "SENSITIVE", "ENCRYPT", "DECRYPT")
    assert alone.run("keygen", "bare", *alone.at()).code == 10
    assert {name: key for name, key in alone.keys().items() if name != "bare"} == before


@pytest.mark.parametrize("name", ["a/v0", "a/b", "~pending~a", "a" * 101])
def test_names_that_would_not_be_found_again_are_refused(alone: Operator, name: str) -> None:
    ended = alone.run("keygen", name, *alone.at())
    assert ended.code == 2
    assert "letters" in ended.error["error"]


def test_rotation_makes_the_next_version_and_leaves_the_old_one_alone(two: Operator) -> None:
    two.done("keygen", "acme-main", *two.at(), *two.by("alice", "bob"))
    rotated = two.done("rotate", "acme-main", *two.at(), *two.by("alice", "bob"))
    assert (rotated["key"], rotated["after"]) == ("acme-main/v2", "acme-main/v1")
    keys = two.keys()
    assert [keys[f"acme-main/v{number}"]["use"] for number in (1, 2)] == ["active", "active"]
    assert keys["acme-main/v1"]["check_values"] != keys["acme-main/v2"]["check_values"]
    assert two.run("rotate", "other", *two.at(), *two.by("alice", "bob")).code == 8
    assert two.run("rotate", "acme-main/v1", *two.at(), *two.by("alice", "bob")).code == 2


def test_a_key_that_was_made_without_a_version_is_followed_by_the_first(alone: Operator) -> None:
    alone.softhsm.make_key(alone.token, "acme-main", "SENSITIVE", "ENCRYPT", "DECRYPT")
    rotated = alone.done("rotate", "acme-main", *alone.at())
    assert (rotated["key"], rotated["after"]) == ("acme-main/v1", "acme-main")


def test_a_key_is_closed_then_retired_then_destroyed_and_each_step_can_be_told(two: Operator) -> None:
    by = two.by("alice", "bob")
    made = two.done("keygen", "acme-main", *two.at(), *by)
    assert two.done("close", "acme-main/v1", *named(made), *two.at(), *by)["use"] == "opens-only"
    assert two.keys()["acme-main/v1"]["rights"] == ["decrypt"]
    destroy = ("retire", "acme-main/v1", "--destroy", *named(made))
    early = two.run(*destroy, *two.at(), *by)
    assert (early.code, "is not retired" in early.error["error"]) == (10, True)
    assert two.done("retire", "acme-main/v1", *named(made), *two.at(), *by)["use"] == "retired"
    assert two.keys()["acme-main/v1"]["rights"] == []
    wrong = two.run("retire", "acme-main/v1", "--destroy", "--confirm", "acme-main/v1:000000", *two.at(), *by)
    assert wrong.code == 3
    assert two.run("retire", "acme-main/v1", "--destroy", *two.at(), *by).code == 3
    two.done(*destroy, *two.at(), *by)
    assert two.keys() == {}
    assert [record["action"] for record in two.records() if record["phase"] == "done"] == [
        "open_log",
        "keygen",
        "close",
        "retire",
        "destroy",
    ]


def test_nobody_destroys_a_key_alone(operator: Operator) -> None:
    operator.softhsm.make_token(operator.token)
    operator.open_log("alice", "bob", needed=1)
    by = operator.by("alice")
    made = operator.done("keygen", "acme-main", *operator.at(), *by)
    operator.done("retire", "acme-main/v1", *named(made), *operator.at(), *by)
    destroy = ("retire", "acme-main/v1", "--destroy", *named(made), *operator.at())
    ended = operator.run(*destroy, *by)
    assert (ended.code, "2 custodians must confirm" in ended.error["error"]) == (3, True)
    assert {*operator.keys()} == {"acme-main/v1"}
    assert operator.run(*destroy, *operator.by("alice", "bob")).code == 0


def test_a_wrong_pin_is_tried_once_and_nothing_is_begun(alone: Operator) -> None:
    alone.pin = "00000000"
    ended = alone.run("keygen", "acme-main", *alone.at())
    assert (ended.code, ended.error["error"]) == (3, "the token refuses the PIN")
    assert len(alone.records()) == 1


def test_a_token_or_module_that_is_not_there_is_told(alone: Operator) -> None:
    ended = alone.run("list", *alone.at("nowhere"))
    assert (ended.code, "there is no token 'nowhere'" in ended.error["error"]) == (8, True)
    given = ("--module", "/nowhere/module.so", "--token", "a", "--pin", alone.secret("pin", "4711"))
    ended = alone.run("list", *given, "--log", str(alone.log))
    assert (ended.code, "cannot be loaded" in ended.error["error"]) == (5, True)


def test_a_key_that_the_service_would_not_use_says_why(alone: Operator) -> None:
    alone.softhsm.make_key(alone.token, "shown", "EXTRACTABLE", "ENCRYPT", "DECRYPT")
    alone.softhsm.make_key(alone.token, "short", "SENSITIVE", "ENCRYPT", "DECRYPT", bits=128)
    keys = alone.keys()
    assert {"CKA_SENSITIVE is false", "CKA_EXTRACTABLE is true"} < {*keys["shown"]["remarks"]}
    assert "it is no AES key of 256 bits" in keys["short"]["remarks"]
    assert "the ceremony log does not know it" in keys["short"]["remarks"]


def test_a_key_that_only_wraps_by_key_wrap_has_a_check_value_of_its_own_kind(operator: Operator) -> None:
    operator.softhsm.make_token(operator.token)
    operator.open_log()
    config = operator.settings({"hsm": operator.token}, mechanism="aes-key-wrap")
    made = operator.done("keygen", "acme-main", "--config", str(config), "--log", str(operator.log))
    assert {*made["check_values"]} == {"aes-ecb", "rfc3394"}
    assert operator.keys()["acme-main/v1"]["rights"] == ["wrap", "unwrap"]


def test_the_service_uses_what_was_made_by_the_reference_that_was_told(alone: Operator) -> None:
    alone.done("keygen", "acme-main", *alone.at())
    config = alone.settings({"hsm": alone.token})
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from ownkey_server import settings\n"
        "from ownkey_server.composition.core import open_key_stores\n"
        "async def main():\n"
        "    store = open_key_stores(settings.load(Path(sys.argv[1])))['hsm']\n"
        "    print((await store.describe('acme-main/v1', 10)).state.name)\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    assert alone.softhsm.run_python(script, str(config)).strip() == "AVAILABLE"


def test_the_list_is_readable_for_people_too(alone: Operator) -> None:
    alone.done("keygen", "acme-main", *alone.at())
    shown = alone.run("list", *alone.at(), as_json=False)
    assert shown.code == 0
    assert "acme-main/v1" in shown.printed
    assert "encrypt, decrypt" in shown.printed
