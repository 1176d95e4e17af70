"""A report in a terminal: a verdict a line, and a chart. What a token says of itself is shown, and moves no cursor."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import click

from ownkey.cli.output import printable
from ownkey_server.hsm.check.steps import SPEED, title_of
from ownkey_server.hsm.check.verdicts import Finding, Report, Speed, Verdict

WIDTH = 118
_INDENT = 8
_BAR = 30
_COLOURS = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red", Verdict.NOTE: "cyan"}
_SAID = {
    Verdict.PASS: "the token will serve",
    Verdict.WARN: "the token will serve; there is something to know",
    Verdict.FAIL: "the token will not serve, or not safely",
    Verdict.NOTE: "nothing was looked at",
}


def summary(report: Report) -> str:
    """The report in a line."""
    counts = ", ".join(f"{report.count(one)} {one.value}" for one in (Verdict.PASS, Verdict.WARN, Verdict.FAIL))
    return f"{report.verdict.value}: {_SAID[report.verdict]} ({counts}; {report.seconds:.0f} s)"


def lines(report: Report, *, blocks: bool) -> Iterator[str]:
    """The report, line by line, in colours.

    Args:
        report: What was found.
        blocks: Whether the terminal can show block characters.
    """
    yield printable(f"token {report.token_label!r} of {report.module}")
    for name, text in report.facts.items():
        yield printable(f"{name:<8}  {text}")
    step = key = ""
    for finding in report.findings:
        if finding.step != step:
            step, key = finding.step, ""
            yield ""
            yield click.style(title_of(step), bold=True)
            if step == SPEED and report.speeds:
                yield from chart(report, blocks=blocks)
        if finding.key != key:
            key = finding.key
            if key:
                yield printable(f"  {key}:")
        yield from _shown(finding)
    yield ""
    yield click.style(summary(report), fg=_COLOURS[report.verdict], bold=True)


def chart(report: Report, *, blocks: bool) -> Iterator[str]:
    """What was measured, as bars."""
    yield f"  {report.mechanism}, 32-byte data keys, a process for each session"
    yield f"  {'sessions':>8}  {'wrap and unwrap, pairs/s':<{_BAR + 9}}{'wrap p50/p99 ms':>17}{'unwrap p50/p99 ms':>19}"
    most = max(one.pairs_per_second for one in report.speeds)
    for one in report.speeds:
        yield _bar(one, most, "█" if blocks else "#")


def _bar(speed: Speed, most: float, block: str) -> str:
    bar = block * max(1, round(_BAR * speed.pairs_per_second / most))
    wrap, unwrap = (f"{one.median_ms:.2f} / {one.p99_ms:.2f}" for one in (speed.wrap, speed.unwrap))
    return f"  {speed.sessions:>8}  {bar:<{_BAR}}{speed.pairs_per_second:>8,.0f} {wrap:>17}{unwrap:>19}"


def _shown(finding: Finding) -> Iterator[str]:
    mark = click.style(f"{finding.verdict.value:<4}", fg=_COLOURS[finding.verdict])
    first, *rest = _wrapped(f"{finding.title}: {finding.seen}")
    yield f"  {mark}  {first}"
    yield from (" " * _INDENT + one for one in rest)
    if finding.verdict is Verdict.PASS:
        return
    for name, text in (("why", finding.why), ("do", finding.to_do)):
        if text:
            first, *rest = _wrapped(text, len(name) + 2)
            yield " " * _INDENT + click.style(f"{name}: ", dim=True) + first
            yield from (" " * (_INDENT + len(name) + 2) + one for one in rest)


def _wrapped(text: str, more: int = 0) -> list[str]:
    shown = printable(text).replace("\n", " ")
    return textwrap.wrap(shown, WIDTH - _INDENT - more, break_long_words=False, break_on_hyphens=False) or [""]
