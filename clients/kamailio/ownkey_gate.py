"""What Kamailio loads: modparam("app_python3", "load", ".../ownkey_gate.py").

Nothing that goes wrong here may keep Kamailio from starting, or from setting up emergency calls: ownkey.cfg tells those
by itself, before it comes here, and refuses other calls while this script cannot decide.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

try:
    import KSR
except ImportError:  # not in Kamailio
    KSR = None

HERE = Path(__file__).resolve().parent
SETTINGS = Path(os.environ.get("OWNKEY_KAMAILIO_SETTINGS") or HERE / "gate.toml")


def mod_init() -> Script:
    """Called by Kamailio, once, before it forks."""
    return Script()


class Script:
    """What Kamailio calls into; each process has its own after the fork."""

    def __init__(self) -> None:
        self._gate: Any = None
        self._asking: Any = None
        self._broken = ""
        try:
            self._load()
        except BaseException as error:  # noqa: BLE001 - not even an exit: Kamailio must start
            self._broken = f"{type(error).__name__}: {error}"
            _error(f"the gate is out of order: {self._broken}")
            if type(error).__name__ != "SettingsError":
                _error(traceback.format_exc())

    def _load(self) -> None:
        sys.path.insert(0, str(HERE))
        from ownkey_kamailio import environment, settings  # noqa: PLC0415 - a fault of theirs must be caught

        self._settings = settings.load(SETTINGS)
        environment.use(self._settings.venv)
        from ownkey import emergency  # noqa: PLC0415
        from ownkey_kamailio import facts, gate, service, workers  # noqa: PLC0415

        environment.require_classes(self._settings)
        self._facts, self._emergency = facts, emergency
        # Loads the numbers of all countries once, before the fork, rather than in each worker at its first call.
        self._is_emergency("+12345")
        no_answer = self._settings.no_answer
        self._workers = workers.Workers(
            self._settings.service.at_once, no_answer.failures, no_answer.pause, time.monotonic, time.sleep
        )
        self._asking = service.Asking(self._settings.service)
        self._gate = gate.Gate(
            self._settings, self._asking, self._workers, monotonic=time.monotonic, now=time.time, log=_error
        )

    def child_init(self, rank: int) -> int:
        """Called by Kamailio in each process; those that take messages have a rank above 0."""
        try:
            if rank > 0 and not self._broken:
                self._workers.enter(rank)
                self._asking.connect()
                self._asking.warm_up()
                KSR.info(f"ownkey: worker {rank} is ready\n")
        except BaseException as error:  # noqa: BLE001 - Kamailio would end
            self._broken = f"{type(error).__name__}: {error}"
            _error(f"the gate is out of order in process {rank}: {self._broken}")
        return 0

    def authorize(self, message: object, argument: str) -> int:  # noqa: ARG002 - what Kamailio passes
        """Called by ownkey.cfg for an INVITE: decides by setting variables, the decision last. 1, or -1 without one."""
        if self._broken:
            return -1
        try:
            decision = self._decide()
        except Exception as error:  # noqa: BLE001 - ownkey.cfg knows what to do without a decision
            _error(f"the gate failed on a call: {type(error).__name__}: {error}\n{traceback.format_exc()}")
            return -1
        if decision.decision == "refuse":
            KSR.info(f"ownkey: call refused with {decision.status}: {decision.why}\n")
            KSR.pv.seti("$var(ownkey_status)", decision.status)
            KSR.pv.sets("$var(ownkey_retry_after)", str(decision.retry_after))
        KSR.pv.sets("$var(ownkey_decision)", decision.decision)
        return 1

    def _is_emergency(self, callee: str) -> bool:
        numbers = self._settings.emergency
        return bool(
            self._emergency.is_emergency(
                callee,
                numbers.countries,
                own_numbers=numbers.own_numbers,
                outside_line_prefixes=numbers.outside_line_prefixes,
            )
        )

    def _decide(self) -> Any:
        from ownkey_kamailio.gate import Decision  # noqa: PLC0415 - loaded already

        if self._is_emergency(_read("$ru")):
            return Decision("emergency", "emergency calls always connect")
        # That is certain now. Whatever goes wrong from here on, and a caller may bring it about, lets no call through.
        KSR.pv.seti("$var(ownkey_doubt)", 0)
        try:
            trusted = _read("$var(ownkey_origin)") == "trusted"
            calls = self._facts.of_request(_read, self._settings, trusted=trusted)
        except self._facts.UnknownTenant as error:
            if self._settings.tenants.unknown == "allow":
                return Decision("allow", f"no tenant's call: {error}")
            return self._gate.refused(f"no tenant's call: {error}")
        except self._facts.FactsTooLong:
            return Decision("refuse", "the request line is too long", 414)
        return self._gate.decide(calls)


def _read(name: str) -> str:
    try:
        value = KSR.pv.get(name)
    except UnicodeDecodeError as error:
        # A caller writes what it likes.
        value = bytes(error.object).decode("utf-8", "replace")
    return "" if value is None else str(value)


def _error(text: str) -> None:
    for line in text.splitlines():
        if KSR is None:
            print(f"ownkey: {line}", file=sys.stderr)
        else:
            KSR.err(f"ownkey: {line}\n")
