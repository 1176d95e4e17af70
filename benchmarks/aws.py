"""What ownkey adds to a call of AWS KMS: one caller, and the same call of boto3 in the same minute.

The difference is all that a service gets beside the key: the RPC, who calls and what policy says, the key store's
threads, and an audit record that is durable before the answer. The fake of KMS answers at once, so that nothing hides
behind its time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack

import grpc
from client import ASSET
from harness import Result
from kms_server import fake_kms, kms_server

from ownkey.v1 import key_service_pb2, key_service_pb2_grpc

REGION = "eu-west-1"
CONTEXT = {"ownkey:tenant": ASSET.tenant, "ownkey:asset-class": "phone_recording", "ownkey:asset-id": "benchmark"}

Call = Callable[[], object]


def milliseconds(call: Call, calls: int) -> list[float]:
    """How long each of so many calls took, one after the other, in order of length."""
    taken = []
    for _ in range(calls):
        begin = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - begin))
    return sorted(taken)


def percentile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def results(quick: bool) -> list[Result]:
    rounds, calls = (3, 100) if quick else (15, 300)
    with ExitStack() as stack:
        kms = stack.enter_context(fake_kms())
        key = kms.new_key(REGION)
        server = stack.enter_context(kms_server({ASSET.tenant: key}, {REGION: kms.url}))
        channel = stack.enter_context(grpc.insecure_channel(server.address))
        stub, boto = key_service_pb2_grpc.KeyServiceStub(channel), kms.client(REGION)
        asked = key_service_pb2.GenerateDataKeyRequest(asset=ASSET, with_plaintext=True)
        made = stub.GenerateDataKey(asked)
        opening = key_service_pb2.UnwrapRequest(
            asset=ASSET, wrapped_key=made.wrapped_key, encryption_context=made.encryption_context
        )
        blob = boto.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=CONTEXT)["CiphertextBlob"]
        pairs: dict[str, tuple[Call, Call]] = {
            "GenerateDataKey": (
                lambda: stub.GenerateDataKey(asked),
                lambda: boto.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=CONTEXT),
            ),
            "Unwrap": (
                lambda: stub.Unwrap(opening),
                lambda: boto.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionContext=CONTEXT),
            ),
        }
        taken: dict[str, list[tuple[list[float], list[float]]]] = {name: [] for name in pairs}
        for turn in range(rounds + 1):
            for name, (ours, bare) in pairs.items():
                round_ = (milliseconds(ours, calls), milliseconds(bare, calls))
                if turn:
                    taken[name].append(round_)
    return [_figure(name, percent, rounds_) for name, rounds_ in taken.items() for percent in (50, 99)]


def _figure(name: str, percent: int, rounds: list[tuple[list[float], list[float]]]) -> Result:
    added = [percentile(ours, percent) - percentile(bare, percent) for ours, bare in rounds]
    alone = statistics.median(percentile(bare, percent) for _, bare in rounds)
    spread = statistics.quantiles(added, n=4)
    return {
        "name": f"{name} under a key in AWS KMS, added at p{percent}",
        "value": round(statistics.median(added), 2),
        "unit": "ms more than a bare call of boto3",
        "baseline": f"which takes {alone:.2f} ms",
        "runs": len(rounds),
        "middle_half": [round(spread[0], 2), round(spread[2], 2)],
        "aim": None,
        "met": None,
    }
