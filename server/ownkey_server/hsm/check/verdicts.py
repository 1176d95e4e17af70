"""What a check finds: a verdict a line, and all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Self

LONGEST_TEXT = 2000


class Verdict(Enum):
    """What a line says of the token, from nothing by way of good to bad."""

    NOTE = "note"
    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"

    @property
    def rank(self) -> int:
        """Greater is worse."""
        return list(Verdict).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        name: What it is about, for machines: ``STEP.WHAT``. The same from release to release.
        verdict: What it says of the token.
        title: What was looked at.
        seen: What was found. Texts of the token or its module may be in it: they are anybody's.
        why: Why it matters; may be empty where it passed.
        to_do: What to do about it; empty where there is nothing.
        key: The key that it is about, if it is about one: its label, or what it was made for.
    """

    name: str
    verdict: Verdict
    title: str
    seen: str
    why: str = ""
    to_do: str = ""
    key: str = ""

    @property
    def step(self) -> str:
        """Which step found it."""
        return self.name.partition(".")[0]

    def plain(self) -> dict[str, str]:
        """As JSON has it."""
        return {**asdict(self), "verdict": self.verdict.value}

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """What ``plain`` gave, from a process that may have gone mad.

        Raises:
            ValueError: It is no finding.
        """
        texts = {}
        for name in ("name", "title", "seen", "why", "to_do", "key"):
            text = fields.get(name)
            if not isinstance(text, str) or len(text) > LONGEST_TEXT:
                raise ValueError(f"{name} is no text")
            texts[name] = text
        return cls(verdict=Verdict(fields.get("verdict")), **texts)


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something took, in milliseconds."""

    median_ms: float
    p99_ms: float
    most_ms: float


@dataclass(frozen=True, slots=True)
class Speed:
    """What some sessions did at the same time, each in a process of its own.

    Attributes:
        sessions: How many.
        pairs_per_second: How many data keys were wrapped and unwrapped again, by all of them.
        wrap: How long a wrap took.
        unwrap: How long an unwrap took.
    """

    sessions: int
    pairs_per_second: float
    wrap: Spread
    unwrap: Spread


@dataclass(frozen=True, slots=True)
class Report:
    """All that a check found.

    Attributes:
        module: Path of the module.
        token_label: The token's label, as it was asked for.
        facts: What library and token say of themselves, by name. Anybody's texts.
        findings: The lines, in the order in which they were found.
        speeds: What was measured; empty where nothing was.
        mechanism: What the speed was measured with.
        version: Of ownkey.
        started: When.
        seconds: How long it took.
    """

    module: str
    token_label: str
    facts: Mapping[str, str]
    findings: tuple[Finding, ...]
    speeds: tuple[Speed, ...]
    mechanism: str
    version: str
    started: datetime
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst of all; a check that found nothing at all has failed."""
        worst = max((one.verdict for one in self.findings), key=lambda one: one.rank, default=Verdict.FAIL)
        return Verdict.FAIL if worst is Verdict.NOTE else worst

    def count(self, verdict: Verdict) -> int:
        """How many lines say that."""
        return sum(one.verdict is verdict for one in self.findings)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "verdict": self.verdict.value,
            "counts": {one.value: self.count(one) for one in Verdict},
            "module": self.module,
            "token_label": self.token_label,
            "facts": dict(self.facts),
            "findings": [one.plain() for one in self.findings],
            "speeds": [asdict(one) for one in self.speeds],
            "mechanism": self.mechanism,
            "ownkey": self.version,
            "started": self.started,
            "seconds": round(self.seconds, 1),
        }
