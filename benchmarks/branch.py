"""Branch keys: how long after a revocation plaintext is still served, what they cost the key store, and what they save.

The key is in AWS KMS (the fake one of the tests, as a process of its own), and the revocation is DisableKey. Probes are
as good as off, so that nothing but the lease ends it. It is measured with one instance, and with two over one
PostgreSQL, each of which holds the branch key by a lease of its own: the last plaintext counts, whichever gave it.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import grpc
from harness import HERE, NOTHING, OWNKEY, Result, ratio
from kms_server import Kms, fake_kms, kms_server

from ownkey.v1 import asset_pb2, key_service_pb2, key_service_pb2_grpc

sys.path.insert(0, str(HERE.parent / "tests"))
from support import postgres

LEASE = 1.0
# Enough that a renewal a little ahead of its time makes no call more in as many leases as ten thousand data keys take.
LEASE_OF_CALLS = 5.0
REGION = "eu-west-1"
QUIET = {"OWNKEY_KEYS__PROBE_INTERVAL_SECONDS": "3600", "OWNKEY_KEYS__EVIDENCE_MAX_AGE_SECONDS": "3600"}
CHAT, RECORDING = asset_pb2.ASSET_CLASS_TEAM_CHAT, asset_pb2.ASSET_CLASS_PHONE_RECORDING


def results(quick: bool) -> list[Result]:
    tries = 10 if quick else 100
    with fake_kms() as kms:
        key = kms.new_key(REGION)
        folders: list[Path] = []
        with _instances(kms, key, 1, LEASE_OF_CALLS, folders=folders) as (stub,):
            calls = _calls_of_the_store(stub, folders[0] / "ownkey.db", 1_000 if quick else 10_000)
            saved = _against_direct(stub, 200 if quick else 2_000)
        with _instances(kms, key, 1, LEASE) as one:
            alone = _revocations(one, kms, key, tries, "one instance")
        with _database() as url, _instances(kms, key, 2, LEASE, {"OWNKEY_STORAGE__URL": url}) as two:
            both = _revocations(two, kms, key, tries, "two instances over PostgreSQL")
    return [alone, both, calls, saved]


@contextlib.contextmanager
def _database() -> Iterator[str]:
    with postgres.server() as server:
        yield server.new_database()


@contextlib.contextmanager
def _instances(
    kms: Kms, key: str, count: int, lease: float, more: Mapping[str, str] = NOTHING, folders: list[Path] | None = None
) -> Iterator[list[key_service_pb2_grpc.KeyServiceStub]]:
    """Servers over one database, if the settings name one; all with the files of the first, in `folders`."""
    settings = {**QUIET, "OWNKEY_KEYS__BRANCH_LEASE_SECONDS": str(lease), **more}
    first: list[Path] = [] if folders is None else folders

    def prepared(folder: Path) -> None:
        if first:
            shutil.copytree(first[0], folder, dirs_exist_ok=True)
            return
        first.append(folder)
        if more:
            command = [OWNKEY, "db", "upgrade", "--config", str(folder / "ownkey.toml")]
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, **settings})

    with contextlib.ExitStack() as stack:
        stubs = []
        for _ in range(count):
            server = stack.enter_context(kms_server({"acme": key}, {REGION: kms.url}, settings, prepared))
            channel = stack.enter_context(grpc.insecure_channel(server.address))
            stubs.append(key_service_pb2_grpc.KeyServiceStub(channel))
        yield stubs


def _request(asset_class: int, number: int) -> key_service_pb2.GenerateDataKeyRequest:
    asset = asset_pb2.Asset(tenant="acme", asset_class=asset_class, asset_id=f"a-{number}")  # type: ignore[arg-type]
    return key_service_pb2.GenerateDataKeyRequest(asset=asset, with_plaintext=True)


def _revocations(
    stubs: Sequence[key_service_pb2_grpc.KeyServiceStub], kms: Kms, key: str, tries: int, where: str
) -> Result:
    """Take the key away at any moment of a lease, and ask on until nothing is served any more, anywhere."""
    holder = kms.client(REGION)
    lasts = []
    for number in range(tries):
        asked = _request(CHAT, number)
        made = stubs[0].GenerateDataKey(asked)
        unwrap = key_service_pb2.UnwrapRequest(
            asset=asked.asset, wrapped_key=made.wrapped_key, encryption_context=made.encryption_context
        )
        moment = time.monotonic() + random.uniform(0.2, 0.2 + LEASE)
        while time.monotonic() < moment:  # in use, so that it is renewed
            for stub in stubs:
                stub.Unwrap(unwrap)
        holder.disable_key(KeyId=key)
        at, last, serving = time.monotonic(), 0.0, list(stubs)
        while serving and last < 10 * LEASE:
            for stub in tuple(serving):
                if _opens(stub, unwrap):
                    last = time.monotonic() - at
                else:
                    serving.remove(stub)
        lasts.append(last)
        holder.enable_key(KeyId=key)
    lasts.sort()
    shown = {
        "min": lasts[0],
        "median": statistics.median(lasts),
        "p99": lasts[min(len(lasts) - 1, round(0.99 * len(lasts)) - 1)],
        "max": lasts[-1],
    }
    print(
        f"    {where}: the last plaintext after a revocation, in s: "
        + ", ".join(f"{k} {v:.3f}" for k, v in shown.items()),
        flush=True,
    )
    tenths = [sum(1 for one in lasts if edge <= one / LEASE * 10 < edge + 1) for edge in range(10)]
    beyond = sum(1 for one in lasts if one >= LEASE)
    print(f"    tries by tenths of the lease: {tenths}, beyond it: {beyond}", flush=True)
    return {
        "name": f"last plaintext after a revocation, {where}, at most",
        "value": round(lasts[-1] / LEASE, 3),
        "unit": "of the lease, received by the caller",
        "baseline": f"keys.branch_lease_seconds = {LEASE:g}",
        "runs": tries,
        "aim": 1.0,
        "met": lasts[-1] < LEASE,
        "seconds": {name: round(value, 4) for name, value in shown.items()},
    }


def _opens(stub: key_service_pb2_grpc.KeyServiceStub, unwrap: key_service_pb2.UnwrapRequest) -> bool:
    try:
        stub.Unwrap(unwrap)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:  # type: ignore[attr-defined]
            raise
        return False
    return True


def _calls_of_the_store(stub: key_service_pb2_grpc.KeyServiceStub, database: Path, count: int) -> Result:
    """Make data keys, 32 at once, until there are enough and a lease is over, and count what the key store was asked,
    as the audit trail has it."""
    before = _opened(database)
    began, made = time.monotonic(), 0
    least = LEASE_OF_CALLS
    while made < count or time.monotonic() - began < least:
        under_way = [stub.GenerateDataKey.future(_request(CHAT, n)) for n in range(made, made + 32)]
        for one in under_way:
            one.result()
        made += len(under_way)
        if made < count:  # in whole leases, for a renewal comes a little ahead
            least = LEASE_OF_CALLS * (1 + (time.monotonic() - began) // LEASE_OF_CALLS)
    elapsed = time.monotonic() - began
    calls, most = _opened(database) - before, 1 + elapsed / LEASE_OF_CALLS
    return {
        "name": f"calls of the key store for {count:,} data keys and more",
        "value": calls,
        "unit": f"calls for {made:,} data keys in {elapsed:.1f} s of leases of {LEASE_OF_CALLS:g} s",
        "baseline": "1 + elapsed / lease",
        "runs": 1,
        "aim": round(most, 2),
        "met": calls <= most,
    }


def _opened(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        bodies = [body for (body,) in connection.execute("select body from audit_records")]
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
        "directly, by a fake of AWS KMS that answers at once",
        [other / mine for mine, other in pairs],
        None,
        "of the rate of the baseline, one call at a time",
    )
