"""A verifier of audit sinks, written from docs/audit.md alone: nothing of ownkey is in it."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key


def public_key(pem: bytes) -> Ed25519PublicKey:
    key = load_pem_public_key(pem)
    assert isinstance(key, Ed25519PublicKey)
    return key


def split_line(line: bytes) -> tuple[bytes, dict[str, Any]]:
    """The body, and all fields."""
    body, separator, _ = line.rpartition(b',"hash":"')
    assert separator
    assert line.endswith(b"}\n")
    return body + b"}", json.loads(line)


def genesis(first_body: bytes, writer: int) -> bytes:
    detail = json.loads(first_body)["detail"]
    described = json.dumps({**detail, "writer": writer}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(b"ownkey audit writer v1\x00" + described.encode()).digest()


def record_hash(previous: bytes, writer: int, sequence: int, body: bytes) -> bytes:
    prefix = b"ownkey audit record v1\x00" + struct.pack(">QQ", writer, sequence)
    return hashlib.sha256(prefix + previous + body).digest()


def check_head(key: Ed25519PublicKey, writer: int, sequence: int, time: int, head: bytes, signature: bytes) -> None:
    key.verify(signature, b"ownkey audit head v1\x00" + struct.pack(">QQQ", writer, sequence, time) + head)


def signed(key: Ed25519PublicKey, kind: str, text: bytes) -> tuple[bytes, dict[str, Any]]:
    """The description, as bytes and read, of a file whose signature is good."""
    document = json.loads(text)
    description = document["description"].encode()
    key.verify(bytes.fromhex(document["signature"]), f"ownkey audit {kind} v1\x00".encode() + description)
    return description, json.loads(description)


def check_chain(content: bytes, writer: int, sequence: int, previous: bytes | None) -> tuple[int, bytes]:
    """Check lines that follow record ``sequence``; gives the last record and its hash."""
    for line in content.splitlines(keepends=True):
        body, fields = split_line(line)
        if previous is None:
            previous = genesis(body, writer)
        sequence += 1
        assert (fields["writer"], fields["sequence"]) == (writer, sequence)
        previous = record_hash(previous, writer, sequence, body)
        assert previous.hex() == fields["hash"], f"writer {writer}, record {sequence}"
    assert previous is not None
    return sequence, previous


def check_sink(folder: Path, pem: bytes) -> int:
    """Check all of a sink that holds every record from the first; gives how many records there are."""
    key = public_key(pem)
    hashes: dict[tuple[int, int], str] = {}
    for writer_folder in sorted((folder / "writers").iterdir()):
        writer, sequence, previous = int(writer_folder.name), 0, None
        for path in sorted(writer_folder.glob("*.json")):
            _, segment = signed(key, "segment", path.read_bytes())
            content = path.with_suffix(".jsonl").read_bytes()
            assert segment["writer"] == writer
            assert segment["first_sequence"] == sequence + 1
            assert path.stem == f"{segment['first_sequence']:012}-{segment['last_sequence']:012}"
            assert hashlib.sha256(content).hexdigest() == segment["file_sha256"]
            sequence, previous = check_chain(content, writer, sequence, previous)
            assert (sequence, previous.hex()) == (segment["last_sequence"], segment["hash"])
            lines = [json.loads(line) for line in content.splitlines()]
            assert len(lines) == segment["count"]
            assert min(line["time"] for line in lines) == segment["first_time"]
            assert max(line["time"] for line in lines) == segment["last_time"]
            hashes |= {(writer, line["sequence"]): line["hash"] for line in lines}
    before = "0" * 64
    for number, path in enumerate(sorted((folder / "checkpoints").glob("*.json")), start=1):
        description, checkpoint = signed(key, "checkpoint", path.read_bytes())
        assert (checkpoint["number"], checkpoint["previous"]) == (number, before)
        assert path.stem == f"{number:012}"
        before = hashlib.sha256(description).hexdigest()
        for head in checkpoint["heads"]:
            assert hashes.get((head["writer"], head["sequence"]), head["hash"]) == head["hash"]
        for mark in checkpoint["sealed"]:
            assert (mark["writer"], mark["sequence"]) in hashes
    return len(hashes)
