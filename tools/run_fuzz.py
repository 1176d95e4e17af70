"""Fuzz for longer than the tests do, guided by coverage: ``make fuzz TIME=300 TARGET=header``.

Each target runs in a process of its own. What breaks one is written to build/fuzz/TARGET/; put it into
tests/fuzz/corpus/TARGET/ with the change that mends it, and every run of the tests tries it from then on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "tests" / "fuzz" / "corpus"
# Beyond what one input may take; the machine may be busy.
INPUT_SECONDS = 20
MEMORY_MIB = 2048
MAX_INPUT = 16 * 1024


def planted(data: bytes) -> None:
    """A target with a mistake, to see that one would be found.

    Raises:
        AssertionError: The data begins as no other does.
    """
    if data[:1] == b"f" and data[1:2] == b"z":
        raise AssertionError("found")


def fuzz_one(name: str, seconds: int, findings: Path) -> None:
    """Fuzz one target until something breaks or the time is over. Does not return."""
    import atheris  # noqa: PLC0415 - instruments what is imported after it

    sys.path.insert(0, str(ROOT / "tests"))
    if name == "planted":
        run, seeds = planted, [b"f"]
    else:
        with atheris.instrument_imports(include=["ownkey", "ownkey_server", "fuzz"]):
            from fuzz.targets import TARGETS  # noqa: PLC0415
        run, seeds = TARGETS[name].run, TARGETS[name].seeds
    atheris.instrument_func(run)
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            Path(folder, str(number)).write_bytes(seed)
        findings.mkdir(parents=True, exist_ok=True)
        options = [
            f"-max_total_time={seconds}",
            f"-timeout={INPUT_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-max_len={MAX_INPUT}",
            f"-artifact_prefix={findings}/",
            "-print_final_stats=1",
            "-verbosity=0",
        ]
        kept = [str(CORPUS / name)] if (CORPUS / name).is_dir() else []
        atheris.Setup([sys.argv[0], *options, folder, *kept], run)
        atheris.Fuzz()


def main() -> int:
    """Fuzz each target that is named, or all of them."""
    sys.path.insert(0, str(ROOT / "tests"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="names; all of them by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--findings", type=Path, default=ROOT / "build" / "fuzz", help="where to keep what breaks one")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        fuzz_one(given.only, given.seconds, given.findings / given.only)
    from fuzz.targets import TARGETS  # noqa: PLC0415

    known = {*TARGETS, "planted"}
    unknown = set(given.targets) - known
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are: {', '.join(sorted(TARGETS))}")
    broken = []
    for name in given.targets or TARGETS:
        print(f"{name}: {given.seconds} s", flush=True)
        command = [sys.executable, __file__, "--only", name, "--seconds", str(given.seconds)]
        command += ["--findings", str(given.findings)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
        runs = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        print(f"{name}: {runs[0].split()[-1] if runs else 'no'} inputs, exit code {done.returncode}", flush=True)
        if done.returncode:
            broken.append(name)
            print(done.stdout[-4000:] + done.stderr[-4000:])
    if broken:
        print(f"broken: {', '.join(broken)}; what did it is in {given.findings}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
