"""A module that crashes, hangs or lies gets its verdict, and nothing else breaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ownkey_server.hsm.check.page import page
from ownkey_server.hsm.check.terminal import lines
from ownkey_server.hsm.check.verdicts import Report, Verdict
from support.crooked_module import crooked
from support.hsm_checks import checked, found, line, objects, plan_for
from support.softhsm import SoftHsm


@pytest.fixture(scope="module")
def token(softhsm: SoftHsm) -> Iterator[str]:
    softhsm.make_token("crooked")
    yield "crooked"
    softhsm.delete_token("crooked")


def report_of(softhsm: SoftHsm, token: str, *ways: str, **changes: float) -> Report:
    return checked(plan_for(softhsm, token, module=crooked(softhsm, *ways)), **changes)


def test_one_that_crashes_costs_the_step_and_no_more(softhsm: SoftHsm, token: str) -> None:
    before = objects(softhsm, token)
    report = report_of(softhsm, token, "crash-at-decrypt")
    assert found(report, Verdict.FAIL) == ["use.crash", "tamper.crash", "lifecycle.crash"]
    assert line(report, "use.crash").seen == "its process ended by signal 11 (SIGSEGV)"
    assert line(report, "export.wrapped").verdict is Verdict.PASS
    assert line(report, "traces.objects").verdict is Verdict.PASS
    assert objects(softhsm, token) == before


def test_one_that_crashes_as_it_starts(softhsm: SoftHsm, token: str) -> None:
    report = report_of(softhsm, token, "crash-at-start")
    assert found(report, Verdict.FAIL) == ["library.crash"]


def test_one_that_hangs_is_ended(softhsm: SoftHsm, token: str) -> None:
    report = report_of(softhsm, token, "hang-at-wrap", patience=1.5)
    assert found(report, Verdict.FAIL) == ["use.hang", "tamper.hang", "export.hang"]
    assert line(report, "traces.objects").verdict is Verdict.PASS


def test_one_that_hangs_in_the_end_only_is_not_measured(softhsm: SoftHsm, token: str) -> None:
    report = report_of(softhsm, token, "crash-at-decrypt", speed_seconds=0.1)
    assert line(report, "speed.sessions").verdict is Verdict.FAIL
    assert not report.speeds


def test_one_that_writes_over_our_memory(softhsm: SoftHsm, token: str) -> None:
    report = report_of(softhsm, token, "scribbles")
    assert found(report, Verdict.FAIL) == ["use.mad", "tamper.mad", "lifecycle.mad"]


def test_one_that_opens_changed_bytes(softhsm: SoftHsm, token: str) -> None:
    report = report_of(softhsm, token, "no-tag")
    assert found(report, Verdict.FAIL) == ["use.gcm.wrong_context", "tamper.gcm.refused"]
    assert "byte 0 flipped" in line(report, "tamper.gcm.refused").seen


def test_one_that_shows_its_keys(softhsm: SoftHsm, token: str) -> None:
    report = report_of(softhsm, token, "shows-keys")
    values = [one for one in report.findings if one.name == "keys.value"]
    assert values
    assert all(one.verdict is Verdict.FAIL for one in values)


def test_one_whose_generator_stands_still(softhsm: SoftHsm, token: str) -> None:
    report = report_of(softhsm, token, "constant-random")
    assert found(report, Verdict.FAIL) == ["use.gcm.fresh_iv", "random.sanity"]


def test_one_that_logs_nobody_out(softhsm: SoftHsm, token: str) -> None:
    # Of a key of the session that is a warning; of one that is kept in the token it is not.
    assert "lifecycle.logout" in found(report_of(softhsm, token, "no-logout"), Verdict.WARN)
    softhsm.make_key(token, "kept", "SENSITIVE", "ENCRYPT", "DECRYPT")
    report = checked(plan_for(softhsm, token, "kept", module=crooked(softhsm, "no-logout")))
    assert found(report, Verdict.FAIL) == ["lifecycle.logout"]
    assert line(report, "lifecycle.logout").seen == "used: kept"
    softhsm.destroy_key(token, "kept")


def test_one_with_few_sessions_is_told_and_not_used_up(softhsm: SoftHsm, token: str) -> None:
    report = report_of(softhsm, token, "few-sessions")
    assert line(report, "sessions.limit").seen.startswith("at most 6")
    assert found(report, Verdict.WARN) == ["token.hardware", "sessions.limit"]
    assert not found(report, Verdict.FAIL)


def test_one_that_keeps_what_it_is_not_to_keep_is_cleared(softhsm: SoftHsm, token: str) -> None:
    before = objects(softhsm, token)
    report = report_of(softhsm, token, "keeps-keys")
    assert {"lifecycle.session_keys", "traces.objects"} <= {*found(report, Verdict.WARN), *found(report, Verdict.FAIL)}
    assert "and were removed" in line(report, "traces.objects").seen
    assert objects(softhsm, token) == before


def test_one_that_leaves_a_function_out(softhsm: SoftHsm, token: str) -> None:
    report = report_of(softhsm, token, "leaves-out")
    assert line(report, "library.functions").seen == "left out: C_WrapKey"
    assert line(report, "library.functions").verdict is Verdict.FAIL


def test_what_a_token_says_of_itself_is_shown_and_never_obeyed(softhsm: SoftHsm, token: str) -> None:
    report = report_of(softhsm, token, "hostile-names", "prints")
    assert "<script>alert(1)</script>" in report.facts["library"]
    shown = page(report)
    assert "<script" not in shown
    assert "<img" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "\u202e" not in shown
    terminal = "\n".join(lines(report, blocks=True))
    assert "\x1b[2J" not in terminal
    assert "\u202e" not in terminal


@pytest.mark.parametrize("name", ["nothing.so", "text.so"])
def test_a_file_that_is_no_module(softhsm: SoftHsm, token: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "text.so").write_text("no module")
    report = checked(plan_for(softhsm, token, module=tmp_path / name))
    assert found(report, Verdict.FAIL) == ["library.loads"]
    assert name in line(report, "library.loads").seen


def test_a_library_that_others_may_change(softhsm: SoftHsm, token: str) -> None:
    module = crooked(softhsm, "as-it-is")
    module.chmod(0o777)
    assert "library.file" in found(checked(plan_for(softhsm, token, module=module)), Verdict.WARN)


def test_one_that_ignores_trust_is_told(softhsm: SoftHsm, token: str) -> None:
    report = report_of(softhsm, token, "ignores-trust")
    assert found(report, Verdict.FAIL) == ["export.trusted"]
    assert "under a key that nobody trusts" in line(report, "export.trusted").seen
