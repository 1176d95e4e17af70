"""docs/audit.md says what is so: a verifier written from it opens its example, and what ownkey writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from interop import audit_verifier
from ownkey_server.domain.audit import Action, Result
from ownkey_server.domain.audit_documents import line
from ownkey_server.storage.audit.export import read_records
from ownkey_server.storage.audit.signing import public_path
from ownkey_server.storage.audit.sink import DirectorySink
from ownkey_server.storage.audit.verify_chain import GONE
from ownkey_server.storage.schema import METADATA
from support import audit_trails
from support.audit_trails import keeper

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")


def block(after: str, kind: str) -> bytes:
    """The block of text that stands after this one."""
    found = re.search(rf"```{kind}\n(.*?)```", PAGE[PAGE.index(after) :], flags=re.DOTALL)
    assert found
    return found[1].encode()


@pytest.fixture
def example(tmp_path: Path) -> Path:
    for name in re.findall(r"^`((?:writers|checkpoints)/[0-9/-]*\.jsonl?)`:$", PAGE, flags=re.MULTILINE):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(block(f"\n`{name}`:", "json"))
    return tmp_path


def test_the_example_is_good(example: Path) -> None:
    pem = block("The public key:", "pem")
    assert audit_verifier.check_sink(example, pem) == 3
    content = next(example.glob("writers/*/*.jsonl")).read_bytes()
    body, _ = audit_verifier.split_line(content.splitlines(keepends=True)[0])
    assert f"The genesis of the writer is `{audit_verifier.genesis(body, 1).hex()}`" in PAGE
    time, signature = re.findall(r"time ([0-9]{16}), is\s+`([0-9a-f]{128})`", PAGE)[0]
    sequence, head = audit_verifier.check_chain(content, 1, 0, None)
    key = audit_verifier.public_key(pem)
    audit_verifier.check_head(key, 1, sequence, int(time), head, bytes.fromhex(signature))
    with pytest.raises(InvalidSignature):
        audit_verifier.check_head(key, 1, sequence - 1, int(time), head, bytes.fromhex(signature))


def test_what_ownkey_writes_is_good(tmp_path: Path) -> None:
    folder = tmp_path / "sink"
    folder.mkdir()
    with audit_trails.trail(tmp_path) as trail:
        writers, look_after = [trail.writer() for _ in range(3)], keeper(trail, DirectorySink(folder))
        for _ in range(3):
            for writer in writers:
                trail.write(writer, 4)
            trail.after(minutes=2)
            look_after.keep()
        (public,) = trail.signer.verifier._public_keys
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        assert audit_verifier.check_sink(folder, pem) == 30
        # A complete export, without the sink.
        rows = sorted(read_records(trail.database, limit=1000), key=lambda row: (row.writer, row.sequence))
        for head in trail.rows("SELECT * FROM audit_writers"):
            content = b"".join(line(row) for row in rows if row.writer == head.number)
            end = audit_verifier.check_chain(content, head.number, 0, None)
            assert end == (head.head_sequence, head.head_hash)
            audit_verifier.check_head(
                public, head.number, head.head_sequence, head.head_time, head.head_hash, head.head_signature
            )
    changed = next(folder.glob("writers/*/*.jsonl"))
    content = changed.read_bytes()
    changed.unlink()
    changed.write_bytes(content.replace(b"2026", b"2025", 1))
    with pytest.raises(AssertionError):
        audit_verifier.check_sink(folder, pem)


def test_the_names_are_the_codes() -> None:
    for action in Action:
        assert f"`{action}`" in PAGE
    for result in Result:
        assert f"`{result}`" in PAGE
    for table in METADATA.sorted_tables:
        if table.name.startswith("audit_"):
            (row,) = re.findall(rf"^\| `{table.name}` \|.*$", PAGE, flags=re.MULTILINE)
            assert re.findall(r"`([a-z_]+)`", row)[1:] == list(table.columns.keys())
    assert f"not been seen for {GONE // 60_000_000} minutes" in PAGE
    assert public_path(Path("audit-signing.pem")).name in PAGE
