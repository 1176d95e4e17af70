"""A verifier of receipts of revocations, written from docs/revocation.md alone: nothing of ownkey is in it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_public_key

PROVED = {"in_force", "since_start", "stopped"}
SERVING = {"generate_data_key", "unwrap", "encrypt_media", "decrypt_media", "renew_lease"}


def check(file: bytes, pem: bytes) -> dict[str, Any]:
    """The receipt, whose signature is good and whose claims agree with each other."""
    document = json.loads(file)
    description = document["description"].encode()
    key: Any = load_pem_public_key(pem)
    key.verify(bytes.fromhex(document["signature"]), b"ownkey revocation receipt v1\x00" + description)
    said: dict[str, Any] = json.loads(description)
    assert said["format"] == 1
    for one in said["instances"]:
        assert one["proved"] is (one["standing"] in PROVED)
    assert said["complete"] is all(one["proved"] and not one.get("served_after") for one in said["instances"])
    return said


def check_against_trail(said: dict[str, Any], lines: Iterable[bytes]) -> None:
    """What the receipt says of each chain stands there: lines of an export, complete for these chains."""
    bodies: dict[int, dict[int, bytes]] = {}
    for line in lines:
        fields = json.loads(line)
        bodies.setdefault(fields["writer"], {})[fields["sequence"]] = line.rpartition(b',"hash":"')[0] + b"}"
    for one in said["instances"]:
        chain = bodies[one["writer"]]
        hashes = _hashes(chain, one["writer"])
        effect = one.get("effect")
        for place in filter(None, (effect, one["head"], one.get("restored"), one.get("drained"), *one["last_served"])):
            assert hashes[place["sequence"]] == place["hash"], place
        records = {number: json.loads(body) for number, body in chain.items()}
        if effect:
            record = records[effect["sequence"]]
            assert record["action"] == "revocation_in_force"
            assert record["detail"]["revocation"] == said["revocation"]["id"]
            assert record["time"] == effect["time"]
            for name in ("streams_ended", "streams_draining", "leases_ended"):
                assert record["detail"][name] == one[name]
        end = effect["sequence"] if effect else one["head"]["sequence"] + 1
        for served in one["last_served"]:
            assert served["sequence"] < end
            assert records[served["sequence"]]["action"] in SERVING


def _hashes(chain: dict[int, bytes], writer: int) -> dict[int, str]:
    detail = json.loads(chain[1])["detail"]
    described = json.dumps({**detail, "writer": writer}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    previous = hashlib.sha256(b"ownkey audit writer v1\x00" + described.encode()).digest()
    found = {}
    for sequence in range(1, len(chain) + 1):
        prefix = b"ownkey audit record v1\x00" + struct.pack(">QQ", writer, sequence)
        previous = hashlib.sha256(prefix + previous + chain[sequence]).digest()
        found[sequence] = previous.hex()
    return found
