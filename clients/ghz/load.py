"""Start a server and put load on it with ghz: ``make load``. Loopback only, bounded in time."""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc

from ownkey.v1 import asset_pb2, key_service_pb2, key_service_pb2_grpc

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tools"))
from demo import served  # noqa: E402 - the demo's way to run a server

GHZ = "github.com/bojand/ghz/cmd/ghz@v0.121.0"
WRAPPED_KEYS = 500
CHUNK = bytes(range(256)) * 1024
CHUNKS = 16
MAX_SECONDS = 300


def find_ghz() -> str:
    """The path of ghz, installed with Go if need be."""
    found = shutil.which("ghz")
    if found:
        return found
    go = shutil.which("go")
    if not go:
        sys.exit(f"this needs ghz 0.121.0: install Go and run `go install {GHZ}`, or put a release of it on the PATH")
    bin_dir = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=True).stdout.strip()
    path = Path(bin_dir) / "bin" / "ghz"
    if not path.exists():
        print(f"installing {GHZ}", flush=True)
        subprocess.run([go, "install", GHZ], check=True)
    return str(path)


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


def run(ghz: str, address: str, options: argparse.Namespace, *arguments: str) -> dict[str, Any]:
    """One profile's report."""
    command = [ghz, "--insecure", "-z", f"{options.seconds}s", "-c", str(options.concurrency), "--connections", "2"]
    command += ["--duration-stop", "wait", "-O", "json", *arguments, address]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=options.seconds + 60)
    if done.returncode:
        sys.exit(f"ghz failed: {done.stderr.strip() or done.stdout.strip()}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def show(name: str, report: dict[str, Any]) -> dict[str, Any]:
    """Print one line; give the figures."""
    at = {entry["percentage"]: entry["latency"] / 1e6 for entry in report.get("latencyDistribution") or []}
    errors = report.get("errorDistribution") or {}
    figures = {
        "name": name,
        "rate": report["rps"],
        "p50_ms": at.get(50, 0.0),
        "p95_ms": at.get(95, 0.0),
        "p99_ms": at.get(99, 0.0),
        "calls": report["count"],
        "errors": sum(errors.values()),
    }
    print(
        f"{name:<18}{figures['rate']:>9.0f}/s {figures['p50_ms']:>9.2f} {figures['p95_ms']:>9.2f}"
        f" {figures['p99_ms']:>9.2f}  {figures['calls']:>8} calls, {figures['errors']} errors",
        flush=True,
    )
    for message, count in errors.items():
        print(f"    {count} x {message}", flush=True)
    return figures


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="how long each profile runs (default 5)")
    parser.add_argument("--concurrency", type=int, default=16, help="calls at once (default 16)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if not 1 <= options.seconds <= MAX_SECONDS:
        parser.error(f"--seconds must be 1 to {MAX_SECONDS}")
    ghz = find_ghz()
    command = str(Path(sys.executable).parent / "ownkey")
    with tempfile.TemporaryDirectory(prefix="ownkey-load-") as scratch:
        folder = Path(scratch)
        subprocess.run([command, "init", str(folder)], check=True, capture_output=True)
        with served(command, folder) as address:
            unwrap, stream = folder / "unwrap.json", folder / "stream.json"
            unwrap.write_text(json.dumps(unwrap_requests(address)), encoding="utf-8")
            stream.write_text(json.dumps(encrypt_messages()), encoding="utf-8")
            plain = ("--disable-template-functions", "--disable-template-data", "--data-file")
            profiles = {
                "GenerateDataKey": ("--config", str(HERE / "generate_data_key.json")),
                "Unwrap": ("--call", "ownkey.v1.KeyService/Unwrap", *plain, str(unwrap)),
                "AuthorizeCall": ("--config", str(HERE / "authorize_call.json")),
                "EncryptMedia": ("--call", "ownkey.v1.KeyService/EncryptMedia", *plain, str(stream)),
            }
            print(
                f"{options.concurrency} calls at once for {options.seconds} s each; ghz shares {os.cpu_count()} cores"
            )
            print(f"{'':<18}{'rate':>11} {'p50 ms':>9} {'p95 ms':>9} {'p99 ms':>9}")
            results = [show(name, run(ghz, address, options, *arguments)) for name, arguments in profiles.items()]
    streams = next(r for r in results if r["name"] == "EncryptMedia")
    print(f"EncryptMedia: {streams['rate'] * len(CHUNK) * CHUNKS / 1e6:.0f} MB/s in streams of 4 MiB")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 1 if any(result["errors"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
