"""`ownkey hsm check` as its user sees it: options, exit codes, JSON, the report, and how it ends when it is ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.crooked_module import crooked
from support.hsm_checks import objects
from support.hsm_operator import Operator
from support.softhsm import PIN, SoftHsm

QUICK = ("--seconds", "0")


@pytest.fixture(scope="module")
def token(softhsm: SoftHsm) -> Iterator[str]:
    softhsm.make_token("commanded")
    yield "commanded"
    softhsm.delete_token("commanded")


@pytest.fixture
def at(operator: Operator, token: str) -> Operator:
    operator.token = token
    return operator


def test_a_token_of_the_settings(at: Operator) -> None:
    settings = at.settings({"hsm": at.token}, mechanism="aes-key-wrap")
    answer = at.done("check", "--store", "hsm", "--config", str(settings), *QUICK)
    assert (answer["verdict"], answer["counts"]["fail"], answer["mechanism"]) == ("warn", 0, "AES key wrap")
    assert answer["token_label"] == at.token
    assert {one["verdict"] for one in answer["findings"]} == {"pass", "warn", "note"}
    assert all({"name", "title", "seen", "why", "to_do", "key"} <= one.keys() for one in answer["findings"])


def test_warnings_have_an_exit_code_where_that_is_wanted(at: Operator) -> None:
    place = at.at(log=False)
    assert at.run("check", *place, *QUICK).code == 0
    assert at.run("check", *place, *QUICK, "--strict").code == 12
    failing = at.run("check", *place, *QUICK, "--strict", "--key", "none")
    assert (failing.code, failing.answer["verdict"]) == (9, "fail")


def test_a_key_of_a_ceremony_passes(at: Operator, softhsm: SoftHsm) -> None:
    at.open_log()
    at.done("keygen", "acme-main", *at.at())
    answer = at.done("check", *at.at(log=False), *QUICK, "--key", "acme-main/v1")
    of_key = {one["name"]: one["verdict"] for one in answer["findings"] if one["key"] == "acme-main/v1"}
    assert of_key["use.gcm.round_trip"] == of_key["use.gcm.wrong_context"] == "pass"
    assert set(of_key.values()) <= {"pass", "note"}
    softhsm.destroy_key(at.token, "acme-main/v1")


def test_speed_is_measured_with_one_session_and_more(at: Operator) -> None:
    ended = at.run("check", *at.at(log=False), "--seconds", "0.1", as_json=False)
    assert ended.code == 0
    assert "pairs/s" in ended.text
    answer = at.done("check", *at.at(log=False), "--seconds", "0.1")
    assert [one["sessions"] for one in answer["speeds"]] == [1, 2, 4, 8]
    for one in answer["speeds"]:
        assert one["pairs_per_second"] > 0
        assert 0 < one["wrap"]["median_ms"] <= one["wrap"]["p99_ms"] <= one["wrap"]["most_ms"]


def test_the_report_is_one_file_and_is_not_replaced_unasked(at: Operator, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    given = ("check", *at.at(log=False), *QUICK, "--report", str(path))
    answer = at.done(*given)
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert not [word for word in ("src=", "href=", "url(", "<script", "@import") if word in page]
    # Those that did not pass are there twice: first of all, and in their place.
    lines = len(answer["findings"]) + answer["counts"]["warn"] + answer["counts"]["fail"]
    assert page.count('<td class="mark ') == lines
    refused = at.run(*given)
    assert (refused.code, "--force" in refused.error["hint"]) == (10, True)
    at.done(*given, "--force")


def test_people_see_the_steps_and_the_lines(at: Operator) -> None:
    text = at.run("check", *at.at(log=False), *QUICK, as_json=False).text
    for said in ("Changed bytes ...", "  warn  Hardware: ", "why: ", "do: ", "warn: the token will serve"):
        assert said in text


def test_what_is_missing_of_the_place_is_told(at: Operator) -> None:
    assert at.run("check", "--module", str(at.softhsm.module), as_json=False).code == 2
    missing = at.run("check", *at.at(log=False)[:-1], f"file:{at.folder}/none", *QUICK)
    assert missing.code == 2
    assert "cannot be read" in missing.error["error"]


@contextlib.contextmanager
def started(operator: Operator, module: Path) -> Iterator[subprocess.Popen[str]]:
    pin = operator.secret("pin", PIN)
    place = ("--module", str(module), "--token", operator.token, "--pin", pin)
    command = [sys.executable, "-P", "-m", "ownkey.cli", "hsm", "check", *place, "--seconds", "0", "--patience", "60"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def come_to(process: subprocess.Popen[str], step: str) -> int:
    """Wait until it is at a step; the process that has the module."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(step):
            (child,) = children_of(process.pid)
            return child
    raise AssertionError("it has ended before")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_a_check_that_is_ended_leaves_nothing(
    at: Operator, softhsm: SoftHsm, number: signal.Signals, code: int
) -> None:
    before = objects(softhsm, at.token)
    with started(at, crooked(softhsm, "hang-at-wrap")) as process:
        child = os.pidfd_open(come_to(process, "Wrap and unwrap"))
        os.kill(process.pid, number)
        assert process.wait(30) == code
        ended, _, _ = select.select([child], [], [], 30)
        os.close(child)
        assert ended
    assert objects(softhsm, at.token) == before


def test_the_pin_is_in_no_command_line_and_in_no_environment(at: Operator, softhsm: SoftHsm) -> None:
    with started(at, crooked(softhsm, "hang-at-wrap")) as process:
        child = come_to(process, "Wrap and unwrap")
        for pid in (process.pid, child):
            assert PIN.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            with contextlib.suppress(PermissionError):  # hardened: root alone may look
                assert PIN.encode() not in Path(f"/proc/{pid}/environ").read_bytes()


def test_json_is_one_object_and_nothing_else(at: Operator) -> None:
    ended = at.run("check", *at.at(log=False), *QUICK)
    assert json.loads(ended.printed) == ended.answer
