"""How fast the SDK's gate decides, by a view in memory: decisions a second on one core, and the time of one."""

from __future__ import annotations

import itertools
import time

from harness import Result

from ownkey.call_gate import CallGate
from ownkey.gate import Choices, Gate, KeySight, Numbers, Rule
from ownkey.gate.view import PolicyLine, Revocation, View

SAMPLES = 200_000


def tenant_view(rules: int) -> View:
    """A view with so many rules that do not match, and a default."""
    refuse = Choices("refuse", "refuse", "refuse", "refuse", grace=60)
    lines = [Rule(f"r{n}", refuse, sites=frozenset({f"s{n}"}), callees=Numbers.of(["+49"])) for n in range(rules)]
    return View(
        Gate((*lines, Rule("default", refuse)), ("US",), ("9",)),
        (PolicyLine("voicemail", "k2", frozenset({"phone_voicemail"})), PolicyLine("default", "k")),
        (Revocation("queue", queues=frozenset({"support"})),),
    )


def results(quick: bool) -> list[Result]:
    """The time of one decision, for each kind of call."""
    found = []
    with CallGate("unix:/nonexistent/ownkey.sock", staleness=3600) as gate:
        for rules in (0, 20):
            followed = gate._follow("acme")  # noqa: SLF001 - the view without a service
            keys = {name: KeySight(name, "available", "", 1.0, 1.0) for name in ("k", "k2")}
            followed.seen = (tenant_view(rules), keys, time.monotonic())
            for name, callee in (("recorded call", "+1555%07d"), ("emergency call", "911")):
                found.append(measured(gate, f"CallGate, {name}, {rules} rules", callee, 1.0 if quick else 5.0))
    return found


def measured(gate: CallGate, name: str, callee: str, seconds: float) -> Result:
    """Decide for so long, with other numbers every time."""
    callees = [callee % n if "%" in callee else callee for n in range(10_000)]
    times: list[float] = []
    began = time.perf_counter()
    for number in itertools.cycle(callees):
        start = time.perf_counter()
        gate.authorize("acme", "call-1", number, caller="+15550100", user="ann", stores=("phone_recording",))
        end = time.perf_counter()
        if len(times) < SAMPLES:
            times.append(end - start)
        if end - began > seconds:
            break
    times.sort()
    p50, p99 = (times[int(len(times) * share)] * 1e6 for share in (0.5, 0.99))
    return {
        "name": name,
        "value": round(p99, 1),
        "unit": "microseconds, p99",
        "aim": None,
        "met": None,
        "baseline": f"p50 {p50:.1f} us, {len(times) / sum(times):,.0f} decisions/s on one core",
        "runs": len(times),
    }
