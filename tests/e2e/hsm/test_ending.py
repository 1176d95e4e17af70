"""Taking the rights of a key is agreed to by somebody who says which key it is: at a terminal, or by an option."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from ownkey_server.commands.hsm.confirming import CeremonyChoice
from support.hsm_operator import Operator, named


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("command", ["close", "retire"])
@pytest.mark.parametrize("options", [(), ("--yes",)])
def test_without_a_terminal_nothing_happens_to_a_key_that_was_not_named(
    alone: Operator, command: str, options: tuple[str, ...]
) -> None:
    made = alone.done("keygen", "acme-main", *alone.at())
    before = alone.keys()
    for as_json in (True, False):
        ended = alone.run(command, "acme-main/v1", *options, *alone.at(), as_json=as_json)
        assert ended.code == 2
        assert "--confirm acme-main/v1:CHECKVALUE" in ended.printed
    for wrong in ("acme-main/v1:000000", "acme-main/v1", f"acme-other/v1:{made['check_values']['aes-ecb']}"):
        ended = alone.run(command, "acme-main/v1", "--confirm", wrong, *options, *alone.at())
        assert (ended.code, "names another key" in ended.error["error"]) == (3, True)
    assert (alone.keys(), len(alone.records())) == (before, 3)
    alone.done(command, "acme-main/v1", *named(made), *alone.at())
    assert alone.keys() != before


@pytest.mark.parametrize(
    ("typed", "code", "use"), [("n\n", 3, "active"), ("", 130, "active"), ("y\n", 0, "opens-only")]
)
def test_at_a_terminal_somebody_is_asked_with_the_check_value(
    alone: Operator, monkeypatch: pytest.MonkeyPatch, typed: str, code: int, use: str
) -> None:
    made = alone.done("keygen", "acme-main", *alone.at())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", Terminal(typed))
        ended = alone.run("close", "acme-main/v1", *alone.at(), as_json=False)
    assert f"acme-main/v1 (check value {made['check_values']['aes-ecb']})" in ended.printed
    assert (ended.code, alone.keys()["acme-main/v1"]["use"]) == (code, use)


def test_a_check_value_is_taken_as_the_list_tells_it_or_bare(operator: Operator) -> None:
    operator.softhsm.make_token(operator.token)
    operator.open_log()
    config = operator.settings({"hsm": operator.token}, mechanism="aes-key-wrap")
    at = ("--config", str(config), "--log", str(operator.log))
    value = operator.done("keygen", "acme-main", *at)["check_values"]["rfc3394"]
    operator.done("close", "acme-main/v1", "--confirm", f"acme-main/v1:rfc3394:{value}", *at)
    operator.done("retire", "acme-main/v1", "--confirm", f"acme-main/v1:{value}", *at)


@pytest.mark.parametrize("command", ["close", "retire"])
def test_a_key_that_was_exchanged_under_its_label_is_not_the_one_that_is_named(alone: Operator, command: str) -> None:
    made = alone.done("keygen", "acme-main", *alone.at())
    alone.softhsm.destroy_key(alone.token, "acme-main/v1")
    alone.softhsm.make_key(alone.token, "acme-main/v1", "SENSITIVE", "ENCRYPT", "DECRYPT")
    before = alone.keys()
    ended = alone.run(command, "acme-main/v1", *named(made), *alone.at())
    assert (ended.code, "names another key" in ended.error.get("error", "")) == (3, True)
    assert alone.keys() == before


def test_of_replicas_that_are_not_one_key_none_is_touched(operator: Operator) -> None:
    tokens = [f"{operator.token}-{name}" for name in "ab"]
    for token in tokens:
        operator.softhsm.make_token(token)
        operator.softhsm.make_key(token, "acme-main/v1", "SENSITIVE", "ENCRYPT", "DECRYPT")
    operator.open_log()
    config = operator.settings({f"hsm-{number}": token for number, token in enumerate(tokens)})
    at = ("--config", str(config), "--store", "hsm-0", "--replica", "hsm-1", "--log", str(operator.log))
    values = [operator.keys(token)["acme-main/v1"]["check_values"]["aes-ecb"] for token in tokens]
    for value in values:
        ended = operator.run("close", "acme-main/v1", "--confirm", f"acme-main/v1:{value}", *at)
        assert (ended.code, "names another key" in ended.error.get("error", "")) == (3, True)
    assert {operator.keys(token)["acme-main/v1"]["use"] for token in tokens} == {"active"}


@pytest.mark.parametrize("command", ["close", "retire"])
def test_a_key_that_is_exchanged_after_it_was_named_keeps_its_rights(
    alone: Operator, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    made = alone.done("keygen", "acme-main", *alone.at())
    custodians = CeremonyChoice.custodians

    def exchanged(choice: CeremonyChoice, *arguments: Any) -> Any:
        """Custodians who take their time, in which another program is at the token."""
        alone.softhsm.destroy_key(alone.token, "acme-main/v1")
        alone.softhsm.make_key(alone.token, "acme-main/v1", "SENSITIVE", "ENCRYPT", "DECRYPT")
        return custodians(choice, *arguments)

    monkeypatch.setattr(CeremonyChoice, "custodians", exchanged)
    ended = alone.run(command, "acme-main/v1", *named(made), *alone.at())
    assert (ended.code, "not as it was" in ended.error["error"]) == (10, True)
    monkeypatch.undo()
    assert alone.keys()["acme-main/v1"]["use"] == "active"
    assert alone.records()[-1]["phase"] == "failed"
