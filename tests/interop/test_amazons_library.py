"""Both ways with `aws-encryption-sdk`: the customer can leave, and what others wrote can come in."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from interop import amazons_library
from ownkey.container import Decryptor, EncryptedDataKey, Encryptor, HeaderReader, RangeDecryptor

KEY = secrets.token_bytes(32)
CONTEXT = {"ownkey:tenant": "acme", "ownkey:asset-class": "phone_recording", "ownkey:asset-id": "réc-1"}
FRAME_LENGTHS = [4096, 1 << 18, 1 << 20]
SIZES = {
    "empty": lambda frame: 0,
    "one-byte": lambda frame: 1,
    "one-short-of-a-frame": lambda frame: frame - 1,
    "a-frame": lambda frame: frame,
    "one-past-a-frame": lambda frame: frame + 1,
    "three-frames": lambda frame: 3 * frame,
}
each_shape = pytest.mark.parametrize(
    ("frame_length", "size"),
    [pytest.param(frame, size(frame), id=f"{frame}-{name}") for frame in FRAME_LENGTHS for name, size in SIZES.items()],
)


def encrypt(content: bytes, frame_length: int, *others: EncryptedDataKey) -> bytes:
    data_key = secrets.token_bytes(32)
    encryptor = Encryptor(
        data_key,
        encryption_context=CONTEXT,
        encrypted_data_keys=[*others, amazons_library.wrap(KEY, data_key, CONTEXT)],
        frame_length=frame_length,
    )
    return encryptor.header.to_bytes() + encryptor.update(content) + encryptor.finish()


@each_shape
def test_amazons_library_opens_what_ownkey_writes(frame_length: int, size: int) -> None:
    content = secrets.token_bytes(size)
    opened, context = amazons_library.decrypt(KEY, encrypt(content, frame_length))
    assert opened == content
    assert context == CONTEXT


@each_shape
def test_ownkey_opens_what_amazons_library_writes(frame_length: int, size: int) -> None:
    content = secrets.token_bytes(size)
    message = amazons_library.encrypt(KEY, content, CONTEXT, frame_length)
    reader = HeaderReader()
    header = reader.feed(message)
    assert header is not None
    assert header.encryption_context == CONTEXT
    data_key = amazons_library.unwrap(KEY, header.encrypted_data_keys[0], header.encryption_context)
    decryptor = Decryptor(header, data_key)
    assert decryptor.update(reader.rest) == content
    decryptor.finish()


def test_ownkey_opens_what_amazons_library_writes_without_a_context() -> None:
    message = amazons_library.encrypt(KEY, b"content", {}, 4096)
    reader = HeaderReader()
    header = reader.feed(message)
    assert header is not None
    decryptor = Decryptor(header, amazons_library.unwrap(KEY, header.encrypted_data_keys[0], {}))
    assert decryptor.update(reader.rest) == b"content"
    decryptor.finish()


def test_ownkey_reads_ranges_of_what_amazons_library_writes() -> None:
    content = secrets.token_bytes(3 * 4096 + 5)
    message = amazons_library.encrypt(KEY, content, CONTEXT, 4096)
    header = HeaderReader().feed(message)
    assert header is not None
    data_key = amazons_library.unwrap(KEY, header.encrypted_data_keys[0], CONTEXT)
    ranges = RangeDecryptor(header, data_key, object_size=len(message))
    final = ranges.final_frame
    assert ranges.open_final_frame(message[final.offset : final.offset + final.length]) == len(content)
    span = ranges.span(5000, 6000)
    assert ranges.decrypt(5000, 6000, message[span.offset : span.offset + span.length]) == content[5000:11000]


def test_amazons_library_finds_its_key_among_others() -> None:
    other = EncryptedDataKey("ownkey-pkcs11-kw", b"acme-hsm", secrets.token_bytes(72))
    opened, _ = amazons_library.decrypt(KEY, encrypt(b"content", 4096, other))
    assert opened == b"content"


def test_the_page_s_example_opens_an_object_without_ownkey(tmp_path: Path) -> None:
    """Runs the program that docs/formats.md prints, word for word."""
    page = Path(__file__).parents[2] / "docs" / "formats.md"
    programs = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    (program,) = [text for text in programs if "import aws_encryption_sdk" in text]
    assert "import ownkey" not in program
    assert "from ownkey" not in program
    (tmp_path / "open_without_ownkey.py").write_text(program, encoding="utf-8")
    content = secrets.token_bytes(700_000)
    (tmp_path / "call.wav.ownkey").write_bytes(encrypt(content, 1 << 18))
    (tmp_path / "acme-main.key").write_bytes(KEY)
    done = subprocess.run(
        [sys.executable, "open_without_ownkey.py", "call.wav.ownkey", "acme-main.key", "acme-main", "call.wav"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "call.wav").read_bytes() == content
    assert "ownkey:asset-id" in done.stdout
