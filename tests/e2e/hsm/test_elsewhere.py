"""A custodian at a terminal of their own, in a process of their own, confirms what somebody else runs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ownkey.cli.output import DENIED, INVALID_OBJECT
from support.hsm_operator import Operator

_RUN = "import sys; from ownkey.cli.main import Shared, run; sys.exit(run(sys.argv[1:], Shared()))"
WAIT = ("--wait", "60")


def folder(operator: Operator) -> Path:
    """Where requests are."""
    return operator.log.with_name(operator.log.name + ".requests")


def request_of(operator: Operator, phase: str = "begun", name: str = "bob") -> Path:
    """A request to a custodian, once it is there."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for path in folder(operator).glob(f"*-{phase}-{name}-*.request.json"):
            return path
        time.sleep(0.02)
    raise AssertionError("nobody asks")


def confirm(operator: Operator, request: Path, *more: str, key: str = "bob", name: str = "bob") -> tuple[int, Any, str]:
    """What bob's own process says."""
    given = ["hsm", "ceremony", "confirm", str(request), "--custodian", f"{name}={operator.folder / key}.key"]
    given += ["--passphrase", f"file:{operator.folder / key}.secret", *WAIT, *more, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *given],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    operator.printed.append(done.stdout + done.stderr)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


@contextlib.contextmanager
def bob_does(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Bob at work beside the block, which ends when he is done."""
    with ThreadPoolExecutor(1) as terminal:
        yield terminal.submit(work)


def keygen(operator: Operator, *more: str) -> tuple[str, ...]:
    """Alice is here, and bob elsewhere."""
    return ("keygen", "acme", *operator.at(), *operator.by("alice"), "--custodian", "bob", *WAIT, *more)


def test_one_confirms_here_and_one_elsewhere_what_they_see(two: Operator) -> None:
    with bob_does(lambda: confirm(two, request_of(two), "--log", str(two.log))) as bob:
        made = two.done(*keygen(two))
    code, answer, text = bob.result()
    assert code == 0, text
    assert (answer["custodian"], answer["ceremony"], answer["confirmed"]) == ("bob", 2, [2, 3])
    begun, done = answer["shown"]
    assert begun["to be done"] == "keygen"
    assert begun["key"] == "acme/v1"
    assert two.token in begun["token"]
    assert next(iter(made["check_values"].values())) in done["detail keys"], "he sees the check value that he signs"
    records = two.records()
    assert [one["confirmed_by"] for one in records[1:]] == [["alice", "bob"]] * 2
    assert two.done("ceremony", "verify", "--log", str(two.log))["sound"]
    assert not list(folder(two).iterdir()), "nothing is left of it"


def test_both_elsewhere_are_asked_at_once(two: Operator) -> None:
    def both() -> None:
        requests = {name: request_of(two, name=name) for name in ("alice", "bob")}
        with ThreadPoolExecutor(2) as terminals:
            said = terminals.map(lambda name: confirm(two, requests[name], key=name, name=name), requests)
            assert [code for code, _, _ in said] == [0, 0]

    with bob_does(both) as done:
        two.done("keygen", "acme", *two.at(), "--custodian", "alice", "--custodian", "bob", *WAIT)
    done.result()
    assert two.done("ceremony", "verify", "--log", str(two.log))["sound"]


def test_who_says_no_has_nothing_done(two: Operator) -> None:
    with bob_does(lambda: confirm(two, request_of(two), "--refuse")) as bob:
        ended = two.run(*keygen(two))
    assert bob.result()[0] == DENIED
    assert ended.code == DENIED
    assert "bob does not confirm" in ended.text
    assert len(two.records()) == 1, "it never began"
    assert two.keys() == {}


def test_who_does_not_confirm_what_came_of_it_has_it_undone(two: Operator) -> None:
    def once_and_no() -> None:
        assert confirm(two, request_of(two), "--once")[0] == 0
        assert confirm(two, request_of(two, "done"), "--refuse")[0] == DENIED

    with bob_does(once_and_no) as bob:
        ended = two.run(*keygen(two))
    bob.result()
    assert ended.code == DENIED
    assert [(one["action"], one["phase"]) for one in two.records()[1:]] == [("keygen", "begun"), ("keygen", "failed")]
    assert two.keys() == {}


def test_an_answer_counts_for_its_request_alone(two: Operator) -> None:
    """By another key, for another record, or made up: nothing is done, and it is said what is wrong."""

    def put(content: bytes) -> Callable[[], None]:
        def work() -> None:
            request = request_of(two)
            request.with_name(request.name.replace(".request.", ".answer.")).write_bytes(content)

        return work

    kept: list[bytes] = []

    def keep() -> None:
        request = request_of(two)
        answer = request.with_name(request.name.replace(".request.", ".answer."))
        before = json.loads(request.read_bytes())
        aside = two.folder / "aside"
        aside.mkdir()
        copy = aside / request.name
        copy.write_bytes(request.read_bytes())
        assert confirm(two, copy, "--once")[0] == 0
        kept.append((aside / answer.name).read_bytes())
        before["record"]["key"] = "other/v1"
        copy = aside / f"x-{request.name}"
        copy.write_bytes(json.dumps(before).encode())
        assert confirm(two, copy, "--once")[0] == 0
        answer.write_bytes((aside / f"x-{answer.name}").read_bytes())

    with bob_does(keep) as bob:
        ended = two.run(*keygen(two))
    bob.result()
    assert ended.code == INVALID_OBJECT
    assert "not bob's signature of this request" in ended.text
    two.new_custodian("mallory")
    forged = [
        kept[0],  # of the ceremony before, which was the same
        json.dumps({"kind": "ownkey ceremony answer", "version": 1, "signature": "00" * 64}).encode() + b"\n",
        json.dumps({"kind": "ownkey ceremony answer", "version": 1, "signature": 7}).encode() + b"\n",
        b"\xff{\n",
        b"\n",
        b"[" * 100_000 + b"\n",
    ]
    for content in forged:
        with bob_does(put(content)) as bob:
            ended = two.run(*keygen(two))
        bob.result()
        assert ended.code == INVALID_OBJECT, content
        assert "answer" in ended.text
    with bob_does(lambda: confirm(two, request_of(two), "--once", key="mallory")) as bob:
        ended = two.run(*keygen(two))
    assert ended.code == INVALID_OBJECT
    assert len(two.records()) == 1
    assert two.keys() == {}


def test_nobody_waits_for_ever_and_ctrl_c_leaves_nothing(two: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = two.run(*keygen(two)[:-2], "--wait", "0.5")
    assert ended.code == DENIED
    assert "bob has not confirmed within 0.5 s" in ended.text
    assert not list(folder(two).iterdir())

    def interrupt() -> None:
        request_of(two)
        os.kill(os.getpid(), 2)

    threading.Thread(target=interrupt).start()
    assert two.run(*keygen(two)).code == 130
    assert not list(folder(two).iterdir())
    assert len(two.records()) == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda request: request | {"custodian": "alice"}, "it asks alice, and not bob"),
        (lambda request: request | {"previous": "00" * 32}, "another log, or one of them was changed"),
        (lambda request: request | {"number": 7}, "another log, or one of them was changed"),
        (lambda request: request | {"kind": "letter"}, "no ownkey ceremony request"),
        (lambda request: request | {"record": {}}, "no request of a ceremony"),
        (lambda request: request | {"previous": "0"}, "no request of a ceremony"),
    ],
)
def test_a_request_that_is_not_what_it_should_be_is_not_signed(
    two: Operator, change: Callable[[dict[str, Any]], dict[str, Any]], complaint: str
) -> None:
    said: list[tuple[int, Any, str]] = []

    def work() -> None:
        request = request_of(two)
        changed = two.folder / "changed.request.json"
        changed.write_text(json.dumps(change(json.loads(request.read_bytes()))))
        said.append(confirm(two, changed, "--once", "--log", str(two.log)))

    with bob_does(work) as bob:
        two.run(*keygen(two)[:-2], "--wait", "5")
    bob.result()
    code, _, text = said[0]
    assert code in (DENIED, INVALID_OBJECT)
    assert complaint in text
    assert not (two.folder / "changed.answer.json").exists()


def test_the_log_is_opened_by_those_who_are_here(two: Operator) -> None:
    other = ("ceremony", "open", "--log", str(two.folder / "other.jsonl"), *two.by("alice"), "--custodian", "bob")
    ended = two.run(*other)
    assert ended.code == 2
    assert "bob=KEYFILE" in ended.text
    stranger = two.run(*keygen(two), "--custodian", "carol")
    assert stranger.code == DENIED
    assert "carol is no custodian" in stranger.text


def test_a_key_that_is_not_his_signs_nothing_where_his_log_says_so(two: Operator) -> None:
    ended: list[tuple[int, Any, str]] = []
    with bob_does(lambda: ended.append(confirm(two, request_of(two), "--log", str(two.log), key="alice"))) as bob:
        assert two.run(*keygen(two)[:-2], "--wait", "5").code == DENIED
    bob.result()
    code, _, text = ended[0]
    assert code == DENIED
    assert "nothing was signed" in text
    assert len(two.records()) == 1


def test_a_wait_is_a_number(two: Operator) -> None:
    ended = two.run(*keygen(two)[:-2], "--wait", "nan")
    assert ended.code == 2
    assert "no number of seconds" in ended.text
