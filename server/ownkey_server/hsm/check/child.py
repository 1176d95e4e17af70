"""The process that has the vendor's module: ``python -m ownkey_server.hsm.check.child DESCRIPTOR``.

It reads a request from its standard input, one line of JSON with the plan and the PIN, and writes what it finds to the
descriptor, a line each. It ends its sessions, whatever happens, also when it is told to end (SIGTERM), and does not
outlive the process that started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from ownkey_server import hardening
from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import Bench, opened
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.hsm.check.plan import Plan
from ownkey_server.hsm.check.speed import Runner
from ownkey_server.hsm.check.steps import SPEED, STEPS
from ownkey_server.hsm.processes import end_with_parent

Send = Callable[[dict[str, Any]], None]


class _Ended(BaseException):
    """Somebody wants this process to end."""


def main() -> None:
    """Do what is asked."""
    end_with_parent()
    hardening.harden()
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    request = json.loads(sys.stdin.readline())
    pin = request.pop("pin")
    with open(descriptor, "w", encoding="utf-8", closefd=True) as lines:

        def send(event: dict[str, Any]) -> None:
            lines.write(json.dumps(event) + "\n")
            lines.flush()

        try:
            _work(Plan.parse(request["plan"]), request["steps"], lambda: str(pin), send)
        except (_Ended, BrokenPipeError):
            sys.exit(1)


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise _Ended


def _work(plan: Plan, steps: list[str], pin: Callable[[], str], send: Send) -> None:
    send({"begin": steps[0]})
    try:
        with opened(plan, pin) as bench:
            if steps == [SPEED]:
                _measure(bench, plan, send)
            else:
                _look(bench, steps, send)
    except Exception as error:  # noqa: BLE001 - of the loading, and of what is measured
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        send({"unusable": f"{error}{cause}" if str(error) else answer_of(error)})
        send({"end": steps[0]})


def _look(bench: Bench, steps: list[str], send: Send) -> None:
    stopped = False

    def sent(event: dict[str, Any]) -> None:
        nonlocal stopped
        stopped |= "stop" in event
        send(event)

    for step in steps:
        if step != steps[0]:
            send({"begin": step})
        try:
            STEPS[step].look(bench, Notes(step, sent))
        except Exception as error:  # noqa: BLE001 - a token may answer anything anywhere
            send({"broken": answer_of(error)})
        send({"end": step})
        if stopped:
            return


def _measure(bench: Bench, plan: Plan, send: Send) -> None:
    notes = Notes(SPEED, send)
    runner = Runner(bench)
    send({"ready": True})
    sys.stdin.readline()
    send({"times": runner.run(plan.speed_seconds, notes)})
    send({"end": SPEED})


if __name__ == "__main__":
    main()
