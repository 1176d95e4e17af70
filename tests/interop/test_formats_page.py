"""docs/formats.md says what is so: its example is a vector, and its numbers are the engine's."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from interop import amazons_library
from ownkey import wrapped_key
from ownkey.cli.messages import values
from ownkey.container import (
    DEFAULT_LIMITS,
    Decryptor,
    EncryptedDataKey,
    Encryptor,
    HeaderReader,
    TrailingData,
    context,
    header,
)
from ownkey.container.encryptor import FRAME_LENGTH_DOCUMENT, FRAME_LENGTH_MEDIA, FRAME_LENGTH_VOICE
from ownkey.v1 import branch_key_pb2
from support.aws_subjects import client, dummy_credentials
from support.fake_kms import FakeKms

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")


def test_the_example_is_the_vector_and_opens(page: str) -> None:
    (dump,) = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    printed = bytearray()
    for line in dump.splitlines():
        assert int(line[:4]) == len(printed), f"wrong offset: {line}"
        printed += bytes.fromhex(line[6:70])
    vectors = json.loads((ROOT / "tests/vectors/container/valid.json").read_text(encoding="utf-8"))
    (vector,) = [vector for vector in vectors if vector["name"] == "one-byte"]
    assert printed == base64.b64decode(vector["object"])
    (data_key,) = re.findall(r"^`([0-9a-f]{64})`", page, flags=re.MULTILINE)
    reader = HeaderReader()
    read = reader.feed(bytes(printed))
    assert read is not None
    decryptor = Decryptor(read, bytes.fromhex(data_key))
    assert decryptor.update(reader.rest) == b"\x01"
    decryptor.finish()


def test_the_numbers_are_the_engines(page: str) -> None:
    text = " ".join(page.split())
    for said in (
        f"at most {context.MAX_PAIRS} pairs and {context.MAX_LENGTH:,} bytes",
        f"written: 1 to {header.MAX_KEYS_WRITTEN}; read: 1 to {DEFAULT_LIMITS.encrypted_data_keys}",
        f"from {header.MIN_FRAME_LENGTH_WRITTEN:,} to {header.MAX_FRAME_LENGTH_WRITTEN:,}",
        f"read: 1 to {DEFAULT_LIMITS.frame_length:,}",
        f"at most {DEFAULT_LIMITS.header_length:,} bytes",
        f"{FRAME_LENGTH_MEDIA:,} bytes for recordings, {FRAME_LENGTH_VOICE:,} for live voice",
        f"and {FRAME_LENGTH_DOCUMENT:,} for documents",
        f"1 to {wrapped_key.MAX_ENTRIES}",
        f"at most {wrapped_key.MAX_LENGTH:,} bytes",
        f"do not begin with `{context.RESERVED_PREFIX}`",
    ):
        assert said in text, said


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 12_288])
def test_the_length_of_an_object_is_as_the_page_says(size: int) -> None:
    key, data_key = secrets.token_bytes(32), secrets.token_bytes(32)
    encryptor = Encryptor(
        data_key,
        encryption_context={},
        encrypted_data_keys=[amazons_library.wrap(key, data_key, {})],
        frame_length=4096,
    )
    body = encryptor.update(bytes(size)) + encryptor.finish()
    assert len(body) == size + 32 * max(1, -(-size // 4096)) + 8


def test_bytes_after_the_end_are_noticed_here_and_not_by_amazons_library() -> None:
    """The page warns of it. When this fails, the library has learnt to, and the page can say so."""
    key = secrets.token_bytes(32)
    message = amazons_library.encrypt(key, b"content", {"k": "v"}, 4096) + b"more"
    assert amazons_library.decrypt(key, message)[0] == b"content"
    reader = HeaderReader()
    read = reader.feed(message)
    assert read is not None
    decryptor = Decryptor(read, amazons_library.unwrap(key, read.encrypted_data_keys[0], {"k": "v"}))
    with pytest.raises(TrailingData):
        decryptor.update(reader.rest)


@pytest.mark.parametrize("name", ["chat", "no-context"])
def test_the_program_for_branch_keys_opens_the_vectors_word_for_word(page: str, tmp_path: Path, name: str) -> None:
    programs = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (program,) = [text for text in programs if "open_branch_entry.py" in text]
    assert "import ownkey" not in program
    vectors = json.loads((ROOT / "tests/vectors/container/branch_keys.json").read_text(encoding="utf-8"))
    (vector,) = [vector for vector in vectors if vector["name"] == name]
    provider_id, info, ciphertext = (base64.b64decode(part) for part in vector["entry"])
    entry = EncryptedDataKey(provider_id.decode(), info, ciphertext)
    wrapped = wrapped_key.WrappedKey("tenants/acme/keys/main", (entry,)).to_bytes()
    script = tmp_path / "open_branch_entry.py"
    script.write_text(program, encoding="utf-8")
    arguments = [vector["branch_key"], base64.b64encode(wrapped).decode(), json.dumps(vector["context"])]
    done = subprocess.run([sys.executable, str(script), *arguments], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == vector["data_key"]


def test_the_program_for_leaving_aws_opens_branch_keys_as_they_are_listed_word_for_word(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "branch-keys.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    script = tmp_path / "open_branch_key.py"
    script.write_text(program, encoding="utf-8")
    made = {}
    with FakeKms() as kms, dummy_credentials():
        for branch_id in ("0" * 32, "1" * 32):
            pairs = {"ownkey:branch": branch_id, "ownkey:purpose": "branch", "ownkey:tenant": "acme"}
            arn = kms.create_key()
            answer = client("kms", kms.url).generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=pairs)
            entry = EncryptedDataKey("aws-kms", arn.encode(), answer["CiphertextBlob"])
            wrapped = wrapped_key.WrappedKey("tenants/acme/keys/main", (entry,)).to_bytes()
            listed = branch_key_pb2.BranchKey(id=branch_id, wrapped_key=wrapped, encryption_context=pairs)
            made[branch_id] = (values(listed), answer["Plaintext"])
        document = tmp_path / "branch-keys.json"
        document.write_text(json.dumps({"branch_keys": [told for told, _ in made.values()]}), encoding="utf-8")
        environment = os.environ | {"AWS_ENDPOINT_URL_KMS": kms.url}
        for branch_id, (_, plaintext) in made.items():
            done = subprocess.run(
                [sys.executable, str(script), str(document), branch_id],
                check=True,
                capture_output=True,
                text=True,
                env=environment,
            )
            assert base64.b64decode(done.stdout) == plaintext
