"""Ask an advisory service about every locked dependency: ``make audit``, and a part of ``make lint``.

A known vulnerability fails, unless ``tools/accepted_advisories.toml`` accepts it for a reason and until a day. What
could not be asked is said loudly: pip-audit itself counts a dependency that the service does not know as good. Whether
that fails is up to OWNKEY_REQUIRE_AUDIT:

- not set: it does not. Work without a network goes on.
- ``if-reachable``, as CI sets it: it does where the service has told of some dependency, so that it could be reached.
  Where it told of none, as behind a mirror without advisories, nothing that a commit could mend is wrong.
- ``1``: it does. A release must be audited.

The verdict is in ``build/audit.txt`` too, for whoever reads the end of a long log.
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
LOCKS = tuple(ROOT / "requirements" / f"{name}.txt" for name in ("server", "dev", "emulators"))
VERDICT = ROOT / "build" / "audit.txt"
ACCEPTED = ROOT / "tools" / "accepted_advisories.toml"
SECONDS = 60
REQUIRED = "OWNKEY_REQUIRE_AUDIT"
ALWAYS, IF_REACHABLE = "1", "if-reachable"


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


def _required() -> str:
    required = os.environ.get(REQUIRED, "")
    if required not in ("", ALWAYS, IF_REACHABLE):
        raise SystemExit(f"{REQUIRED} must be {ALWAYS} or {IF_REACHABLE}, or not be set")
    return required


def main(arguments: Sequence[str]) -> int:
    """Audit each lock; arguments go to pip-audit."""
    required = _required()
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
        verdict = (
            f"NOT AUDITED: the advisory service told nothing of {len(unknown)} of"
            f" {len(unknown) + len(asked)}: {', '.join(sorted(unknown)[:5])}{', ...' if len(unknown) > 5 else ''}"
        )
        print(verdict, file=sys.stderr)
    else:
        verdict = f"asked of {len(asked)} dependencies: {len(set(bad))} known vulnerabilities that are not accepted"
        print(verdict)
    VERDICT.parent.mkdir(exist_ok=True)
    VERDICT.write_text(f"{verdict}\n", encoding="utf-8")
    if unknown and (required == ALWAYS or (required == IF_REACHABLE and asked)):
        return 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
