"""Ask an advisory service about every locked dependency: ``make audit``, and a part of ``make lint``.

A known vulnerability fails, unless ``tools/accepted_advisories.toml`` accepts it for a reason and until a day. What
could not be asked is said loudly: pip-audit itself counts a dependency that the service does not know as good. It fails
nothing, so that work without a network goes on, unless OWNKEY_REQUIRE_AUDIT=1 is set: a release must be audited.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCKS = (ROOT / "requirements" / "server.txt", ROOT / "requirements" / "dev.txt")
ACCEPTED = ROOT / "tools" / "accepted_advisories.toml"
SECONDS = 60
REQUIRED = "OWNKEY_REQUIRE_AUDIT"


@dataclass(frozen=True)
class Accepted:
    """An advisory that is known and does no harm here, until a day."""

    id: str
    package: str
    reason: str
    until: date


def accepted(path: Path, today: date) -> Mapping[tuple[str, str], Accepted]:
    """What is accepted, by package and advisory.

    Raises:
        SystemExit: An entry lacks its reason, or its day has passed.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("accepted", [])
    found = {}
    for entry in entries:
        if (
            set(entry) != {"id", "package", "reason", "until"}
            or not entry["reason"]
            or type(entry["until"]) is not date
        ):
            raise SystemExit(f"{path.name}: each entry needs id, package, a reason, and a day in until: {entry}")
        one = Accepted(**entry)
        if one.until < today:
            raise SystemExit(f"{path.name}: {one.id} of {one.package} was accepted until {one.until}: look at it anew")
        found[one.package, one.id] = one
    return found


def ask(lock: Path, options: Sequence[str]) -> Sequence[Mapping[str, Any]] | str:
    """What the service says of each dependency of a lock, or why it could not be asked."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS} s"
    try:
        found: Sequence[Mapping[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return (done.stderr.strip().splitlines() or ["pip-audit failed"])[-1]
    return found


def main(arguments: Sequence[str]) -> int:
    """Audit each lock; arguments go to pip-audit."""
    allowed = accepted(ACCEPTED, datetime.now(UTC).date())
    bad, unknown, asked = [], set(), set()
    for lock in LOCKS:
        found = ask(lock, arguments)
        if isinstance(found, str):
            unknown.add(f"{lock.name} as a whole ({found})")
            continue
        for one in found:
            name = f"{one['name']} {one.get('version', '')}".strip()
            if "skip_reason" in one:
                unknown.add(one["name"])
                continue
            asked.add(name)
            for advisory in one["vulns"]:
                if not {(one["name"], label) for label in (advisory["id"], *advisory["aliases"])} & allowed.keys():
                    fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
                    bad.append(f"{name}: {advisory['id']}, mended in {fixed}")
    for line in sorted(set(bad)):
        print(line)
    if unknown:
        print(
            f"NOT AUDITED: the advisory service told nothing of {len(unknown)} of"
            f" {len(unknown) + len(asked)}: {', '.join(sorted(unknown)[:5])}{', ...' if len(unknown) > 5 else ''}",
            file=sys.stderr,
        )
        if os.environ.get(REQUIRED) == "1":
            return 1
    else:
        print(f"asked of {len(asked)} dependencies: {len(set(bad))} known vulnerabilities that are not accepted")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
