"""Keys in a PKCS#11 token (SoftHSM): what ownkey costs beside the bare module, and what faults of a token cost callers.

The bare module is what ownkey's own process of it does: random bytes and AES-GCM under a key in the token, by one
thread. Through ownkey that is GenerateDataKey and Unwrap, with RPC, policy, audit record and status, by callers enough
to keep it busy. A process of the module for each session, or the module on a thread of the server, are measured in the
same run. The faults are those of ``tests/e2e/hsm/test_faults.py``, at 200 calls a second, each with a deadline of two
seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from harness import CLIENT_CORE, HERE, SERVER_CORE, Result, pinned

from ownkey.v1 import key_service_pb2, key_service_pb2_grpc

sys.path.insert(0, str(HERE.parent / "tests"))
from support import server
from support.hsm_faults import FAULTS, Place
from support.hsm_pair import (
    FIRST,
    SECOND,
    TENANTS,
    load_key,
    pair,
    replica_states,
    seconds_until,
    settings_of,
    steady_load,
)
from support.rpc import asset
from support.server import ServerProcess
from support.softhsm import MODULE_PATHS, PIN, SoftHsm

RATE, DEADLINE = 200.0, 2.0
LEAST_SERVED = 0.999
TRUTH_SECONDS = 5.0
HANG_SECONDS = 30.0
SESSIONS = (1, 2, 4, 8)
_BARE = """
import sys, time, pkcs11
from pkcs11 import Attribute, Mechanism
from pkcs11.mechanisms import GCMParams
module, token, pin, label, seconds = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=token).open(user_pin=pin) as session:
    key = next(iter(list(session.get_objects({Attribute.LABEL: label}))))
    aad = bytes(120)
    for kind in ("wrap", "unwrap"):
        iv, made, count = bytes(12), None, 0
        until = time.perf_counter() + float(seconds)
        while time.perf_counter() < until:
            if kind == "wrap" or made is None:
                data_key, iv = session.generate_random(256), session.generate_random(96)
                made = key.encrypt(data_key, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(iv, aad, 128))
            else:
                key.decrypt(made, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(iv, aad, 128))
            count += 1
        print(count / float(seconds))
"""


def results(quick: bool) -> list[Result]:
    if not any(Path(path).exists() for path in MODULE_PATHS):
        print("    SoftHSM is not installed: apt-get install softhsm2", flush=True)
        return []
    with tempfile.TemporaryDirectory(prefix="ownkey-softhsm-") as folder:
        softhsm = SoftHsm(Path(folder))
        return [*_costs(softhsm, 1.0 if quick else 5.0), *_faults(softhsm, quick)]


def _costs(softhsm: SoftHsm, seconds: float) -> list[Result]:
    value = os.urandom(32)
    for token in (FIRST, SECOND):
        softhsm.make_token(token)
        load_key(softhsm, token, value)
    found: list[Result] = []
    rates: dict[str, dict[str, float]] = {}
    for name, more in (
        ("thread", 'isolation = "thread"'),
        *((f"{count} sessions", f"sessions = {count}") for count in SESSIONS),
    ):
        bare = _bare(softhsm, seconds)
        with _serving(softhsm, more) as running:
            rates[name] = _rates(running.address, seconds)
        for kind, rate in rates[name].items():
            what = "GenerateDataKey" if kind == "wrap" else "Unwrap"
            where = "module on a thread" if name == "thread" else f"{name}, a process each"
            found.append(
                {
                    "name": f"{what} through ownkey, {where}",
                    "ratio": round(rate / bare[kind], 3),
                    "unit": f"of the bare module's rate: {rate:.0f}/s",
                    "baseline": f"{bare[kind]:.0f}/s by one thread in a program of its own, of the same minute",
                    "runs": 1,
                    "aim": None,
                    "met": None,
                }
            )
    for kind in ("wrap", "unwrap"):
        thread, process = rates["thread"][kind], rates[f"{SESSIONS[0]} sessions"][kind]
        scaling = ", ".join(f"{count}: {rates[f'{count} sessions'][kind] / process:.2f}" for count in SESSIONS)
        print(
            f"    {kind}: a process costs {1 - process / thread:.0%} of the thread's rate; by sessions {scaling}",
            flush=True,
        )
    for token in (FIRST, SECOND):
        softhsm.delete_token(token)
    return found


def _bare(softhsm: SoftHsm, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-c", _BARE, str(softhsm.module), FIRST, PIN, "acme-main", str(seconds)]
    with pinned(SERVER_CORE):
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(("wrap", "unwrap"), map(float, told), strict=True))


@contextlib.contextmanager
def _serving(softhsm: SoftHsm, more: str) -> Iterator[ServerProcess]:
    with tempfile.TemporaryDirectory(prefix="ownkey-benchmark-") as folder, pinned(SERVER_CORE):
        extra = settings_of(softhsm, more=more)
        with server.process(Path(folder), tenants=TENANTS, extra=extra) as running:
            yield running


def _rates(address: str, seconds: float) -> dict[str, float]:
    """Calls a second of each kind, by 16 callers."""

    async def measure() -> dict[str, float]:
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with contextlib.AsyncExitStack() as stack:
            channels = [await stack.enter_async_context(grpc.aio.insecure_channel(address, options)) for _ in range(4)]
            stubs = [key_service_pb2_grpc.KeyServiceStub(channel) for channel in channels]
            generate = key_service_pb2.GenerateDataKeyRequest(asset=asset(), with_plaintext=True)
            made = await stubs[0].GenerateDataKey(generate, timeout=20)
            unwrap = key_service_pb2.UnwrapRequest(
                asset=asset(), wrapped_key=made.wrapped_key, encryption_context=made.encryption_context
            )
            found = {}
            # The first round lets every process of the module start, and is not counted.
            for kind in ("wrap", "wrap", "unwrap"):
                until, counts = time.perf_counter() + seconds, [0] * 16

                async def call(number: int, kind: str = kind, until: float = until, counts: list[int] = counts) -> None:
                    stub = stubs[number % 4]
                    while time.perf_counter() < until:
                        await (stub.GenerateDataKey(generate) if kind == "wrap" else stub.Unwrap(unwrap))
                        counts[number] += 1

                await asyncio.gather(*(call(number) for number in range(16)))
                found[kind] = sum(counts) / seconds
            return found

    with pinned(CLIENT_CORE):
        return asyncio.run(measure())


def _faults(softhsm: SoftHsm, quick: bool) -> list[Result]:
    found: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="ownkey-benchmark-") as folder, pair(Path(folder), softhsm) as running:
        place = Place(softhsm, FIRST, running.pid)

        def state() -> str:
            return replica_states(running.address)[FIRST][0]

        for fault in FAULTS:
            seconds_until(lambda: state() == "AVAILABLE")
            lasts = HANG_SECONDS if fault.name == "library hangs" and not quick else 5.0
            truth = 0.0
            with steady_load(running.address, RATE, DEADLINE) as load:
                seconds_until(lambda load=load: len(load.served) > 2 * RATE)
                began = time.monotonic()
                with fault.at(place):
                    if fault.shows:
                        truth = seconds_until(lambda fault=fault: state() in fault.shows)
                    time.sleep(max(0.0, lasts - (time.monotonic() - began)))
                recovery = seconds_until(lambda: state() == "AVAILABLE", 60.0)
                after = len(load.served)
                seconds_until(lambda load=load, after=after: len(load.served) > after + RATE)
            slowest = statistics.quantiles(load.served, n=1000)
            told = f"told in {truth:.1f} s, " if fault.shows else ""
            found.append(
                {
                    "name": f"served of all at {RATE:g}/s: {fault.name}",
                    "ratio": round(load.share, 5),
                    "unit": f"of all calls; {told}available again {recovery:.1f} s after it was mended",
                    "baseline": f"{load}; p99 {1000 * slowest[989]:.0f} ms, p99.9 {1000 * slowest[998]:.0f} ms; "
                    f"{load.wrong} by a wrong key",
                    "runs": 1,
                    "aim": LEAST_SERVED,
                    "met": load.share >= LEAST_SERVED and load.wrong == 0 and truth < TRUTH_SECONDS,
                }
            )
    return found
