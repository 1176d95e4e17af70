"""Refusals are in the audit trail, each of them counted, when the server has stopped at the latest."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from support.access import DOMAIN, Lab

MOST_APART = 20


def test_whoever_cycles_tenants_makes_few_records_and_every_refusal_is_counted(tmp_path: Path) -> None:
    lab = Lab(tmp_path, extra="[limits]\nprincipal_calls_per_second = 30\nburst_seconds = 2\n")
    with lab.running():
        nobody = lab.by_certificate(lab.authority.issue("nobody", uris=[f"{DOMAIN}/nobody"]))
        answers = [nobody("KeyStatus", tenant=f"t{number}").reason for number in range(100)]
        stranger = lab.by_certificate(lab.authority.issue("stranger"))
        unknown = [stranger("KeyStatus", tenant="acme").reason for _ in range(10)]
    assert set(unknown) == {"UNAUTHENTICATED"}
    assert set(answers) == {"PERMISSION_DENIED", "RATE_LIMITED"}
    found = [one for one in records(lab) if one["action"] == "access"]
    mine = [one for one in found if one["principal"] == f"{DOMAIN}/nobody"]
    assert len(mine) <= MOST_APART + 2
    for reason in ("PERMISSION_DENIED", "RATE_LIMITED"):
        assert sum(told(one, reason) for one in mine) == answers.count(reason), reason
    [total] = [one for one in mine if "refusals" in one["detail"]]
    assert int(total["detail"]["tenants"]) == answers.count("PERMISSION_DENIED") - MOST_APART
    others = [one for one in found if one["principal"] == "unauthenticated"]
    assert sum(told(one, "UNAUTHENTICATED") for one in others) == len(unknown)


def told(record: dict[str, Any], reason: str) -> int:
    """How many refusals for that reason a record tells of."""
    detail = record["detail"]
    if "reasons" in detail:
        return int(detail["reasons"].get(reason, 0))
    return int(detail.get("repeated", 1)) if record["reason"] == reason else 0


def records(lab: Lab) -> list[dict[str, Any]]:
    """The whole trail of a server that has stopped."""
    [path] = (lab.folder / "server").glob("*.db")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT body FROM audit_records ORDER BY writer, sequence").fetchall()
    database.close()
    return [json.loads(body) for (body,) in rows]
