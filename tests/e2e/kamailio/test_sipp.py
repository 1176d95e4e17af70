"""Calls at a steady rate by sipp, while the key and the server come and go.

What is compared is when each call was begun with what was known by then: nothing depends on how fast the machine is.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.kamailio.conftest import until
from support import kamailio, server, sipp
from support.kamailio import Kamailio
from support.server import ServerProcess, wait_until
from support.sipp import Call, Sipp

VALID_SECONDS = 1.0
# The same moment read by two processes, and the way of a packet from one to the other.
SLACK_SECONDS = 0.5
RATE = 50


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose answers hold for a second."""
    extra = f"[call_gate]\nanswer_valid_seconds = {VALID_SECONDS}\n"
    with server.process(tmp_path_factory.mktemp("server"), extra=extra) as running:
        until(running, "acme", "allow")
        yield running


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, own: ServerProcess) -> Iterator[Kamailio]:
    """Kamailio between sipp and sipp."""
    folder = tmp_path_factory.mktemp("sipp")
    port = kamailio.free_port()
    with (
        sipp.answering(folder / "callee", port),
        kamailio.process(folder / "ownkey", own.address, next_hop=port, children=12, at_once=11) as running,
    ):
        yield running


@pytest.fixture
def phones(proxy: Kamailio, tmp_path: Path) -> Iterator[Sipp]:
    """Telephones that call until they are stopped."""
    with sipp.calling(tmp_path, proxy.port, kamailio.free_port(), domain="acme.example", rate=RATE) as running:
        yield running


def seen(phones: Sipp, status: int, since: float = 0.0, times: int = 20) -> None:
    """Wait until so many of the calls that were begun since then ended so."""

    def enough() -> bool:
        assert phones.running
        return statuses(phones.calls(), since)[status] >= times

    wait_until(enough, f"{times} calls got {status}")


def statuses(calls: list[Call], since: float = 0.0, until: float = float("inf")) -> Counter[int]:
    """How calls ended that were begun in that time. A busy machine's own doing is left out: 408, and calls not over."""
    return Counter(call.status for call in calls if since <= call.begun < until and call.status not in (0, 408))


def test_calls_follow_the_key(own: ServerProcess, phones: Sipp) -> None:
    seen(phones, 200)
    own.disable()
    until(own, "acme", "refuse")
    # A worker that may not ask, as too many do at that moment, goes by its last answer.
    known = time.time() + VALID_SECONDS + SLACK_SECONDS
    seen(phones, 403, known)
    given_back = time.time()
    own.enable()
    until(own, "acme", "allow")
    known_again = time.time() + VALID_SECONDS + SLACK_SECONDS
    seen(phones, 200, known_again)
    calls = phones.stop()
    assert set(statuses(calls)) <= {200, 403, 503}
    assert statuses(calls, known, given_back)[200] == 0
    assert statuses(calls, known_again)[403] == 0
    # Not asking in time is a busy machine's doing, and the exception.
    assert statuses(calls)[503] < 0.2 * len(calls)


def test_a_second_invite_of_a_call_is_within_it_and_one_with_an_invented_tag_is_not(
    tmp_path: Path, own: ServerProcess
) -> None:
    port = kamailio.free_port()
    with (
        sipp.answering(tmp_path / "callee", port, twice=True),
        kamailio.process(tmp_path / "ownkey", own.address, next_hop=port) as proxy,
    ):
        phone = kamailio.free_port()
        assert sipp.play(tmp_path / "within", proxy.port, phone, sipp.WITH_A_SECOND_INVITE) == 0
        own.disable()
        until(own, "acme", "refuse")
        invented = sipp.WITH_AN_INVENTED_TAG.format(status=403)
        assert sipp.play(tmp_path / "invented", proxy.port, phone, invented) == 0
        own.enable()
        until(own, "acme", "allow")


def test_calls_outlive_the_server_by_its_last_word_and_no_longer(own: ServerProcess, phones: Sipp) -> None:
    seen(phones, 200)
    os.kill(own.pid, signal.SIGKILL)
    killed = time.time()
    # What the server said last, it said before.
    over = killed + VALID_SECONDS + SLACK_SECONDS
    seen(phones, 503, over)
    calls = phones.stop()
    assert set(statuses(calls)) <= {200, 503}
    assert statuses(calls, killed, over)[200] > 0
    assert statuses(calls, over)[200] == 0
