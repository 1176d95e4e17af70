"""Calls by sipp at 200 a second through Kamailio: what the gate adds to their set-up, and how soon a key's fate counts.

The same calls go through the same Kamailio without the gate in the same minute. Then the key is taken away in mid-run
and given back, and at last the server is killed. sipp, both Kamailios, the server and the next hop share the machine.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import HERE, Result, cpu_seconds, ownkey_server

sys.path.insert(0, str(HERE.parent / "tests"))
from support import kamailio, sipp
from support.kamailio import Kamailio
from support.sipp import Call

RATE = 200
# The server tries a key that no traffic uses so often; what the key's holder did is known after that, and the time that
# a try and an answer take.
PROBE_SECONDS = 1.0
BOUND_SECONDS = PROBE_SECONDS + 1.0
# The server's default: how long its last answer may be used.
VALID_SECONDS = 5.0
AIM_MS = 5.0


def without_the_gate(folder: Path) -> None:
    config = folder / "kamailio.cfg"
    text = config.read_text(encoding="utf-8")
    assert "route(OWNKEY_GATE);" in text
    config.write_text(text.replace("route(OWNKEY_GATE);", ""), encoding="utf-8")


class Lab:
    """Runs calls, and does something to the key or the server meanwhile."""

    def __init__(self, folder: Path, calls: int) -> None:
        self._folder = folder
        self._calls = calls
        self._runs = 0

    def run(self, proxy: Kamailio, *acts: tuple[float, Callable[[], None]]) -> tuple[list[Call], list[float]]:
        """All calls, and when each act was begun: at that share of the run."""
        self._runs += 1
        folder, seconds, done = self._folder / f"run-{self._runs}", self._calls / RATE, []
        port = kamailio.free_port()
        with sipp.calling(folder, proxy.port, port, domain="acme.example", rate=RATE, calls=self._calls) as phones:
            begin = time.time()
            for share, act in acts:
                threading.Event().wait(max(0.0, begin + share * seconds - time.time()))
                done.append(time.time())
                act()
            return phones.wait(), done


def results(quick: bool) -> list[Result]:
    calls = 400 if quick else 2000
    home: list[Path] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ownkey-kamailio-")))
        settings = {"OWNKEY_KEYS__PROBE_INTERVAL_SECONDS": str(PROBE_SECONDS)}
        server = stack.enter_context(ownkey_server(settings=settings, prepare=home.append))
        port = kamailio.free_port()
        stack.enter_context(sipp.answering(folder / "callee", port))
        options = {"next_hop": port, "children": 8, "at_once": 6, "timeout_ms": 300}
        gated = stack.enter_context(kamailio.process(folder / "gated", server.address, **options))
        plain = stack.enter_context(
            kamailio.process(folder / "plain", server.address, harm=without_the_gate, **options)
        )
        lab = Lab(folder, calls)
        lab.run(gated)  # the first answers of all that there is
        spent = [_processor(plain), _processor(gated)]
        without, with_gate = lab.run(plain)[0], lab.run(gated)[0]
        spent = [_processor(proxy) - before for proxy, before in zip((plain, gated), spent, strict=True)]
        # What `ownkey keystore disable` does, without the time that a program takes to start.
        disabled = home[0] / "keys" / "acme-main.disabled"
        longer = Lab(folder / "longer", max(calls, 2000))
        followed, (taken, returned) = longer.run(gated, (0.2, disabled.touch), (0.6, disabled.unlink))
        outlived, (killed,) = longer.run(gated, (0.2, lambda: os.kill(server.pid, signal.SIGKILL)))
    return [
        _added(without, with_gate),
        _added_work(*(1000 * seconds / calls for seconds in spent)),
        _late("calls let through longest after the key was taken away", followed, taken, returned, 200, BOUND_SECONDS),
        _late("calls forbidden longest after the key was given back", followed, returned, None, 403, BOUND_SECONDS),
        _late("calls let through longest after the server was killed", outlived, killed, None, 200, VALID_SECONDS),
    ]


def _ended(calls: Sequence[Call]) -> str:
    return ", ".join(f"{count} with {status or 'nothing'}" for status, count in sorted(_count(calls).items()))


def _count(calls: Sequence[Call]) -> Counter[int]:
    return Counter(call.status for call in calls)


def _milliseconds(calls: Sequence[Call]) -> list[float]:
    return [(call.answered - call.begun) * 1000 for call in calls if call.status == 200]


def _added(without: Sequence[Call], with_gate: Sequence[Call]) -> Result:
    plain, gated = (statistics.quantiles(_milliseconds(calls), n=100) for calls in (without, with_gate))
    added = gated[98] - plain[98]
    return {
        "name": f"what the gate adds to a call's set-up, p99 at {RATE} calls/s",
        "value": round(added, 2),
        "unit": "ms",
        "baseline": f"without the gate p50 {plain[49]:.1f}, p99 {plain[98]:.1f}; with it p50 {gated[49]:.1f},"
        f" p99 {gated[98]:.1f}; {len(with_gate)} calls: {_ended(with_gate)}",
        "runs": 1,
        "aim": AIM_MS,
        "met": added < AIM_MS,
        "added_p50_ms": round(gated[49] - plain[49], 2),
    }


def _processor(proxy: Kamailio) -> float:
    """Processor time of all of its processes."""
    children = Path(f"/proc/{proxy.process.pid}/task/{proxy.process.pid}/children").read_text(encoding="ascii")
    return sum(cpu_seconds(int(pid)) for pid in (proxy.process.pid, *children.split()))


def _added_work(plain: float, gated: float) -> Result:
    return {
        "name": "processor time that the gate adds to a call in Kamailio",
        "value": round(gated - plain, 2),
        "unit": "ms",
        "baseline": f"without the gate {plain:.2f}, with it {gated:.2f}: INVITE, ACK, BYE and their answers",
        "runs": 1,
        "aim": None,
        "met": None,
    }


def _late(name: str, calls: Sequence[Call], since: float, until: float | None, status: int, bound: float) -> Result:
    """The last call that was begun after an act and still ended as before."""
    after = [call for call in calls if call.begun >= since and (until is None or call.begun < until)]
    last = max((call.begun - since for call in after if call.status == status), default=0.0)
    beyond = [call for call in after if call.begun - since > bound]
    return {
        "name": name,
        "value": round(last, 2),
        "unit": "s",
        "baseline": f"calls begun more than {bound:g} s later ended: {_ended(beyond)}; all after it: {_ended(after)}",
        "runs": 1,
        "aim": bound,
        "met": last < bound and len(beyond) > 0,
    }
