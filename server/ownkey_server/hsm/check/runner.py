"""The check as a whole: starts the processes that look, and makes findings of what becomes of them too.

A module that crashes or hangs ends its process and costs its step; the next steps get a process of their own. What a
process says is believed only as far as it makes sense: its memory may have been written over.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from ownkey_server.hsm.check.children import Child, Mad, Silent
from ownkey_server.hsm.check.plan import SESSIONS_AT_ONCE, Plan
from ownkey_server.hsm.check.speed import Times, together
from ownkey_server.hsm.check.steps import SPEED, SPEED_TITLE, STEPS, title_of
from ownkey_server.hsm.check.verdicts import LONGEST_TEXT, Finding, Report, Speed, Verdict

MOST_RESTARTS = 3
_SLOW_MS = 100.0
_FALLS_TO = 0.5
_ISOLATED = (
    "a module that does this takes its process with it: ownkey runs modules in a process of their own and starts it"
    " again, and calls fail meanwhile"
)
_REPORT = "report it to the vendor, with the version of the library; try a newer one"


class Runner:
    """One check.

    Args:
        plan: What to check.
        pin: For the logins: one, and when that has worked one for each process.
        progress: Told what is being done.
        show_noise: Whether what the module itself prints is shown.
    """

    def __init__(self, plan: Plan, pin: str, progress: Callable[[str], None], *, show_noise: bool = False) -> None:
        self._plan = replace(plan, run=secrets.token_hex(4))
        self._pin = pin
        self._progress = progress
        self._show_noise = show_noise
        self._findings: list[Finding] = []
        self._facts: dict[str, str] = {}
        self._speeds: list[Speed] = []
        self._mechanism = ""
        self._stopped = ""
        self._step = ""
        self._is_done = False

    def run(self, version: str, started: datetime) -> Report:
        """Do it all."""
        began = time.monotonic()
        steps = list(STEPS)
        restarts = 0
        while steps:
            left = self._look(steps)
            restarts += bool(left)
            if left and not self._stopped and restarts > MOST_RESTARTS:
                self._stopped = "the module has ended its process too often"
            if self._stopped:
                self._leave_out(left)
                break
            steps = left
        if self._plan.speed_seconds > 0 and not self._stopped:
            self._measure()
        return Report(
            module=str(self._plan.module),
            token_label=self._plan.token_label,
            facts=self._facts,
            findings=tuple(self._findings),
            speeds=tuple(self._speeds),
            mechanism=self._mechanism,
            version=version,
            started=started,
            seconds=time.monotonic() - began,
        )

    def _look(self, steps: Sequence[str]) -> list[str]:
        """Let a process look; gives the steps that it has not come to, without the one that it ended in."""
        self._step, self._is_done = steps[0], False
        with self._child(steps) as child:
            try:
                for event in child.events():
                    self._take(event)
                if not self._is_done:
                    self._end_badly("crash", f"its process ended {child.how_it_ended()}")
            except Silent:
                self._end_badly("hang", f"it has not answered for {self._plan.patience:g} s, and was ended")
            except (Mad, ValueError, KeyError, TypeError):
                self._end_badly("mad", "its process said what it never says: its memory was written over")
        return list(steps[steps.index(self._step) + 1 :])

    def _child(self, steps: Sequence[str]) -> Child:
        return Child(self._plan, steps, self._pin, show_noise=self._show_noise)

    def _take(self, event: dict[str, Any]) -> None:  # noqa: C901, PLR0912 - a kind of line a case
        match event:
            case {"begin": str(step)} if step in STEPS:
                self._step, self._is_done = step, False
                self._progress(title_of(step))
            case {"end": step} if step == self._step:
                self._is_done = True
            case {"finding": dict(fields)}:
                finding = Finding.parse(fields)
                if finding.step != self._step:
                    raise ValueError("a finding of another step")
                self._findings.append(finding)
            case {"fact": [str(name), str(text)]} if len(text) <= LONGEST_TEXT:
                self._facts[name] = text
            case {"alive": str(doing)}:
                self._progress(f"{title_of(self._step)}: {doing}")
            case {"stop": str(reason)}:
                self._stopped = reason
            case {"inventory": str(inventory)}:
                self._plan = self._plan.with_inventory(inventory)
            case {"mechanism": str(name)}:
                self._mechanism = name
            case {"broken": str(answer)}:
                self._fail("broken", "Could be looked at to the end", f"the token answered {answer}")
                if STEPS[self._step].is_first:
                    self._stopped = "the token does not answer as it should"
            case {"unusable": str(reason)}:
                why = "nothing can be looked at without the library"
                to_do = (
                    "--module names the vendor's library, a .so file; its own settings and licences may be missing too"
                )
                title = "The library loads and initializes"
                self._add(Finding(f"{self._step}.loads", Verdict.FAIL, title, reason[:LONGEST_TEXT], why, to_do))
                self._stopped = "the library cannot be used"
            case _:
                raise ValueError("an unknown event")

    def _end_badly(self, name: str, seen: str) -> None:
        self._fail(name, "The module comes back", seen)
        if STEPS[self._step].is_first:
            self._stopped = "the module does not come back"

    def _fail(self, name: str, title: str, seen: str) -> None:
        self._add(Finding(f"{self._step}.{name}", Verdict.FAIL, title, seen, _ISOLATED, _REPORT))

    def _add(self, finding: Finding) -> None:
        self._findings.append(finding)

    def _leave_out(self, steps: Sequence[str]) -> None:
        for step in steps:
            seen = f"not looked at: {self._stopped}"
            self._add(Finding(f"{step}.not_looked_at", Verdict.NOTE, title_of(step), seen))

    def _measure(self) -> None:
        self._step = SPEED
        if not self._mechanism:
            self._stopped = "there is no way to wrap"
            self._leave_out([SPEED])
            return
        for count in SESSIONS_AT_ONCE:
            self._progress(f"{SPEED_TITLE}: {count} session{'s' if count > 1 else ''}")
            try:
                self._speeds.append(self._measure_with(count))
            except (Silent, Mad, _NoSpeed, ValueError, KeyError, TypeError) as error:
                why = "each server process has a session of its own, and they work at the same time"
                seen = f"with {count} sessions: {str(error) or 'the module did not come back'}"
                to_do = "run fewer workers than that, or let the token have more sessions"
                self._add(
                    Finding("speed.sessions", Verdict.FAIL, "Sessions that work at the same time", seen, why, to_do)
                )
                break
        if self._speeds:
            self._judge_speed()

    def _measure_with(self, count: int) -> Speed:
        with contextlib.ExitStack() as stack:
            children, events = [], []
            for _ in range(count):
                # One after the other: SoftHSM writes its token anew at each login, and is not seen by others meanwhile.
                child = stack.enter_context(self._child([SPEED]))
                children.append(child)
                events.append(child.events())
                _next(events[-1], "ready")
            for child in children:
                child.go()
            return together([Times.parse(_next(one, "times")) for one in events])

    def _judge_speed(self) -> None:
        first, last = self._speeds[0], self._speeds[-1]
        best = max(self._speeds, key=lambda one: one.pairs_per_second)
        is_slow = first.unwrap.p99_ms > _SLOW_MS
        self._add(
            Finding(
                "speed.latency",
                Verdict.WARN if is_slow else Verdict.PASS,
                "How long a wrap and an unwrap take",
                f"one session: wrap {first.wrap.median_ms:.2f} ms, unwrap {first.unwrap.median_ms:.2f} ms;"
                f" 99 % within {first.wrap.p99_ms:.2f} ms and {first.unwrap.p99_ms:.2f} ms",
                "every call that opens something waits so long" if is_slow else "",
                "let classes with many assets use branch keys: one unwrap then serves for a lease" if is_slow else "",
            )
        )
        falls = last.pairs_per_second < first.pairs_per_second * _FALLS_TO
        self._add(
            Finding(
                "speed.scaling",
                Verdict.WARN if falls else Verdict.PASS,
                "More sessions",
                f"{first.pairs_per_second:.0f} pairs/s with one session, at the most {best.pairs_per_second:.0f} with"
                f" {best.sessions}, {last.pairs_per_second:.0f} with {last.sessions}",
                "more sessions make the token slower" if falls else "",
                f"run {best.sessions} server processes, and no more" if falls else "",
            )
        )


class _NoSpeed(Exception):
    """A session could not be measured. The message says why."""


def _next(events: Any, wanted: str) -> Any:
    for event in events:
        match event:
            case {"unusable": str(reason)}:
                raise _NoSpeed(reason[:LONGEST_TEXT])
            case {"begin": _} | {"alive": _}:
                continue
            case _ if wanted in event:
                return event[wanted]
            case _:
                raise Mad
    raise _NoSpeed("its process ended")
