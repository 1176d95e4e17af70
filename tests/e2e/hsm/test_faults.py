"""What may happen to a token or its module, under load: the other token serves, and what is told of it is true.

``make bench ARGS="--only hsm"`` does the same for longer, at 200 calls a second.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hsm_faults import FAULTS, Fault, Place
from support.hsm_pair import FIRST, pair, replica_states, seconds_until, steady_load
from support.pkcs11_workers import worker_pids
from support.server import ServerProcess
from support.softhsm import SoftHsm

RATE, DEADLINE = 25.0, 10.0
OUTAGES = {"UNREACHABLE", "MISCONFIGURED"}


@pytest.fixture(scope="module")
def two(softhsm: SoftHsm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with pair(tmp_path_factory.mktemp("pair"), softhsm) as running:
        yield running


@pytest.fixture
def place(two: ServerProcess, softhsm: SoftHsm) -> Place:
    seconds_until(lambda: all(state == "AVAILABLE" for state, _ in replica_states(two.address).values()))
    return Place(softhsm, FIRST, two.pid)


def state(server: ServerProcess) -> str:
    return replica_states(server.address)[FIRST][0]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_while_one_token_works_every_call_is_served_and_the_truth_is_told(
    two: ServerProcess, place: Place, fault: Fault
) -> None:
    with steady_load(two.address, RATE, DEADLINE) as load:
        seconds_until(lambda: len(load.served) > 30)
        with fault.at(place):
            if fault.shows:
                seconds_until(lambda: state(two) in fault.shows)
                assert replica_states(two.address)["token-b"][0] == "AVAILABLE"
            before = len(load.served)
            seconds_until(lambda: len(load.served) > before + 60)
        seconds_until(lambda: state(two) == "AVAILABLE")
        before = len(load.served)
        seconds_until(lambda: len(load.served) > before + 30)
    assert not load.failed, str(load)
    assert load.wrong == 0


def test_a_module_that_dies_takes_nothing_with_it(two: ServerProcess, place: Place) -> None:
    pids = worker_pids(two.pid)
    assert len(pids) == 2
    with steady_load(two.address, RATE, DEADLINE) as load:
        for pid in pids:
            os.kill(pid, signal.SIGSEGV)
        seconds_until(lambda: len(worker_pids(two.pid)) == 2 and not set(pids) & set(worker_pids(two.pid)))
        before = len(load.served)
        seconds_until(lambda: len(load.served) > before + 30)
    # Both at once: what each had under way may be lost, and nothing else.
    assert len(load.failed) <= 4, str(load)
    assert load.wrong == 0
    assert Path(f"/proc/{two.pid}").exists()
