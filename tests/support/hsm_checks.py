"""`ownkey hsm check` at tokens of SoftHSM: what it finds, by name, and what it leaves of the token."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ownkey_server.hsm.check.plan import Plan
from ownkey_server.hsm.check.runner import Runner
from ownkey_server.hsm.check.verdicts import Finding, Report, Verdict
from support.softhsm import PIN, SoftHsm

_AT_ANY_LOGIN = ("/token.object", "/generation")
STARTED = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)
_OBJECTS = """
import sys, pkcs11
from pkcs11 import Attribute
module, token, pin = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=token).open(user_pin=pin) as session:
    print(sorted((int(one[Attribute.CLASS]), one[Attribute.LABEL]) for one in list(session.get_objects())))
"""


def plan_for(softhsm: SoftHsm, token: str, *keys: str, module: Path | None = None) -> Plan:
    """A plan that measures nothing, so that it is quick."""
    return Plan(module or softhsm.module, token, keys=keys, speed_seconds=0, sessions=8)


def checked(plan: Plan, pin: str = PIN, **changes: Any) -> Report:
    """The report of a check."""
    return Runner(replace(plan, **changes), pin, lambda _: None).run("test", STARTED)


def found(report: Report, verdict: Verdict) -> list[str]:
    """Names of the lines with a verdict."""
    return [one.name for one in report.findings if one.verdict is verdict]


def line(report: Report, name: str, key: str = "") -> Finding:
    """The only line of that name, of that key where it is given."""
    (one,) = (each for each in report.findings if each.name == name and key in ("", each.key))
    return one


def objects(softhsm: SoftHsm, token: str) -> str:
    """What a token holds, as another program sees it."""
    return softhsm.run_python(_OBJECTS, str(softhsm.module), token, PIN)


def files(softhsm: SoftHsm) -> Mapping[str, str]:
    """Every file of every token, with a digest of what is in it, but for the two that SoftHSM writes at any login."""
    every: Sequence[Path] = sorted(path for path in softhsm.tokens.rglob("*") if path.is_file())
    digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in every}
    return {path: "" if path.endswith(_AT_ANY_LOGIN) else digest for path, digest in digests.items()}
