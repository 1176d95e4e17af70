"""The ceremony log: what was done, who confirmed it, and no way to change that unseen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ownkey_server.domain.ceremonies import Phase
from ownkey_server.domain.clock import system_clock
from ownkey_server.hsm import making
from ownkey_server.hsm.ceremony_log import Intent, opened
from ownkey_server.hsm.errors import HsmError
from support.hsm_operator import Operator, named


def verify(operator: Operator, *more: str) -> Any:
    return operator.run("ceremony", "verify", "--log", str(operator.log), *more)


@pytest.fixture
def told(two: Operator) -> Operator:
    """With a log of two custodians and three ceremonies."""
    by = two.by("alice", "bob")
    made = two.done("keygen", "acme-main", *two.at(), *by)
    two.done("rotate", "acme-main", *two.at(), *by)
    two.done("close", "acme-main/v1", *named(made), *two.at(), *by)
    return two


def test_a_log_that_nobody_touched_is_sound(told: Operator) -> None:
    ended = verify(told)
    assert (ended.code, ended.answer["records"], ended.answer["problems"]) == (0, 7, [])
    heads = [line for text in told.printed for line in text.split('"') if line.startswith("3:")]
    assert verify(told, "--head", heads[0]).code == 0


def _changed(lines: list[str], number: int, old: str, new: str) -> list[str]:
    assert old in lines[number], lines[number]
    return [*lines[:number], lines[number].replace(old, new), *lines[number + 1 :]]


CHANGES = {
    "a check value": lambda lines: _changed(lines, 3, '"use":"active"', '"use":"retired"'),
    "who ran it": lambda lines: _changed(lines, 2, '"operator":"', '"operator":"not '),
    "an older record is gone": lambda lines: [*lines[:2], *lines[3:]],
    "two records changed places": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "a record twice": lambda lines: [*lines[:3], lines[2], *lines[3:]],
    "other custodians": lambda lines: _changed(lines, 0, '"needed":2', '"needed":1'),
    "a line of something else": lambda lines: [*lines[:2], '{"a":1}\n', *lines[2:]],
    "no records at all": lambda lines: lines[:1],
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_found_and_nothing_is_added_to_it(told: Operator, name: str) -> None:
    lines = told.log.read_text(encoding="utf-8").splitlines(keepends=True)
    told.log.write_text("".join(CHANGES[name](lines)), encoding="utf-8")
    ended = verify(told)
    assert (ended.code, ended.answer["sound"]) == (6, False)
    refused = told.run("rotate", "acme-main", *told.at(), *told.by("alice", "bob"))
    assert (refused.code, "not as it was written" in refused.error["error"]) == (6, True)


def test_a_log_cut_short_is_found_by_whoever_kept_a_head(told: Operator) -> None:
    lines = told.log.read_text(encoding="utf-8").splitlines(keepends=True)
    head = verify(told).answer["head"]
    told.log.write_text("".join(lines[:-2]), encoding="utf-8")
    assert verify(told).code == 0  # by itself it cannot tell
    ended = verify(told, "--head", head)
    assert (ended.code, "an older copy" in ended.answer["problems"][0]) == (6, True)


def test_whoever_writes_the_log_anew_lacks_the_signatures(told: Operator) -> None:
    """A chain has no secret: its hashes can be computed anew. The custodians' signatures cannot."""
    from ownkey_server.domain import audit
    from ownkey_server.domain.audit_chain import ChainRow
    from ownkey_server.domain.audit_documents import line, read_line

    lines = told.log.read_bytes().splitlines(keepends=True)
    previous, forged = audit.genesis(lines[0].removesuffix(b"\n")), [lines[0]]
    for number, each in enumerate(lines[1:], 1):
        row = read_line(each)
        body = row.body.replace(b'"key":"acme-main/v1"', b'"key":"acme-evil/v1"')
        digest = audit.chained(previous, 1, number, body)
        forged.append(line(ChainRow(1, number, row.time, "", body, digest)))
        previous = digest
    told.log.write_bytes(b"".join(forged))
    problems = verify(told).answer["problems"]
    assert any("the signature of alice is not of this record" in problem for problem in problems)
    assert not any("hash" in problem for problem in problems)


def test_confirmations_count_by_the_key_that_the_log_knows(two: Operator, tmp_path: Path) -> None:
    ended = two.run("keygen", "acme-main", *two.at(), *two.by("alice"))
    assert (ended.code, "2 custodians must confirm this, and 1 did" in ended.error["error"]) == (3, True)
    two.new_custodian("carol")
    ended = two.run("keygen", "acme-main", *two.at(), *two.by("alice", "carol"))
    assert (ended.code, "carol is no custodian" in ended.error["error"]) == (3, True)
    # Somebody who calls themself bob, with a key of their own.
    options = [*two.by("alice", "carol")]
    options = [option.replace("carol=", "bob=", 1) for option in options]
    ended = two.run("keygen", "acme-main", *two.at(), *options)
    assert (ended.code, "bob is no custodian" in ended.error["error"]) == (3, True)
    assert two.keys() == {}


def test_a_wrong_passphrase_opens_no_key_and_is_not_shown(two: Operator) -> None:
    wrong = two.secret("wrong", "not the passphrase at all")
    options = [*two.by("alice"), "--custodian", f"bob={two.folder}/bob.key", "--passphrase", f"bob={wrong}"]
    ended = two.run("keygen", "acme-main", *two.at(), *options)
    assert (ended.code, "the passphrase of bob is wrong" in ended.error["error"]) == (3, True)
    assert "not the passphrase at all" not in ended.printed
    (two.folder / "bob.key").chmod(0o644)
    ended = two.run("keygen", "acme-main", *two.at(), *two.by("alice", "bob"))
    assert (ended.code, ended.error["hint"]) == (2, f"chmod 600 {two.folder}/bob.key")


def test_two_names_with_one_key_are_not_two_custodians(operator: Operator) -> None:
    operator.new_custodian("alice")
    given = [*operator.by("alice"), *(option.replace("alice=", "bob=", 1) for option in operator.by("alice"))]
    ended = operator.run("ceremony", "open", "--log", str(operator.log), *given)
    assert (ended.code, "the same key" in ended.error["error"]) == (2, True)


def test_custodians_change_by_those_who_are_and_those_who_come(two: Operator) -> None:
    two.new_custodian("carol")
    change = ("ceremony", "custodians", "--log", str(two.log), "--add", f"carol={two.folder}/carol.key")
    carol = ("--passphrase", f"carol=file:{two.folder}/carol.secret")
    assert two.run(*change, *two.by("alice"), *carol).code == 3
    two.done(*change, "--remove", "bob", *two.by("alice", "bob"), *carol)
    assert two.run("keygen", "acme-main", *two.at(), *two.by("alice", "bob")).code == 3
    two.done("keygen", "acme-main", *two.at(), *two.by("alice", "carol"))
    ended = verify(two)
    assert (ended.code, {*ended.answer["custodians"]}) == (0, {"alice", "carol"})


def test_one_ceremony_at_a_time(two: Operator) -> None:
    import fcntl

    with two.log.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ended = two.run("keygen", "acme-main", *two.at(), *two.by("alice", "bob"))
    assert (ended.code, "another ceremony is under way" in ended.error["error"]) == (10, True)


def test_a_log_is_never_overwritten_and_is_lines_of_json(told: Operator) -> None:
    before = told.log.read_bytes()
    ended = told.run("ceremony", "open", "--log", str(told.log), "--alone")
    assert (ended.code, told.log.read_bytes()) == (10, before)
    assert all(isinstance(json.loads(line), dict) for line in before.splitlines())
    shown = told.run("ceremony", "show", "--log", str(told.log), as_json=False).printed
    assert "rotate done  acme-main/v2" in shown
    assert "confirmed by alice, bob" in shown


def test_what_nobody_confirmed_is_named_and_an_end_that_was_exchanged_is_found_by_the_head(two: Operator) -> None:
    """A failure is signed by nobody: who can write the file can put one in place of a success that is cut off."""
    two.done("keygen", "acme", *two.at(), *two.by("alice", "bob"))
    sound = two.done("ceremony", "verify", "--log", str(two.log))
    assert sound["notes"] == []
    head, lines = sound["head"], two.log.read_bytes().splitlines(keepends=True)
    two.log.write_bytes(b"".join(lines[:-1]))
    with opened(two.log, system_clock) as log:
        begun = log.checked.records[2]
        intent = Intent(begun.action, begun.tokens, begun.key, begun.detail)
        log.append(log.record(intent, Phase.FAILED, 2, {"why": "nothing to see here"}))
    forged = two.done("ceremony", "verify", "--log", str(two.log))
    assert forged["sound"]
    assert any("confirmed by nobody" in note and "record 3" in note for note in forged["notes"])
    assert two.run("ceremony", "verify", "--log", str(two.log), "--head", head).code == 6


def test_a_failure_is_confirmed_by_the_custodians_who_are_here_and_one_that_somebody_made_up_is_not(
    two: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both failed, says the log: only of the one that did there is a signature."""

    def refused(*_: object) -> None:
        raise HsmError("it did not work")

    with monkeypatch.context() as patch:
        patch.setattr(making, "prove", refused)
        assert two.run("keygen", "acme", *two.at(), *two.by("alice", "bob")).code != 0
    failed = two.records()[-1]
    assert (failed["phase"], failed["confirmed_by"]) == ("failed", ["alice", "bob"])
    assert two.done("ceremony", "verify", "--log", str(two.log))["notes"] == []
    # A success whose record is cut off, and a failure in its place, by somebody without a custodian's key.
    two.done("keygen", "acme", *two.at(), *two.by("alice", "bob"))
    lines = two.log.read_bytes().splitlines(keepends=True)
    two.log.write_bytes(b"".join(lines[:-1]))
    with opened(two.log, system_clock) as log:
        begun = log.checked.records[4]
        intent = Intent(begun.action, begun.tokens, begun.key, begun.detail)
        log.append(log.record(intent, Phase.FAILED, 4, {"why": "it did not work"}))
    (note,) = two.done("ceremony", "verify", "--log", str(two.log))["notes"]
    assert "record 5" in note
    assert "record 3" not in note
