"""Keys in a PKCS#11 token (SoftHSM): what ownkey costs beside the bare module, and what faults of a token cost callers.

The bare module is what ownkey's own process of it does: random bytes and AES-GCM under a key in the token, by one
thread. Through ownkey that is GenerateDataKey and Unwrap, with RPC, policy, audit record and status, by callers enough
to keep it busy. A process of the module for each session, or the module on a thread of the server, are measured in the
same run, the two of one session by turns. The faults are those of ``tests/e2e/hsm/test_faults.py``, at 200 calls a
second, each with a deadline of two seconds.
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
from harness import CLIENT_CORE, HERE, SERVER_CORE, Result, cpu_seconds, pinned, ratio

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
ROUNDS = 7
WHAT = {"wrap": "GenerateDataKey", "unwrap": "Unwrap"}
# Servers of tests look at their keys far more often than users' do.
USUAL = {"recovery_seconds = 0.1\nprobe_interval_seconds = 0.2 ": "probe_interval_seconds = 10 "}
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
    found = _process_and_thread(softhsm, seconds)
    one: dict[str, float] = {}
    scaling: dict[str, list[str]] = {kind: [] for kind in WHAT}
    for count in SESSIONS:
        bare = _bare(softhsm, seconds)
        with _serving(softhsm, f"sessions = {count}") as running:
            rates = _rates(running.address, seconds)
        one = one or rates
        for kind, rate in rates.items():
            scaling[kind].append(f"{count}: {rate / one[kind]:.2f}")
            found.append(
                {
                    "name": f"{WHAT[kind]} through ownkey, sessions: {count}, a process each",
                    "ratio": round(rate / bare[kind], 3),
                    "unit": f"of the bare module's rate: {rate:.0f}/s",
                    "baseline": f"{bare[kind]:.0f}/s by one thread in a program of its own, of the same minute",
                    "runs": 1,
                    "aim": None,
                    "met": None,
                }
            )
    for kind, shares in scaling.items():
        print(f"    {kind}: by sessions {', '.join(shares)}", flush=True)
    for token in (FIRST, SECOND):
        softhsm.delete_token(token)
    return found


def _process_and_thread(softhsm: SoftHsm, seconds: float) -> list[Result]:
    """What a process of its own costs, of one session: two servers by turns, so that both have the machine as it is.

    Others who use the machine change how long a call takes far more than how much of a processor it takes.
    """
    shares: dict[str, list[float]] = {kind: [] for kind in WHAT}
    costs: list[float] = []
    with _serving(softhsm, 'isolation = "thread"') as thread, _serving(softhsm, "sessions = 1") as process:
        for turn in range(ROUNDS + 1):
            rates, used = {}, {}
            for one in (thread, process) if turn % 2 else (process, thread):
                before = _processor_seconds(one.pid)
                rates[one] = _rates(one.address, seconds / 2)
                # Of the first kind there are two rounds.
                calls = (2 * rates[one]["wrap"] + rates[one]["unwrap"]) * seconds / 2
                used[one] = 1000 * (_processor_seconds(one.pid) - before) / calls
            if not turn:
                continue
            costs.append(used[process] / used[thread])
            for kind, found in shares.items():
                found.append(rates[process][kind] / rates[thread][kind])
            told = (
                f"{name}: {rates[one]['wrap']:.0f}/s wrap, {rates[one]['unwrap']:.0f}/s unwrap, {used[one]:.2f} ms"
                for name, one in (("process", process), ("thread", thread))
            )
            print(f"    {'; '.join(told)} of a processor a call", flush=True)
    unit = "of the processor time of a call"
    baseline = "the module on a thread, by turns on the same core"
    return [
        ratio("GenerateDataKey and Unwrap with the module in a process of its own", baseline, costs, None, unit),
        *(
            ratio(f"{WHAT[kind]} with the module in a process of its own", baseline, shares[kind], None)
            for kind in WHAT
        ),
    ]


def _processor_seconds(pid: int) -> float:
    """What a server and the processes of its modules have used."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return cpu_seconds(pid) + sum(cpu_seconds(int(child)) for child in children)


def _bare(softhsm: SoftHsm, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-c", _BARE, str(softhsm.module), FIRST, PIN, "acme-main", str(seconds)]
    with pinned(SERVER_CORE):
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(("wrap", "unwrap"), map(float, told), strict=True))


@contextlib.contextmanager
def _serving(softhsm: SoftHsm, more: str) -> Iterator[ServerProcess]:
    with tempfile.TemporaryDirectory(prefix="ownkey-benchmark-") as folder, pinned(SERVER_CORE):
        extra = settings_of(softhsm, more=more)
        with server.process(Path(folder), tenants=TENANTS, extra=extra, replace=USUAL) as running:
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
