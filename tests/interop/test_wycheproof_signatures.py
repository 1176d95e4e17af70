"""Wycheproof's vectors on what we believe: the audit's signatures, tokens' signatures, and the MAC under our KDF.

Tokens are verified by PyJWT, so that its own objects are what is tried, on keys read as an issuer's are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from ownkey_server.storage.audit.signing import Verifier

# The file, the token's algorithm, where the group keeps its JWK, and how many vectors there are.
TOKENS = [
    ("rsa_signature_2048_sha256_test.json", "RS256", "keyJwk", 259),
    ("rsa_pss_2048_sha256_mgf1_32_test.json", "PS256", "publicKeyJwk", 108),
    ("ecdsa_secp256r1_sha256_p1363_test.json", "ES256", "publicKeyJwk", 262),
    ("ecdsa_secp384r1_sha384_p1363_test.json", "ES384", "publicKeyJwk", 280),
    ("ed25519_test.json", "EdDSA", "publicKeyJwk", 151),
]


def groups(vectors_dir: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((vectors_dir / "wycheproof" / name).read_text("utf-8"))["testGroups"]
    return found


@pytest.mark.parametrize(("name", "algorithm", "jwk", "count"), TOKENS, ids=[row[1] for row in TOKENS])
def test_a_token_s_signature_holds_or_not_as_wycheproof_says(
    vectors_dir: Path, name: str, algorithm: str, jwk: str, count: int
) -> None:
    tried = 0
    for group in groups(vectors_dir, name):
        if jwk not in group:  # RSA keys without a form as a JWK: no issuer can have them
            tried += len(group["tests"])
            continue
        key = jwt.PyJWK({name: value for name, value in group[jwk].items() if name != "alg"}, algorithm)
        for case in group["tests"]:
            held = key.Algorithm.verify(bytes.fromhex(case["msg"]), key.key, bytes.fromhex(case["sig"]))
            # "acceptable" are signatures that some standard allows and RFC 7518 does not ask for: either is right.
            assert held is (case["result"] == "valid") or case["result"] == "acceptable", case
            tried += 1
    assert tried == count


def test_the_audit_s_signature_holds_or_not_as_wycheproof_says(vectors_dir: Path) -> None:
    refused = 0
    for group in groups(vectors_dir, "ed25519_test.json"):
        verifier = Verifier([Ed25519PublicKey.from_public_bytes(bytes.fromhex(group["publicKey"]["pk"]))])
        for case in group["tests"]:
            held = verifier.good(bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
            assert held is (case["result"] == "valid"), case
            refused += not held
    assert refused


def test_hmac_sha_256_is_as_wycheproof_says(vectors_dir: Path) -> None:
    tried = 0
    for group in groups(vectors_dir, "hmac_sha256_test.json"):
        if group["tagSize"] != 256:
            continue
        for case in group["tests"]:
            mac = HMAC(bytes.fromhex(case["key"]), SHA256())
            mac.update(bytes.fromhex(case["msg"]))
            assert (mac.finalize() == bytes.fromhex(case["tag"])) is (case["result"] == "valid"), case
            tried += 1
    assert tried == 87
