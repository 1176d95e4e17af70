"""The engine against our own vectors. They were written without it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from ownkey import container, wrapped_key
from ownkey.container import Decryptor, EncryptedDataKey, Encryptor, Header, HeaderReader, RangeDecryptor
from ownkey.wrapped_key import WrappedKey
from vectors.container import generate, material
from vectors.container.independent import Writer, branch_entry

FOLDER = Path(__file__).parent
Vector = dict[str, Any]


def load(name: str) -> list[Any]:
    vectors = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


def decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def entries_of(vector: Vector) -> tuple[EncryptedDataKey, ...]:
    parts = [[decoded(part) for part in entry] for entry in vector["entries"]]
    return tuple(EncryptedDataKey(provider_id.decode(), info, wrapped) for provider_id, info, wrapped in parts)


def read_header(message: bytes) -> tuple[Header, bytes]:
    reader = HeaderReader()
    header = reader.feed(message)
    if header is None:
        raise container.Truncated("inside the header")
    return header, bytes(reader.rest)


def test_the_format_has_not_drifted() -> None:
    for name, text in generate.files().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"{name} is not what generate.py writes"


@pytest.mark.parametrize("vector", load("valid.json"))
def test_a_valid_object_opens(vector: Vector) -> None:
    header, rest = read_header(decoded(vector["object"]))
    assert header.message_id == decoded(vector["message_id"])
    assert header.encryption_context == vector["context"]
    assert header.encrypted_data_keys == entries_of(vector)
    assert header.frame_length == vector["frame_length"]
    decryptor = Decryptor(header, decoded(vector["data_key"]))
    content = decryptor.update(rest)
    decryptor.finish()
    assert len(content) == vector["content_length"]
    assert hashlib.sha256(content).hexdigest() == vector["content_sha256"]


@pytest.mark.parametrize("vector", load("valid.json"))
def test_a_valid_object_opens_by_ranges(vector: Vector) -> None:
    message = decoded(vector["object"])
    header, _ = read_header(message)
    ranges = RangeDecryptor(header, decoded(vector["data_key"]), object_size=len(message))
    final = ranges.final_frame
    size = ranges.open_final_frame(message[final.offset : final.offset + final.length])
    assert size == vector["content_length"]
    span = ranges.span(0)
    content = ranges.decrypt(0, None, message[span.offset : span.offset + span.length])
    assert hashlib.sha256(content).hexdigest() == vector["content_sha256"]


@pytest.mark.parametrize("step", [1, 7, 1 << 20], ids=["by-one", "by-seven", "at-once"])
@pytest.mark.parametrize("vector", load("invalid.json"))
def test_an_invalid_object_fails_as_it_should_and_releases_no_more_than_it_may(vector: Vector, step: int) -> None:
    message, released = decoded(vector["object"]), bytearray()

    def read() -> None:
        header, rest = read_header(message)
        decryptor = Decryptor(header, decoded(vector["data_key"]))
        for at in range(0, len(rest), step):
            released.extend(decryptor.update(rest[at : at + step]))
        decryptor.finish()

    with pytest.raises(container.ContainerError) as caught:
        read()
    assert type(caught.value).__name__ == vector["error"]
    if step == 1:
        # A byte at a time, everything that may be released is.
        assert len(released) == vector["released_length"]
        assert hashlib.sha256(released).hexdigest() == vector["released_sha256"]
    assert len(released) <= vector["released_length"]


@pytest.mark.parametrize("vector", [vector for vector in load("valid.json") if vector.values[0]["written"]])
def test_the_engine_writes_what_the_independent_writer_writes(vector: Vector) -> None:
    content = material.content(vector["content_length"])
    data_key = decoded(vector["data_key"])
    entries = entries_of(vector)
    encryptor = Encryptor(
        data_key,
        encryption_context=vector["context"],
        encrypted_data_keys=entries,
        frame_length=vector["frame_length"],
    )
    ours = encryptor.header.to_bytes() + encryptor.update(content) + encryptor.finish()
    plain_entries = [(entry.provider_id.encode(), entry.provider_info, entry.ciphertext) for entry in entries]
    independent = Writer(
        data_key, encryptor.header.message_id, vector["frame_length"], vector["context"], plain_entries
    )
    assert ours == independent.message(content)


@pytest.mark.parametrize("vector", load("data_keys.json"))
def test_a_wrapped_data_key_unwraps(vector: Vector) -> None:
    key, data_key = decoded(vector["key_encryption_key"]), decoded(vector["data_key"])
    provider_id, info, wrapped = (decoded(part) for part in vector["entry"])
    context = container.serialize_context(vector["context"])
    assert context == decoded(vector["serialized_context"])
    if provider_id == b"ownkey-embedded":
        iv = container.parse_raw_aes_provider_info(info, vector["key_name"])
        assert iv is not None
        assert AESGCM(key).decrypt(iv, wrapped, context) == data_key
    else:
        assert info.decode() == vector["key_name"]
        assert aes_key_unwrap(key, wrapped) == data_key + hashlib.sha256(context).digest()


@pytest.mark.parametrize("vector", load("wrapped_keys.json"))
def test_a_wrapped_key_reads_and_writes_as_published(vector: Vector) -> None:
    raw = decoded(vector["bytes"])
    if "error" in vector:
        with pytest.raises(wrapped_key.WrappedKeyInvalid):
            WrappedKey.from_bytes(raw)
        return
    read = WrappedKey.from_bytes(raw)
    assert read == WrappedKey(vector["key"], entries_of(vector))
    assert read.to_bytes() == raw


@pytest.mark.parametrize("vector", load("branch_keys.json"))
def test_a_data_key_under_a_branch_key_opens_or_is_refused_as_published(vector: Vector) -> None:
    (provider_id, info, wrapped) = (decoded(part) for part in vector["entry"])
    entry = EncryptedDataKey(provider_id.decode(), info, wrapped)
    branch_key = decoded(vector["branch_key"])
    if "error" in vector:
        with pytest.raises(container.BranchEntryInvalid):
            container.unwrap_with_branch_key(branch_key, entry, vector["context"])
        return
    assert container.branch_id_of(entry) == vector["branch_id"]
    assert container.unwrap_with_branch_key(branch_key, entry, vector["context"]) == decoded(vector["data_key"])


def test_the_engine_wraps_as_the_independent_writer_does() -> None:
    branch_key, data_key, branch_id = material.fixed("b"), material.fixed("d"), container.new_branch_id()
    ours = container.wrap_with_branch_key(branch_key, branch_id, data_key, material.CONTEXT)
    salt, nonce = ours.ciphertext[1:17], ours.ciphertext[17:29]
    theirs = branch_entry(branch_key, branch_id, salt, nonce, data_key, material.CONTEXT)
    assert (ours.provider_id.encode(), ours.provider_info, ours.ciphertext) == theirs
    again = container.wrap_with_branch_key(branch_key, branch_id, data_key, material.CONTEXT)
    assert again.ciphertext[1:29] != ours.ciphertext[1:29]
