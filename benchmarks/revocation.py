"""Revoke: how long after the call began plaintext is still served, with one instance and with two over one PostgreSQL.

Keys are in files, wrapped directly and by branch keys in turn: it is the revocation here that ends them, at the
instance that was called and at the other. Each instance is asked on without a pause until it refuses; the last
plaintext that was received counts, whichever gave it. Beside it stands when each chain has the effect, by its own
clock, as the signed receipt says.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import grpc
from harness import HERE, NOTHING, OWNKEY, Result, ownkey_server

from ownkey.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    asset_pb2,
    key_service_pb2,
    key_service_pb2_grpc,
    revocation_pb2,
)

sys.path.insert(0, str(HERE.parent / "tests"))
from support import postgres

BOUND = 1.0
CLASSES = (asset_pb2.ASSET_CLASS_TEAM_CHAT, asset_pb2.ASSET_CLASS_PHONE_RECORDING)

Stub = key_service_pb2_grpc.KeyServiceStub


def results(quick: bool) -> list[Result]:
    tries = 10 if quick else 100
    with _instances(1) as one:
        alone = _revocations(one, tries, "one instance")
    with postgres.server() as server, _instances(2, {"OWNKEY_STORAGE__URL": server.new_database()}) as two:
        both = _revocations(two, tries, "two instances over PostgreSQL")
    return [alone, both]


@contextlib.contextmanager
def _instances(count: int, more: Mapping[str, str] = NOTHING) -> Iterator[list[grpc.Channel]]:
    first: list[Path] = []

    def prepared(folder: Path) -> None:
        if first:
            shutil.copytree(first[0], folder, dirs_exist_ok=True)
            return
        first.append(folder)
        if more:
            command = [OWNKEY, "db", "upgrade", "--config", str(folder / "ownkey.toml")]
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, **more})

    with contextlib.ExitStack() as stack:
        channels = []
        for _ in range(count):
            server = stack.enter_context(ownkey_server(settings=more, prepare=prepared))
            channels.append(stack.enter_context(grpc.insecure_channel(server.address)))
        yield channels


def _revocations(channels: Sequence[grpc.Channel], tries: int, where: str) -> Result:
    admin = admin_service_pb2_grpc.AdminServiceStub(channels[0])
    stubs = [key_service_pb2_grpc.KeyServiceStub(channel) for channel in channels]
    lasts, effects = [], []
    for number in range(tries):
        asked = key_service_pb2.GenerateDataKeyRequest(
            asset=asset_pb2.Asset(tenant="acme", asset_class=CLASSES[number % 2], asset_id=f"a-{number}"),
            with_plaintext=True,
        )
        made = stubs[0].GenerateDataKey(asked)
        unwrap = key_service_pb2.UnwrapRequest(
            asset=asked.asset, wrapped_key=made.wrapped_key, encryption_context=made.encryption_context
        )
        for stub in stubs:
            stub.Unwrap(unwrap)
        readers = [_Reader(stub, unwrap) for stub in stubs]
        at = time.monotonic()
        scope = revocation_pb2.RevocationScope(asset_ids=[f"a-{number}"])
        revocation = admin.Revoke(admin_service_pb2.RevokeRequest(tenant="acme", scope=scope)).revocation.id
        lasts.append(max(reader.last() for reader in readers) - at)
        effects += _effects(admin, revocation)
    lasts, effects = sorted(max(0.0, one) for one in lasts), sorted(effects)
    _show(f"{where}: the last plaintext after Revoke was called", lasts)
    _show(f"{where}: the effect in each chain after the act, by its clock", effects)
    return {
        "name": f"last plaintext after Revoke, {where}, at most",
        "value": round(lasts[-1], 3),
        "unit": "s, received by the caller",
        "baseline": f"the stated bound, {BOUND:g} s",
        "runs": tries,
        "aim": BOUND,
        "met": lasts[-1] < BOUND,
        "seconds": _spread(lasts),
    }


class _Reader:
    """Asks one instance on until it refuses, in a thread."""

    def __init__(self, stub: Stub, unwrap: key_service_pb2.UnwrapRequest) -> None:
        self._stub, self._unwrap = stub, unwrap
        self._last = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            while True:
                self._stub.Unwrap(self._unwrap, timeout=10)
                self._last = time.monotonic()

    def last(self) -> float:
        """When the last plaintext came."""
        self._thread.join()
        return self._last


def _effects(admin: admin_service_pb2_grpc.AdminServiceStub, revocation: str) -> list[float]:
    """Seconds from the act to the effect in each chain, as the receipt says when it is complete."""
    request = admin_service_pb2.GetRevocationReceiptRequest(tenant="acme", revocation=revocation)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        receipt = admin.GetRevocationReceipt(request).receipt
        if receipt.complete:
            said = json.loads(receipt.description)
            since = datetime.fromisoformat(said["since"])
            times = [datetime.fromisoformat(one["effect"]["time"]) for one in said["instances"]]
            return [(one - since).total_seconds() for one in times]
        time.sleep(0.02)
    raise RuntimeError(f"the receipt does not become complete: {receipt.description}")


def _spread(values: Sequence[float]) -> dict[str, float]:
    p99 = values[min(len(values) - 1, round(0.99 * len(values)) - 1)]
    spread = {"min": values[0], "median": statistics.median(values), "p99": p99, "max": values[-1]}
    return {name: round(value, 4) for name, value in spread.items()}


def _show(what: str, values: Sequence[float]) -> None:
    told = ", ".join(f"{name} {value:.3f}" for name, value in _spread(values).items())
    print(f"    {what}, in s: {told}; bound {BOUND:g}", flush=True)
