"""A token is initialized, and one that somebody uses never is by accident."""

from __future__ import annotations

import pytest

from support.hsm_operator import Operator
from support.softhsm import PIN, SO_PIN


def init(operator: Operator, *more: str, label: str | None = None) -> tuple[str, ...]:
    place = ("--module", str(operator.softhsm.module), "--token", label or operator.token)
    pins = ("--so-pin", operator.secret("so-pin", SO_PIN), "--pin", operator.secret("pin", PIN))
    return ("init", *place, *pins, "--log", str(operator.log), *more)


def test_a_token_is_made_with_both_pins_and_is_on_record(operator: Operator) -> None:
    operator.open_log()
    made = operator.done(*init(operator))
    assert made["token"]["label"] == operator.token
    operator.done("keygen", "acme-main", *operator.at())
    done = [record for record in operator.records() if record["action"] == "initialize"][-1]
    assert done["tokens"] == [made["token"]]


def test_a_token_that_is_used_is_erased_only_by_its_label_and_serial(operator: Operator) -> None:
    operator.open_log()
    made = operator.done(*init(operator))
    operator.done("keygen", "acme-main", *operator.at())
    name = f"{operator.token}:{made['token']['serial']}"
    refused = operator.run(*init(operator))
    assert (refused.code, name in refused.error["hint"]) == (10, True)
    for wrong in (operator.token, f"{operator.token}:0000", f"other:{made['token']['serial']}"):
        assert operator.run(*init(operator, "--erase", wrong)).code == 8
    assert {*operator.keys()} == {"acme-main/v1"}
    again = operator.done(*init(operator, "--erase", name))
    assert operator.keys() == {}
    erased = [record for record in operator.records() if record["action"] == "initialize"][-1]["detail"]["erased"]
    assert (erased, again["token"]["label"]) == (made["token"], operator.token)


def test_a_wrong_so_pin_erases_nothing(operator: Operator) -> None:
    operator.open_log()
    made = operator.done(*init(operator))
    operator.done("keygen", "acme-main", *operator.at())
    given = init(operator, "--erase", f"{operator.token}:{made['token']['serial']}")
    operator.secret("so-pin", "99999999")
    ended = operator.run(*given)
    assert (ended.code, ended.error["error"]) == (3, "the token refuses the PIN")
    assert {*operator.keys()} == {"acme-main/v1"}
    assert operator.records()[-1]["phase"] == "failed"


def test_a_token_that_was_left_without_a_user_pin_is_given_it(operator: Operator) -> None:
    operator.open_log()
    given = init(operator)
    operator.secret("pin", "1")  # too short for SoftHSM, which has erased by then
    ended = operator.run(*given)
    assert (ended.code, "too short or too long" in ended.error["error"]) == (3, True)
    operator.done(*init(operator))
    operator.done("keygen", "acme-main", *operator.at())


@pytest.mark.parametrize("label", ["", "a" * 33, "ä" * 17])
def test_a_label_that_does_not_fit_is_refused(operator: Operator, label: str) -> None:
    operator.open_log()
    ended = operator.run("init", "--module", str(operator.softhsm.module), "--token", label, "--log", str(operator.log))
    assert (ended.code, "1 to 32 bytes" in ended.error["error"]) == (2, True)


def test_a_pin_on_the_command_line_is_refused_and_not_repeated(operator: Operator) -> None:
    operator.open_log()
    place = ("--module", str(operator.softhsm.module), "--token", operator.token, "--log", str(operator.log))
    for option in ("--pin", "--so-pin"):
        ended = operator.run("init", *place, option, "86420975")
        assert (ended.code, "must say where the secret is" in ended.error["error"]) == (2, True)
        assert "86420975" not in ended.printed
    ended = operator.run("keygen", "acme-main", *place, "--pin", "86420975")
    assert (ended.code, "86420975" in ended.printed) == (2, False)
