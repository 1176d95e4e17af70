"""What a step in the child process writes down: findings, facts and signs of life."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ownkey_server.hsm.check.verdicts import LONGEST_TEXT, Finding, Verdict


class Notes:
    """Where a step writes.

    Args:
        step: Its name.
        send: Takes a line to the process that started this one.
    """

    def __init__(self, step: str, send: Callable[[dict[str, Any]], None]) -> None:
        self._step = step
        self._send = send

    def alive(self, doing: str) -> None:
        """Say what is being done: the patience begins anew."""
        self._send({"alive": doing})

    def fact(self, name: str, text: str) -> None:
        """Something that library or token says of itself."""
        self._send({"fact": [name, text[:LONGEST_TEXT]]})

    def tell(self, name: str, value: Any) -> None:
        """Something for the process that started this one."""
        self._send({name: value})

    def passed(self, name: str, title: str, seen: str, *, why: str = "", key: str = "") -> None:
        """All is as it should be."""
        self._find(name, Verdict.PASS, title, seen, why, "", key)

    def warned(self, name: str, title: str, seen: str, why: str, to_do: str, *, key: str = "") -> None:
        """It will serve, and there is something to know."""
        self._find(name, Verdict.WARN, title, seen, why, to_do, key)

    def failed(self, name: str, title: str, seen: str, why: str, to_do: str, *, key: str = "") -> None:
        """It will not serve, or not safely."""
        self._find(name, Verdict.FAIL, title, seen, why, to_do, key)

    def noted(self, name: str, title: str, seen: str, why: str = "", to_do: str = "", *, key: str = "") -> None:
        """Something to know that is neither good nor bad, or that was not looked at."""
        self._find(name, Verdict.NOTE, title, seen, why, to_do, key)

    def decided(
        self, good: bool, name: str, title: str, seen: str, why: str, to_do: str, *, key: str = "", mild: bool = False
    ) -> None:
        """Passed where it is good; else failed, or warned where that is ``mild``."""
        if good:
            self.passed(name, title, seen, why=why, key=key)
        elif mild:
            self.warned(name, title, seen, why, to_do, key=key)
        else:
            self.failed(name, title, seen, why, to_do, key=key)

    def _find(self, name: str, verdict: Verdict, title: str, seen: str, why: str, to_do: str, key: str) -> None:
        finding = Finding(f"{self._step}.{name}", verdict, title, seen[:LONGEST_TEXT], why, to_do, key[:LONGEST_TEXT])
        self._send({"finding": finding.plain()})
