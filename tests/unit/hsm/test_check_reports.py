"""Reports: the worst counts, what a process says that may have gone mad is looked at, and nothing gets out of place."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ownkey_server.hsm.check.page import page
from ownkey_server.hsm.check.speed import Times, together
from ownkey_server.hsm.check.terminal import lines, summary
from ownkey_server.hsm.check.verdicts import LONGEST_TEXT, Finding, Report, Speed, Spread, Verdict

SPREAD = Spread(0.5, 1.25, 9.0)


def report(*verdicts: Verdict, speeds: tuple[Speed, ...] = (), seen: str = "seen", **facts: str) -> Report:
    findings = [Finding(f"use.{n}", one, "A title", seen, "a reason", "an act") for n, one in enumerate(verdicts)]
    if speeds:
        findings.append(Finding("speed.latency", Verdict.PASS, "How long", "short"))
    started = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)
    return Report("/lib/hsm.so", "label", facts, tuple(findings), speeds, "AES-GCM", "0.1.0", started, 3.21)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ((), Verdict.FAIL),
        ((Verdict.NOTE,), Verdict.FAIL),
        ((Verdict.NOTE, Verdict.PASS), Verdict.PASS),
        ((Verdict.WARN, Verdict.PASS), Verdict.WARN),
        ((Verdict.PASS, Verdict.FAIL, Verdict.WARN), Verdict.FAIL),
    ],
)
def test_the_worst_counts_and_nothing_is_no_pass(found: tuple[Verdict, ...], verdict: Verdict) -> None:
    assert report(*found).verdict is verdict


def test_a_finding_is_the_same_again() -> None:
    finding = Finding("use.x", Verdict.WARN, "t", "s", "w", "d", "k")
    assert Finding.parse(finding.plain()) == finding


@pytest.mark.parametrize(
    "changes", [{"verdict": "good"}, {"seen": 7}, {"title": None}, {"why": "x" * (LONGEST_TEXT + 1)}]
)
def test_what_is_no_finding_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Finding.parse(Finding("use.x", Verdict.WARN, "t", "s").plain() | changes)


@pytest.mark.parametrize(
    "changes", [{"pairs": 0}, {"seconds": 0}, {"seconds": "x"}, {"wrap": []}, {"unwrap": ["x"]}, {"wrap": 7}]
)
def test_what_is_no_measurement_is_refused(changes: dict[str, object]) -> None:
    good = {"pairs": 10, "seconds": 1.0, "wrap": [1.0], "unwrap": [2.0]}
    assert Times.parse(good).pairs == 10
    with pytest.raises(ValueError, match=r".+"):
        Times.parse(good | changes)


def test_sessions_add_up_and_their_times_are_taken_together() -> None:
    one = Times(100, 1.0, [1.0] * 99, [2.0] * 99)
    slow = Times(10, 2.0, [50.0], [60.0])
    speed = together([one, slow])
    assert (speed.sessions, speed.pairs_per_second) == (2, 105.0)
    assert (speed.wrap.median_ms, speed.wrap.p99_ms, speed.wrap.most_ms) == (1.0, 50.0, 50.0)


def test_a_page_escapes_what_a_token_says() -> None:
    shown = page(report(Verdict.FAIL, seen="<img src=x>\x00\u202e\x1b[2J&", token='"><script>'))
    assert "<img" not in shown
    assert "<script" not in shown
    assert "&lt;img src=x&gt;" in shown
    assert not [c for c in shown if not (c.isprintable() or c == "\n")]


def test_a_page_draws_what_was_measured() -> None:
    speeds = (Speed(1, 1000.0, SPREAD, SPREAD), Speed(2, 500.0, SPREAD, SPREAD))
    shown = page(report(Verdict.PASS, speeds=speeds))
    assert shown.count("<rect ") == 2
    assert 'width="460.0"' in shown
    assert 'width="230.0"' in shown
    assert "1,000/s" in shown


def test_a_chart_in_the_terminal() -> None:
    speeds = (Speed(1, 1000.0, SPREAD, SPREAD), Speed(8, 500.0, SPREAD, SPREAD))
    shown = list(lines(report(Verdict.PASS, speeds=speeds), blocks=False))
    (whole,) = [line for line in shown if "1,000" in line]
    (half,) = [line for line in shown if " 500 " in line]
    assert (whole.count("#"), half.count("#")) == (30, 15)
    assert "0.50 / 1.25" in whole


def test_lines_stay_within_the_width_whatever_is_said() -> None:
    long = report(Verdict.FAIL, seen=" ".join(["word"] * 200) + "\nnew line")
    assert max(len(line) for line in lines(long, blocks=True)) < 140
    assert "fail: the token will not serve, or not safely" in summary(long)
