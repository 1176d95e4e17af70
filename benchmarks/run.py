"""`make bench`: every figure that ownkey claims, each a ratio to a baseline of the same run.

Prints a table and writes the same as JSON. The exit code tells only whether the measuring worked: a figure that misses
its aim is said to miss it, and fails nothing, since a busy machine can do that too.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path

from harness import HERE, Result

TOPICS = (
    "engine",
    "unary",
    "audit",
    "tenants",
    "overload",
    "streams",
    "memory",
    "aws",
    "bulkhead",
    "branch",
    "revocation",
    "refusal",
    "kamailio",
    "watchers",
    "call_gate",
    "authorize_call",
    "hsm",
)
PACKAGES = ("ownkey", "grpcio", "protobuf", "cryptography", "uvloop", "aws-encryption-sdk")


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def show(result: Result) -> None:
    """Two lines of the table."""
    verdict = {None: "", True: "met", False: "MISSED"}[result["met"]]
    sign = "<" if "value" in result else ">="
    aim = "" if result["aim"] is None else f"aim {sign} {result['aim']}"
    figure = result.get("ratio", result.get("value"))
    print(f"{result['name']:62} {figure:>9}  {aim:<12} {verdict}")
    details = f"    {result['unit']}: {result['baseline']}; {result['runs']} runs"
    if "middle_half" in result:
        details += "; half of them {} to {}".format(*result["middle_half"])
    print(details, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less content and fewer rounds: a first look")
    parser.add_argument("--only", action="append", choices=TOPICS, metavar="NAME", help=f"one of {', '.join(TOPICS)}")
    default = HERE.parent / "build" / "bench.json"
    parser.add_argument("--json", type=Path, default=default, help="where the figures go (default build/bench.json)")
    options = parser.parse_args()
    report: dict[str, object] = {"machine": machine(), "quick": options.quick}
    results: list[Result] = []
    report["results"] = results
    print(f"{_cpu_name()}, {report['machine']['cores']} cores, Python {platform.python_version()}\n", flush=True)
    for topic in options.only or TOPICS:
        begin = time.monotonic()
        # Each topic brings libraries of its own: what one needs must not weigh on another.
        for result in importlib.import_module(topic).results(options.quick):
            results.append(result)
            show(result)
        print(f"{topic} took {time.monotonic() - begin:.0f} s\n", flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    missed = [result["name"] for result in results if result["met"] is False]
    print(f"{len(results)} figures in {options.json}; missed aims: {', '.join(missed) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
