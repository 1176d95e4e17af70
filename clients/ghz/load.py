"""Start a server and put load on it with ghz: ``make load``. Loopback only, bounded in time.

The server has one core to itself and ghz another, where there are two: a rate is then what one core of a server does.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from ownkey.v1 import asset_pb2, key_service_pb2, key_service_pb2_grpc

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tools"))
from demo import served  # noqa: E402 - the demo's way to run a server

GHZ = "github.com/bojand/ghz/cmd/ghz@v0.121.0"
AUTHORIZE_CALL = ("--config", str(HERE / "authorize_call.json"))
PROFILES = ("GenerateDataKey", "Unwrap", "AuthorizeCall", "EncryptMedia")
WRAPPED_KEYS = 500
CHUNK = bytes(range(256)) * 1024
CHUNKS = 16
MAX_SECONDS = 300


def ghz_here() -> str | None:
    """The path of ghz, if it is installed."""
    found = shutil.which("ghz")
    if found:
        return found
    path = _go_bin() / "ghz"
    return str(path) if path.exists() else None


def find_ghz() -> str:
    """The path of ghz, installed with Go if need be."""
    found = ghz_here()
    if found:
        return found
    if not shutil.which("go"):
        sys.exit(f"this needs ghz 0.121.0: install Go and run `go install {GHZ}`, or put a release of it on the PATH")
    print(f"installing {GHZ}", flush=True)
    subprocess.run(["go", "install", GHZ], check=True)  # noqa: S607 - Go is where its user has it
    return str(_go_bin() / "ghz")


def _go_bin() -> Path:
    """Where Go puts what it installs."""
    go = shutil.which("go")
    if not go:
        return Path.home() / "go" / "bin"
    told = subprocess.run([go, "env", "GOBIN", "GOPATH"], capture_output=True, text=True, check=True)
    own, path = told.stdout.splitlines()
    return Path(own) if own else Path(path.partition(os.pathsep)[0]) / "bin"


def cores() -> tuple[int, int] | None:
    """A core for the server and one for ghz; None where there is one only, or the system cannot pin."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    there = sorted(os.sched_getaffinity(0))
    return (there[0], there[1]) if len(there) > 1 else None


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Processes that start inside run on that core; anywhere for None."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def unwrap_requests(address: str) -> list[dict[str, Any]]:
    """Requests to unwrap keys of as many different assets."""
    requests = []
    with grpc.insecure_channel(address) as channel:
        service = key_service_pb2_grpc.KeyServiceStub(channel)
        for number in range(WRAPPED_KEYS):
            asset = {"tenant": "acme", "asset_class": 1 + number % 7, "asset_id": f"unwrap-{number}"}
            request = key_service_pb2.GenerateDataKeyRequest(asset=asset_pb2.Asset(**asset))  # type: ignore[arg-type]
            made = service.GenerateDataKey(request, timeout=5)
            requests.append(
                {
                    "asset": asset,
                    "wrapped_key": base64.b64encode(made.wrapped_key).decode(),
                    "encryption_context": dict(made.encryption_context),
                }
            )
    return requests


def encrypt_messages() -> list[dict[str, Any]]:
    """The messages of one stream."""
    asset = {"tenant": "acme", "asset_class": "ASSET_CLASS_PHONE_RECORDING", "asset_id": "stream"}
    return [{"start": {"asset": asset}}, *[{"chunk": base64.b64encode(CHUNK).decode()}] * CHUNKS]


def run(ghz: str, address: str, *arguments: str, seconds: float, at_once: int, core: int | None) -> dict[str, Any]:
    """One profile's report.

    Args:
        ghz: Path of the program.
        address: Of the server.
        arguments: What to call, and with what.
        seconds: For how long.
        at_once: Calls under way at a time, over two connections where there are several.
        core: Where ghz runs; None for anywhere.
    """
    command = [ghz, "--insecure", "-z", f"{seconds:g}s", "-c", str(at_once), "--connections", str(min(2, at_once))]
    command += ["--duration-stop", "wait", "-O", "json", *arguments, address]
    with pinned(core):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    if done.returncode:
        sys.exit(f"ghz failed: {done.stderr.strip() or done.stdout.strip()}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def figures_of(name: str, report: dict[str, Any]) -> dict[str, Any]:
    """What of a report counts."""
    at = {entry["percentage"]: entry["latency"] / 1e6 for entry in report.get("latencyDistribution") or []}
    errors: dict[str, int] = report.get("errorDistribution") or {}
    return {
        "name": name,
        "rate": report["rps"],
        "p50_ms": at.get(50, 0.0),
        "p95_ms": at.get(95, 0.0),
        "p99_ms": at.get(99, 0.0),
        "calls": report["count"],
        "errors": sum(errors.values()),
        "messages": errors,
    }


def show(figures: dict[str, Any]) -> None:
    """Print one line, and what went wrong."""
    print(
        f"{figures['name']:<18}{figures['rate']:>9.0f}/s {figures['p50_ms']:>9.2f} {figures['p95_ms']:>9.2f}"
        f" {figures['p99_ms']:>9.2f}  {figures['calls']:>8} calls, {figures['errors']} errors",
        flush=True,
    )
    for message, count in figures["messages"].items():
        print(f"    {count} x {message}", flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="how long each profile runs (default 5)")
    parser.add_argument("--concurrency", type=int, default=16, help="calls at once (default 16)")
    parser.add_argument(
        "--only", action="append", choices=PROFILES, metavar="NAME", help=f"one of {', '.join(PROFILES)}; repeatable"
    )
    parser.add_argument("--share-cores", action="store_true", help="let server and ghz run on all cores")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if not 1 <= options.seconds <= MAX_SECONDS:
        parser.error(f"--seconds must be 1 to {MAX_SECONDS}")
    if options.concurrency < 1:
        parser.error("--concurrency must be 1 or more")
    ghz = find_ghz()
    server_core, ghz_core = (None, None) if options.share_cores else cores() or (None, None)
    where = "one core for the server, another for ghz"
    if server_core is None:
        where = f"server and ghz share {os.cpu_count()} cores"
    print(f"{options.concurrency} calls at once for {options.seconds} s each; {where}")
    print(f"{'':<18}{'rate':>11} {'p50 ms':>9} {'p95 ms':>9} {'p99 ms':>9}")
    results = []
    command = str(Path(sys.executable).parent / "ownkey")
    with tempfile.TemporaryDirectory(prefix="ownkey-load-") as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        subprocess.run([command, "init", str(folder)], check=True, capture_output=True)
        with pinned(server_core):
            address = stack.enter_context(served(command, folder, settings={}))
        for name in options.only or PROFILES:
            report = run(
                ghz,
                address,
                *_profile(name, address, folder),
                seconds=options.seconds,
                at_once=options.concurrency,
                core=ghz_core,
            )
            results.append(figures_of(name, report))
            show(results[-1])
    for streams in (one for one in results if one["name"] == "EncryptMedia"):
        print(f"EncryptMedia: {streams['rate'] * len(CHUNK) * CHUNKS / 1e6:.0f} MB/s in streams of 4 MiB")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 1 if any(result["errors"] for result in results) else 0


def _profile(name: str, address: str, folder: Path) -> tuple[str, ...]:
    """The arguments of a profile; what it needs is made in the folder."""
    match name:
        case "GenerateDataKey":
            return "--config", str(HERE / "generate_data_key.json")
        case "AuthorizeCall":
            return AUTHORIZE_CALL
        case "Unwrap":
            data: list[dict[str, Any]] = unwrap_requests(address)
        case _:
            data = encrypt_messages()
    path = folder / f"{name}.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    plain = ("--disable-template-functions", "--disable-template-data", "--data-file", str(path))
    return "--call", f"ownkey.v1.KeyService/{name}", *plain


if __name__ == "__main__":
    sys.exit(main())
