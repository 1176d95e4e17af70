"""Wycheproof's vectors, on the very calls that the engine makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ownkey.container import derivation

Case = dict[str, Any]


def groups(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "wycheproof" / name).read_text(encoding="utf-8"))["testGroups"]
    return found


def parts(case: Case, *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


@pytest.fixture(scope="module")
def gcm_cases(vectors_dir: Path) -> list[Case]:
    """AES-256, nonces of 96 bits, tags of 128: the only parameters that the format has."""
    found = [
        case
        for group in groups(vectors_dir, "aes_gcm_test.json")
        if (group["keySize"], group["ivSize"], group["tagSize"]) == (256, 96, 128)
        for case in group["tests"]
    ]
    assert len(found) == 66
    return found


def test_gcm_encrypts_in_place_as_wycheproof_says(gcm_cases: list[Case]) -> None:
    for case in gcm_cases:
        if case["result"] == "invalid":
            continue
        key, iv, aad, msg, ct, tag = parts(case, "key", "iv", "aad", "msg", "ct", "tag")
        out = bytearray(len(msg) + derivation.TAG_LENGTH)
        assert AESGCM(key).encrypt_into(bytearray(iv), memoryview(msg), bytearray(aad), memoryview(out)) == len(out)
        assert out == ct + tag, case["tcId"]


def test_gcm_decrypts_in_place_or_refuses_as_wycheproof_says(gcm_cases: list[Case]) -> None:
    refused = 0
    for case in gcm_cases:
        key, iv, aad, msg, ct, tag = parts(case, "key", "iv", "aad", "msg", "ct", "tag")
        out = bytearray(len(ct))
        arguments = (bytearray(iv), memoryview(ct + tag), bytearray(aad), memoryview(out))
        if case["result"] == "invalid":
            refused += 1
            with pytest.raises(InvalidTag):
                AESGCM(key).decrypt_into(*arguments)
        else:
            assert AESGCM(key).decrypt_into(*arguments) == len(out)
            assert out == msg, case["tcId"]
    assert refused


def test_gcm_encrypts_and_decrypts_bytes_as_wycheproof_says(gcm_cases: list[Case]) -> None:
    """The calls for the header's tag."""
    for case in gcm_cases:
        key, iv, aad, msg, ct, tag = parts(case, "key", "iv", "aad", "msg", "ct", "tag")
        if case["result"] == "invalid":
            with pytest.raises(InvalidTag):
                AESGCM(key).decrypt(iv, ct + tag, aad)
        else:
            assert AESGCM(key).encrypt(iv, msg, aad) == ct + tag
            assert AESGCM(key).decrypt(iv, ct + tag, aad) == msg


def test_hkdf_sha_512_derives_as_wycheproof_says(vectors_dir: Path) -> None:
    tried = 0
    for group in groups(vectors_dir, "hkdf_sha512_test.json"):
        for case in group["tests"]:
            ikm, salt, info, okm = parts(case, "ikm", "salt", "info", "okm")
            if case["result"] == "invalid":
                with pytest.raises(ValueError, match="larger"):
                    HKDF(hashes.SHA512(), case["size"], salt, info)
                continue
            out = bytearray(case["size"])
            HKDF(hashes.SHA512(), case["size"], salt, info).derive_into(bytearray(ikm), out)
            assert out == okm, case["tcId"]
            assert HKDF(hashes.SHA512(), case["size"], salt, info).derive(ikm) == okm
            tried += 1
    assert tried > 70
