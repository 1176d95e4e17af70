"""A written audit trail, and the hands that change it behind its back."""

from __future__ import annotations

from ownkey_server.domain import audit
from ownkey_server.domain.audit_findings import Finding, Kind
from support.audit_trails import Trail, keeper


def write(trail: Trail, *, keep: bool) -> None:
    """Writer 1 ended with 22 records, 2 and 3 run with 13 and 4; in segments of five with two checkpoints if kept."""
    look_after = keeper(trail)
    ended, running, last = trail.writer(), trail.writer("changes"), trail.writer()
    trail.write(ended, 20)
    trail.write(running, 9)
    if keep:
        assert look_after.keep().checkpoints == 1
    ended.close()
    trail.write(running, 3)
    trail.write(last, 3)
    trail.after(minutes=2)
    if keep:
        assert look_after.keep().findings == ()
    assert trail.found() == []


def places(findings: list[Finding]) -> set[tuple[Kind, int, int, int | None]]:
    return {(finding.kind, finding.writer, finding.sequence, finding.last) for finding in findings}


def kinds_at(findings: list[Finding], writer: int, sequence: int) -> set[Kind]:
    """What is found at exactly this place; nothing else may be found of another chain."""
    assert {finding.writer for finding in findings} <= {writer}, findings
    return {finding.kind for finding in findings if finding.sequence == sequence}


def body(trail: Trail, writer: int, sequence: int) -> bytes:
    where = {"writer": writer, "sequence": sequence}
    ((found,),) = trail.rows("SELECT body FROM audit_records WHERE writer = :writer AND sequence = :sequence", **where)
    return bytes(found)


def digest(trail: Trail, writer: int, sequence: int) -> bytes:
    where = {"writer": writer, "sequence": sequence}
    ((found,),) = trail.rows("SELECT hash FROM audit_records WHERE writer = :writer AND sequence = :sequence", **where)
    return bytes(found)


CHANGE_BODY = "UPDATE audit_records SET body = :body WHERE writer = :writer AND sequence = :sequence"


def insert(trail: Trail, writer: int, sequence: int, content: bytes, content_hash: bytes, tenant: str = "acme") -> None:
    trail.run(
        "INSERT INTO audit_records (writer, sequence, time, tenant, body, hash)"
        " VALUES (:writer, :sequence, :time, :tenant, :body, :hash)",
        writer=writer,
        sequence=sequence,
        time=audit.microseconds(trail.now),
        tenant=tenant,
        body=content,
        hash=content_hash,
    )


def make_room(trail: Trail, writer: int, sequence: int) -> None:
    trail.run(
        "UPDATE audit_records SET sequence = -sequence WHERE writer = :writer AND sequence >= :sequence",
        writer=writer,
        sequence=sequence,
    )
    trail.run("UPDATE audit_records SET sequence = 1 - sequence WHERE writer = :writer AND sequence < 0", writer=writer)
