"""Branch keys: how long after a revocation plaintext is still served, what they cost the key store, and what they save.

The revocation is a real one: a file beside the key, as its holder makes it. Probes are as good as off, so that nothing
but the lease ends it.
"""

from __future__ import annotations

import random
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from harness import Result, ownkey_server, ratio

from ownkey.v1 import asset_pb2, key_service_pb2, key_service_pb2_grpc

LEASE = 1.0
SETTINGS = {
    "OWNKEY_KEYS__BRANCH_LEASE_SECONDS": str(LEASE),
    "OWNKEY_KEYS__PROBE_INTERVAL_SECONDS": "3600",
    "OWNKEY_KEYS__EVIDENCE_MAX_AGE_SECONDS": "3600",
}
CHAT, RECORDING = asset_pb2.ASSET_CLASS_TEAM_CHAT, asset_pb2.ASSET_CLASS_PHONE_RECORDING


def results(quick: bool) -> list[Result]:
    folders: list[Path] = []
    with (
        ownkey_server(settings=SETTINGS, prepare=folders.append) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = key_service_pb2_grpc.KeyServiceStub(channel)
        calls = _calls_of_the_store(stub, folders[0] / "ownkey.db", 1_000 if quick else 10_000)
        saved = _against_direct(stub, 200 if quick else 2_000)
        last = _revocations(stub, folders[0] / "keys" / "acme-main.disabled", 10 if quick else 100)
    return [last, calls, saved]


def _request(asset_class: int, number: int) -> key_service_pb2.GenerateDataKeyRequest:
    asset = asset_pb2.Asset(tenant="acme", asset_class=asset_class, asset_id=f"a-{number}")  # type: ignore[arg-type]
    return key_service_pb2.GenerateDataKeyRequest(asset=asset, with_plaintext=True)


def _revocations(stub: key_service_pb2_grpc.KeyServiceStub, disabled: Path, tries: int) -> Result:
    """Take the key away at any moment of a lease, and ask on until nothing is served any more."""
    lasts = []
    for number in range(tries):
        asked = _request(CHAT, number)
        made = stub.GenerateDataKey(asked)
        unwrap = key_service_pb2.UnwrapRequest(
            asset=asked.asset, wrapped_key=made.wrapped_key, encryption_context=made.encryption_context
        )
        moment = time.monotonic() + random.uniform(0.2, 0.2 + LEASE)
        while time.monotonic() < moment:  # in use, so that it is renewed
            stub.Unwrap(unwrap)
        disabled.touch()
        at, last = time.monotonic(), 0.0
        while last < 10 * LEASE:
            try:
                stub.Unwrap(unwrap)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:  # type: ignore[attr-defined]
                    raise
                break
            last = time.monotonic() - at
        lasts.append(last)
        disabled.unlink()
    lasts.sort()
    shown = {
        "min": lasts[0],
        "median": statistics.median(lasts),
        "p99": lasts[min(len(lasts) - 1, round(0.99 * len(lasts)) - 1)],
        "max": lasts[-1],
    }
    print(
        "    the last plaintext after a revocation, in s: " + ", ".join(f"{k} {v:.3f}" for k, v in shown.items()),
        flush=True,
    )
    tenths = [sum(1 for one in lasts if edge <= one / LEASE * 10 < edge + 1) for edge in range(10)]
    beyond = sum(1 for one in lasts if one >= LEASE)
    print(f"    tries by tenths of the lease: {tenths}, beyond it: {beyond}", flush=True)
    return {
        "name": "last plaintext after a revocation, of a lease, at most",
        "value": round(lasts[-1] / LEASE, 3),
        "unit": "of the lease, received by the caller",
        "baseline": f"keys.branch_lease_seconds = {LEASE:g}",
        "runs": tries,
        "aim": 1.0,
        "met": lasts[-1] < LEASE,
        "seconds": {name: round(value, 4) for name, value in shown.items()},
    }


def _calls_of_the_store(stub: key_service_pb2_grpc.KeyServiceStub, database: Path, count: int) -> Result:
    """Make data keys, 32 at once, and count what the key store was asked, as the audit trail has it."""
    before = _opened(database)
    began = time.monotonic()
    for start in range(0, count, 32):
        under_way = [stub.GenerateDataKey.future(_request(CHAT, n)) for n in range(start, min(start + 32, count))]
        for one in under_way:
            one.result()
    elapsed = time.monotonic() - began
    calls, most = _opened(database) - before, 1 + elapsed / LEASE
    return {
        "name": f"calls of the key store for {count:,} data keys",
        "value": calls,
        "unit": f"calls in {elapsed:.1f} s; each lease is renewed a little ahead",
        "baseline": f"1 + elapsed / lease = {most:.2f}",
        "runs": 1,
        "aim": int(most) + 1,
        "met": calls <= int(most) + 1,
    }


def _opened(database: Path) -> int:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        bodies = [body for (body,) in connection.execute("select body from audit_records")]
    connection.close()
    return sum(b'"action":"make_branch_key"' in one or b'"action":"open_branch_key"' in one for one in bodies)


def _against_direct(stub: key_service_pb2_grpc.KeyServiceStub, count: int) -> Result:
    def seconds(asset_class: int) -> Callable[[int], float]:
        def one(number: int) -> float:
            began = time.perf_counter()
            stub.GenerateDataKey(_request(asset_class, number))
            return time.perf_counter() - began

        return one

    through, direct = seconds(CHAT), seconds(RECORDING)
    pairs = [(through(number), direct(number)) for number in range(count)]
    return ratio(
        "GenerateDataKey by a branch key",
        "directly, by the embedded key store, which answers in the process itself",
        [other / mine for mine, other in pairs],
        None,
        "of the rate of the baseline, one call at a time",
    )
