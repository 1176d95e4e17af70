"""Each target with its seeds, with every input that once broke it, and with what hypothesis makes of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 1000


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with bytes changed, cut out, doubled or put in; and now and then anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=400))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 8))
        match draw(st.sampled_from(["put", "cut", "double", "change", "splice"])):
            case "put":
                data[at:at] = draw(st.binary(max_size=8))
            case "cut":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
            case "change":
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "splice":
                other = draw(st.sampled_from(seeds))
                data[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_seeds_and_what_once_broke_it(target: Target) -> None:
    for seed in target.seeds:
        target.run(seed)
        for end in range(0, len(seed), max(1, len(seed) // 200)):
            target.run(seed[:end])
    for kept in sorted((CORPUS / target.name).glob("*")):
        target.run(kept.read_bytes())


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_whatever_is_made_of_them(target: Target) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(changed(list(target.seeds)))
    def run(data: bytes) -> None:
        target.run(data)

    run()


@pytest.mark.skipif(sys.platform != "linux" or sys.version_info >= (3, 14), reason="atheris has no wheel here")
def test_the_coverage_guided_fuzzer_runs_and_would_find_something(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "run_fuzz.py"), "--findings", str(tmp_path), "--seconds"]
    clean = subprocess.run([*command, "3", "wrapped_key"], capture_output=True, text=True, timeout=120, check=False)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    assert "wrapped_key" in clean.stdout
    broken = subprocess.run([*command, "60", "planted"], capture_output=True, text=True, timeout=180, check=False)
    assert broken.returncode == 1, broken.stdout
    assert list(tmp_path.glob("planted/*")), "what broke it is kept"


def test_every_folder_of_the_corpus_is_a_target_s() -> None:
    assert {one.name for one in CORPUS.iterdir() if one.is_dir()} <= set(TARGETS)
