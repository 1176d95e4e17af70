"""The audit trail as a stranger checks it: by plain SQL, SHA-256 and Ed25519, with nothing of the server's own code."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from e2e.durability.load import Received
from ownkey_server.storage.audit import verify as audit_verify
from ownkey_server.storage.audit.signing import load_verifier
from ownkey_server.storage.database import Database

_WRITERS = sa.text("SELECT * FROM audit_writers ORDER BY number")
_RECORDS = sa.text("SELECT * FROM audit_records ORDER BY writer, sequence")


def records(database: Database) -> list[dict[str, Any]]:
    """Every record, by writer and number."""
    with database.reading() as connection:
        return [json.loads(bytes(row.body)) for row in connection.execute(_RECORDS)]


def require_recorded(database: Database, received: Iterable[Received]) -> None:
    """Make sure that the making of each of these data keys is in the trail, with its whole context."""
    made = {
        record["asset"]["id"]: record["context"]
        for record in records(database)
        if (record["action"], record["result"]) == ("generate_data_key", "ok")
    }
    missing = [one.asset_id for one in received if made.get(one.asset_id) != one.context]
    assert not missing, f"{len(missing)} data keys were received, and their making is not recorded: {missing[:5]}"


def require_whole(database: Database, public_key: Path) -> int:
    """Make sure that every chain is whole from its beginning to its signed head; gives the number of writers."""
    key = serialization.load_pem_public_key(public_key.read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    with database.reading() as connection:
        writers = connection.execute(_WRITERS).mappings().all()
        rows = list(connection.execute(_RECORDS).mappings())
    assert [writer["number"] for writer in writers] == list(range(1, len(writers) + 1))
    assert {row["writer"] for row in rows} <= {writer["number"] for writer in writers}
    for writer in writers:
        number, head = writer["number"], bytes(writer["head_hash"])
        sequence, last = _follow(writer, [row for row in rows if row["writer"] == number])
        assert (writer["head_sequence"], head) == (sequence, last), f"writer {number} ends elsewhere than its head"
        statement = b"ownkey audit head v1\0" + struct.pack(">QQQ", number, sequence, writer["head_time"]) + head
        key.verify(bytes(writer["head_signature"]), statement)
    report = audit_verify.verify(database, load_verifier([public_key]))
    assert report.ok, report.findings
    return len(writers)


def _follow(writer: Mapping[Any, Any], rows: list[Any]) -> tuple[int, bytes]:
    number = writer["number"]
    described = bytes(writer["description"])
    assert json.loads(described)["writer"] == number
    last = hashlib.sha256(b"ownkey audit writer v1\0" + described).digest()
    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1)), f"writer {number} has gaps"
    for row in rows:
        body = bytes(row["body"])
        place = struct.pack(">QQ", number, row["sequence"])
        last = hashlib.sha256(b"ownkey audit record v1\0" + place + last + body).digest()
        assert bytes(row["hash"]) == last, f"record {row['sequence']} of writer {number} has another hash"
        assert _agrees(row, json.loads(body)), f"record {row['sequence']} of writer {number} has other columns"
    return len(rows), last


def _agrees(row: Mapping[Any, Any], record: Mapping[str, Any]) -> bool:
    return bool(row["tenant"] == record.get("tenant", ""))


def require_sound(database: Database) -> None:
    """Ask the database itself whether its file is in order, where it can tell."""
    if database.is_sqlite:
        with database.reading() as connection:
            assert connection.execute(sa.text("PRAGMA integrity_check")).scalar_one() == "ok"


def of_action(found: Iterable[Mapping[str, Any]], action: str) -> Iterator[Mapping[str, Any]]:
    """Those that were done and not refused."""
    return (record for record in found if (record["action"], record["result"]) == (action, "ok"))
