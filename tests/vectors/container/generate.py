"""Writes the vectors of this folder, without the engine: `PYTHONPATH=tests python -m vectors.container.generate`.

Run again, it writes the same bytes; a test sees to it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vectors.container import two_keys
from vectors.container.independent import (
    Entry,
    Writer,
    branch_entry,
    branch_wrapping_key,
    context_bytes,
    lp16,
    u16,
)
from vectors.container.invalid_cases import body_cases, header_cases, with_free_iv
from vectors.container.material import CONTEXT, content, fixed, wrapped_by_gcm, wrapped_by_key_wrap, writer

FOLDER = Path(__file__).resolve().parent
Vector = dict[str, Any]


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def valid_vector(
    name: str, about: str, by: Writer, length: int, *, message: bytes | None = None, written: bool = True
) -> Vector:
    return {
        "name": name,
        "about": about,
        "written": written,
        "data_key": encoded(by.data_key),
        "message_id": encoded(by.message_id),
        "context": dict(by.context),
        "entries": [[encoded(part) for part in entry] for entry in by.entries],
        "frame_length": by.frame_length,
        "content_length": length,
        "content_sha256": hashlib.sha256(content(length)).hexdigest(),
        "object": encoded(by.message(content(length)) if message is None else message),
    }


def valid_vectors() -> Iterator[Vector]:
    for name, about, length in (
        ("empty", "No content: one final frame of no bytes.", 0),
        ("one-byte", "One byte.", 1),
        ("one-short-of-a-frame", "A final frame that lacks one byte.", 4095),
        ("one-frame", "A full final frame.", 4096),
        ("one-more-than-a-frame", "A frame, and a final one of one byte.", 4097),
        ("three-frames", "Two frames, and a full final one.", 12288),
    ):
        yield valid_vector(name, about, writer(name, frame_length=4096), length)
    by = writer("empty-final-frame", frame_length=4096)
    message = by.header + by.frame(1, content(4096)) + by.final(2, b"")
    about = "A full frame, and an empty final one: a reader accepts it, a writer makes a full final frame."
    yield valid_vector("empty-final-frame", about, by, 4096, message=message, written=False)
    data_key = fixed("data key of two-wrapped-keys")
    entries = (wrapped_by_gcm(data_key, CONTEXT), wrapped_by_key_wrap(data_key, CONTEXT))
    by = writer("two-wrapped-keys", frame_length=4096, entries=entries)
    yield valid_vector("two-wrapped-keys", "One data key, wrapped twice: AES-GCM and AES key wrap.", by, 5000)
    context = {"ownkey:tenant": "acme", "zürich": "Straße 7", "\U0001f512": "\N{SNOWMAN}", "z": ""}
    by = writer("context-of-many-scripts", frame_length=4096, context=context)
    yield valid_vector("context-of-many-scripts", "Keys are sorted by their UTF-8 bytes.", by, 100)
    by = writer("no-context", frame_length=4096, context={})
    yield valid_vector("no-context", "As other writers may: the context's length is 0.", by, 100)
    by = writer("frames-of-one-byte", frame_length=1)
    yield valid_vector("frames-of-one-byte", "As other writers may.", by, 5, written=False)


def invalid_vectors() -> Iterator[Vector]:
    for name, error, about, by, header in header_cases():
        message = (by.header if header is None else header) + b"".join(by.frames(content(40)))
        yield invalid_vector(name, error, about, by.data_key, message, 0)
    by = writer("frames")
    for name, error, about, body, released in body_cases(by):
        released_text = content(16) + b"end" if name == "frame-after-the-end" else content(released)
        yield invalid_vector(name, error, about, by.data_key, by.header + body, released, released_text)
    about = "Its nonce is not its number's, though it is authentic under that nonce."
    yield invalid_vector("nonce-of-its-own", "FrameTampered", about, by.data_key, with_free_iv(by), 0)
    wrong = "The data key of another message."
    yield invalid_vector("wrong-data-key", "CommitmentMismatch", wrong, fixed("another"), by.message(content(40)), 0)
    keys = (fixed("first of two"), fixed("second of two"))
    message = two_keys.forge(keys, fixed("message id of two"))
    about = "Header and frame are authentic under this data key too; it commits to another."
    yield invalid_vector("two-keys", "CommitmentMismatch", about, keys[1], message, 0)


def invalid_vector(
    name: str, error: str, about: str, data_key: bytes, message: bytes, released: int, text: bytes | None = None
) -> Vector:
    return {
        "name": name,
        "about": about,
        "error": error,
        "data_key": encoded(data_key),
        "released_length": released,
        "released_sha256": hashlib.sha256(content(released) if text is None else text).hexdigest(),
        "object": encoded(message),
    }


def data_key_vectors() -> Iterator[Vector]:
    data_key = fixed("data key to wrap")
    for name, wrap in (("aes-gcm", wrapped_by_gcm), ("aes-key-wrap", wrapped_by_key_wrap)):
        entry = wrap(data_key, CONTEXT)
        yield {
            "name": name,
            "key_encryption_key": encoded(fixed("kek")),
            "key_name": "acme-main",
            "context": CONTEXT,
            "serialized_context": encoded(context_bytes(CONTEXT)),
            "data_key": encoded(data_key),
            "entry": [encoded(part) for part in entry],
        }


def wrapped_key_vectors() -> Iterator[Vector]:
    data_key = fixed("data key to wrap")
    entries = [wrapped_by_gcm(data_key, CONTEXT), wrapped_by_key_wrap(data_key, CONTEXT)]
    flat = b"".join(lp16(part) for entry in entries for part in entry)
    name = "tenants/acme/keys/main"
    good = b"\x01" + lp16(name.encode()) + u16(2) + flat
    no_name = b"\x01" + lp16(b"") + u16(2) + flat
    for vector, key, raw in (("two-entries", name, good), ("no-key-name", "", no_name)):
        yield {
            "name": vector,
            "key": key,
            "entries": [[encoded(part) for part in entry] for entry in entries],
            "bytes": encoded(raw),
        }
    for vector, raw in (
        ("no-bytes", b""),
        ("version-2", b"\x02" + good[1:]),
        ("byte-missing", good[:-1]),
        ("byte-too-many", good + b"\x00"),
        ("no-entry", b"\x01" + lp16(name.encode()) + u16(0)),
        ("17-entries", b"\x01" + lp16(name.encode()) + u16(17) + 17 * b"\x00\x00\x00\x00\x00\x00"),
        ("name-not-utf-8", b"\x01" + lp16(b"\xff") + u16(2) + flat),
        ("over-16-kib", b"\x01" + lp16(b"") + u16(1) + lp16(b"p") + lp16(b"i") + lp16(bytes(16_384))),
    ):
        yield {"name": vector, "error": "WrappedKeyInvalid", "bytes": encoded(raw)}


def branch_key_vectors() -> Iterator[Vector]:
    """Data keys under a branch key; those with ``error`` are one of them with one fault."""
    branch_key, data_key, branch_id = fixed("branch key"), fixed("data key to wrap"), fixed("branch id").hex()[:32]
    salt, nonce = fixed("salt")[:16], fixed("wrapping nonce")[:12]
    asset = CONTEXT | {"ownkey:asset-class": "team_chat", "ownkey:asset-id": "chat-1"}
    id_, info, wrapped = branch_entry(branch_key, branch_id, salt, nonce, data_key, asset)

    def vector(name: str, about: str, entry: Entry, **changes: Any) -> Vector:
        return {
            "name": name,
            "about": about,
            "branch_key": encoded(changes.get("branch_key", branch_key)),
            "branch_id": branch_id,
            "wrapping_key": encoded(branch_wrapping_key(branch_key, salt)),
            "context": changes.get("context", asset),
            "data_key": encoded(data_key),
            "entry": [encoded(part) for part in entry],
        } | ({"error": "BranchEntryInvalid"} if changes.get("wrong", True) else {})

    sound = (id_, info, wrapped)
    yield vector("chat", "A data key for a message of a team's chat.", sound, wrong=False)
    empty = branch_entry(branch_key, branch_id, salt, nonce, data_key, {})
    yield vector("no-context", "Bound to no pairs at all.", empty, wrong=False, context={})
    yield vector("another-context", "Bound to another asset.", sound, context=asset | {"ownkey:asset-id": "chat-2"})
    yield vector("another-branch-key", "Another branch key.", sound, branch_key=fixed("another branch key"))
    other_id = b"v1." + fixed("another id").hex()[:32].encode()
    yield vector("relabelled", "It names another branch key than the one that wrapped it.", (id_, other_id, wrapped))
    for place, at in (("version", 0), ("salt", 1), ("iv", 17), ("key", 29), ("tag", 61)):
        changed = wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :]
        yield vector(f"changed-{place}", "One bit was changed.", (id_, info, changed))
    yield vector("byte-missing", "Its last byte is missing.", (id_, info, wrapped[:-1]))
    yield vector("byte-too-many", "A byte follows.", (id_, info, wrapped + b"\x00"))
    yield vector("version-2-info", "Another version of the provider info.", (id_, b"v2." + info[3:], wrapped))
    upper = b"v1." + branch_id.upper().encode()
    yield vector("capital-digits", "The id in capitals, which is another id.", (id_, upper, wrapped))


def files() -> dict[str, str]:
    """Each file's name and text."""
    suites = {
        "valid.json": valid_vectors(),
        "invalid.json": invalid_vectors(),
        "data_keys.json": data_key_vectors(),
        "wrapped_keys.json": wrapped_key_vectors(),
        "branch_keys.json": branch_key_vectors(),
    }
    return {name: json.dumps(list(suite), indent=1, ensure_ascii=False) + "\n" for name, suite in suites.items()}


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
