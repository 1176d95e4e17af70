"""The signed descriptions of segments and checkpoints, and a record's line of JSON (docs/audit.md has the layout)."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from ownkey_server.domain import audit
from ownkey_server.domain.audit_chain import ChainRow, body_fields

NO_CHECKPOINT = bytes(32)
_LINE_END = re.compile(rb',"hash":"([0-9a-f]{64})","sequence":([1-9][0-9]{0,18}),"writer":([1-9][0-9]{0,18})\}\n?')


class DocumentInvalid(ValueError):
    """It is not what ownkey writes."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a writer's chain."""

    writer: int
    sequence: int


@dataclass(frozen=True, slots=True)
class SignedHead:
    """How far a writer's chain had come, and the hash of the last record."""

    writer: int
    sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """A sealed part of a chain.

    Attributes:
        first_time: The earliest time of its records, in microseconds.
        last_time: The latest.
        previous: Hash of the record before the first; the writer's genesis for record 1.
        hash: Hash of the last record.
        file_sha256: Hash of its records as lines of JSON.
    """

    writer: int
    first_sequence: int
    last_sequence: int
    first_time: int
    last_time: int
    previous: bytes
    hash: bytes
    file_sha256: bytes

    @property
    def name(self) -> str:
        """What its files are named, without their ending."""
        return f"writers/{self.writer:08}/{self.first_sequence:012}-{self.last_sequence:012}"

    def to_bytes(self) -> bytes:
        """The description, as it is signed."""
        return audit.canonical(
            {
                "count": self.last_sequence - self.first_sequence + 1,
                "file_sha256": self.file_sha256.hex(),
                "first_sequence": self.first_sequence,
                "first_time": _time_text(self.first_time),
                "hash": self.hash.hex(),
                "last_sequence": self.last_sequence,
                "last_time": _time_text(self.last_time),
                "previous": self.previous.hex(),
                "writer": self.writer,
            }
        )

    @classmethod
    def from_bytes(cls, description: bytes) -> Segment:
        """Read a description.

        Raises:
            DocumentInvalid: It is none.
        """

        def build(fields: Mapping[str, Any]) -> Segment:
            return cls(
                writer=fields["writer"],
                first_sequence=fields["first_sequence"],
                last_sequence=fields["last_sequence"],
                first_time=_microseconds(fields["first_time"]),
                last_time=_microseconds(fields["last_time"]),
                previous=bytes.fromhex(fields["previous"]),
                hash=bytes.fromhex(fields["hash"]),
                file_sha256=bytes.fromhex(fields["file_sha256"]),
            )

        return _exactly(description, build)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far every chain that moved had come, bound to the checkpoint before.

    Attributes:
        time: Microseconds since 1970.
        previous: SHA-256 of the description before; 32 zero bytes for the first.
        writers: The highest number of a writer.
        heads: Of the chains that have grown since.
        sealed: Up to where chains were sealed, if further than before.
        removed: Up to where retention removes records, if further than before.
    """

    number: int
    time: int
    previous: bytes
    writers: int
    heads: tuple[SignedHead, ...]
    sealed: tuple[Mark, ...]
    removed: tuple[Mark, ...]

    @property
    def name(self) -> str:
        """What its file is named, without its ending."""
        return f"checkpoints/{self.number:012}"

    def to_bytes(self) -> bytes:
        """The description, as it is signed."""
        return audit.canonical(
            {
                "heads": [{"hash": h.hash.hex(), "sequence": h.sequence, "writer": h.writer} for h in self.heads],
                "number": self.number,
                "previous": self.previous.hex(),
                "removed": [{"sequence": m.sequence, "writer": m.writer} for m in self.removed],
                "sealed": [{"sequence": m.sequence, "writer": m.writer} for m in self.sealed],
                "time": _time_text(self.time),
                "writers": self.writers,
            }
        )

    @classmethod
    def from_bytes(cls, description: bytes) -> Checkpoint:
        """Read a description.

        Raises:
            DocumentInvalid: It is none.
        """

        def build(fields: Mapping[str, Any]) -> Checkpoint:
            return cls(
                number=fields["number"],
                time=_microseconds(fields["time"]),
                previous=bytes.fromhex(fields["previous"]),
                writers=fields["writers"],
                heads=tuple(SignedHead(h["writer"], h["sequence"], bytes.fromhex(h["hash"])) for h in fields["heads"]),
                sealed=tuple(Mark(m["writer"], m["sequence"]) for m in fields["sealed"]),
                removed=tuple(Mark(m["writer"], m["sequence"]) for m in fields["removed"]),
            )

        return _exactly(description, build)


D = TypeVar("D", Segment, Checkpoint)


def signed_document(description: bytes, signature: bytes) -> bytes:
    """A description with its signature, as one line of JSON: to keep elsewhere."""
    return (
        audit.canonical({"description": description.decode("utf-8", "replace"), "signature": signature.hex()}) + b"\n"
    )


def read_signed_document(text: bytes) -> tuple[bytes, bytes]:
    """The description and the signature.

    Raises:
        DocumentInvalid: It is no signed document.
    """
    fields = body_fields(text)
    try:
        return (fields or {})["description"].encode(), bytes.fromhex((fields or {})["signature"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DocumentInvalid('must be a JSON object with "description" and "signature"') from None


def line(row: ChainRow) -> bytes:
    """A record as a line of JSON: its own fields as they were hashed, then ``hash``, ``sequence`` and ``writer``."""
    end = f'"hash":"{row.hash.hex()}","sequence":{row.sequence},"writer":{row.writer}}}\n'.encode()
    if body_fields(row.body) and row.body.endswith(b"}") and _one_line(row.body):
        return row.body[:-1] + b"," + end
    # Not what ownkey writes. It must not make the lines around it unreadable, and nothing of it may be lost.
    damaged = {"damaged_body": base64.b64encode(row.body).decode(), "time": _time_text(row.time)}
    return audit.canonical(damaged)[:-1] + b"," + end


def read_line(text: bytes) -> ChainRow:
    """The record in a line of JSON, with its columns as its fields say.

    Raises:
        DocumentInvalid: It is no such line.
    """
    found = _LINE_END.search(text)
    if found is None or found.end() != len(text):
        raise DocumentInvalid("does not end in hash, sequence and writer")
    body = text[: found.start()] + b"}"
    fields = body_fields(body)
    if fields is None:
        raise DocumentInvalid("is no JSON object")
    try:
        time = _microseconds(fields["time"])
        if "damaged_body" in fields:
            body = base64.b64decode(fields["damaged_body"], validate=True)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise DocumentInvalid("is no record") from None
    tenant = str(fields.get("tenant", ""))
    return ChainRow(int(found[3]), int(found[2]), time, tenant, body, bytes.fromhex(found[1].decode()))


def _one_line(body: bytes) -> bool:
    return b"\n" not in body and b"\r" not in body


def _exactly(description: bytes, build: Callable[[Mapping[str, Any]], D]) -> D:
    """Build a document, and require that its one spelling is the description: nothing may hide in another."""
    fields = body_fields(description)
    try:
        document = build(fields or {})
        if document.to_bytes() == description:
            return document
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        pass
    raise DocumentInvalid("is not what ownkey writes")


def _time_text(microseconds: int) -> str:
    try:
        return audit.timestamp(audit.from_microseconds(microseconds))
    except OverflowError:
        return ""


def _microseconds(text: str) -> int:
    return audit.microseconds(datetime.fromisoformat(text))
