"""The commitment vectors of `aws-encryption-sdk-python`: messages of its C, Java, JavaScript and Python libraries."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ownkey.container import (
    CommitmentMismatch,
    Decryptor,
    FrameTampered,
    Header,
    HeaderReader,
    UnsupportedFormat,
    derivation,
)
from ownkey.container.frames import FINAL_LABEL

# Of 46 vectors 23 have suite 0x0478. 3 of them are unframed, and 20 framed: 11 open, 3 must fail, and 6 have a frame
# with the nonce ff..ff | number, which no library writes and our profile does not read (docs/formats.md, "Frames").
OPEN, FAIL, OTHER_NONCE, UNFRAMED, SIGNED = 11, 3, 6, 3, 23


def decoded(text: str) -> bytes:
    return base64.b64decode(text)


@pytest.fixture(scope="module")
def vectors(vectors_dir: Path) -> list[dict[str, Any]]:
    path = vectors_dir / "aws-encryption-sdk" / "commitment-test-vectors.json"
    tests: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["tests"]
    return tests


def is_ours(vector: dict[str, Any]) -> bool:
    return decoded(vector["ciphertext"])[:3] == b"\x02\x04\x78"


def header_of(vector: dict[str, Any]) -> tuple[Header, bytes]:
    reader = HeaderReader()
    header = reader.feed(decoded(vector["ciphertext"]))
    assert header is not None
    return header, bytes(reader.rest)


def framed(vectors: list[dict[str, Any]]) -> list[tuple[dict[str, Any], Header, bytes]]:
    found = []
    for vector in filter(is_ours, vectors):
        try:
            found.append((vector, *header_of(vector)))
        except UnsupportedFormat:
            continue
    assert len(found) == OPEN + FAIL + OTHER_NONCE
    return found


def has_other_nonce(rest: bytes) -> bool:
    """Whether the first frame is final, and its nonce not its number's."""
    return rest[:4] == b"\xff" * 4 and rest[8:20] != bytes(8) + rest[4:8]


def test_every_framed_message_opens_or_fails_as_it_must(vectors: list[dict[str, Any]]) -> None:
    opened = failed = 0
    for vector, header, rest in framed(vectors):
        data_key = decoded(vector["decrypted-dek"])
        if vector["exception"]:
            with pytest.raises(CommitmentMismatch):
                Decryptor(header, data_key)
            failed += 1
        elif not has_other_nonce(rest):
            decryptor = Decryptor(header, data_key)
            content = decryptor.update(rest)
            decryptor.finish()
            assert content == "".join(vector["plaintext-frames"]).encode(), vector["comment"]
            opened += 1
    assert (opened, failed) == (OPEN, FAIL)


def test_a_nonce_that_is_not_its_frame_s_is_refused_though_the_frame_is_authentic_under_it(
    vectors: list[dict[str, Any]],
) -> None:
    refused = 0
    for vector, header, rest in framed(vectors):
        if vector["exception"] or not has_other_nonce(rest):
            continue
        data_key = decoded(vector["decrypted-dek"])
        key, _ = derivation.derive(data_key, header.message_id)
        aad = header.message_id + FINAL_LABEL + rest[4:8] + bytes(4) + rest[20:24]
        assert key.decrypt(rest[8:20], rest[24:], aad) == vector["plaintext-frames"][0].encode()
        with pytest.raises(FrameTampered):
            Decryptor(header, data_key).update(rest)
        refused += 1
    assert refused == OTHER_NONCE


def test_what_the_header_says_is_read(vectors: list[dict[str, Any]]) -> None:
    for vector, header, _ in framed(vectors):
        assert header.to_bytes() == decoded(vector["header"])
        assert header.message_id == decoded(vector["message-id"])
        assert header.encryption_context == vector["encryption-context"]
        if not vector["exception"]:
            assert header.commitment == decoded(vector["commitment"])


def test_the_derivation_gives_their_keys_and_commitments(vectors: list[dict[str, Any]]) -> None:
    compared = 0
    for vector, header, _ in framed(vectors):
        key, commitment = derivation.derive(decoded(vector["decrypted-dek"]), header.message_id)
        assert (commitment == header.commitment) is not bool(vector["exception"])
        if "content-encryption-key" in vector and not vector["exception"]:
            # The engine's key object does not give its bytes away; that it is their key, a tag shows.
            theirs = derivation.MessageKey(decoded(vector["content-encryption-key"]))
            assert derivation.header_tag(key, header.body) == derivation.header_tag(theirs, header.body)
            compared += 1
    assert compared == 8


def test_unframed_and_signed_messages_are_refused_as_unsupported(vectors: list[dict[str, Any]]) -> None:
    ours = others = 0
    for vector in vectors:
        try:
            header_of(vector)
        except UnsupportedFormat:
            ours += is_ours(vector)
            others += not is_ours(vector)
    assert (ours, others) == (UNFRAMED, SIGNED)
