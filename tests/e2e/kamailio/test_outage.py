"""What becomes of a call while ownkey gives no answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.kamailio.conftest import until
from support import kamailio
from support.server import ServerProcess, wait_until
from support.tcp_gate import TcpGate
from support.telephones import Callee

CALLEE = "sip:+15551234567@acme.example"


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where nobody listens, and nobody will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    ("no_answer", "status"),
    [
        ("", 503),
        ('behaviour = "allow"', Callee.ANSWER),
        ('behaviour = "allow_no_recording"', Callee.ANSWER),
    ],
)
def test_the_chosen_behaviour_holds(tmp_path: Path, nowhere: str, no_answer: str, status: int) -> None:
    with kamailio.process(tmp_path / "ownkey", nowhere, no_answer=no_answer) as proxy, proxy.caller() as caller:
        answer = caller.invite(CALLEE)
        assert answer.status == status
        assert answer.get("Retry-After") == ("10" if status == 503 else "")
        if status != 503:
            invite = proxy.callee.got[caller.call_id][0]
            assert invite.all("X-Ownkey-Recording") == (["no"] if "no_recording" in no_answer else [])
        # Nobody can bring it about by what they send: a request that ownkey refuses to judge is no outage.
        assert caller.invite("sip:+15551234567@nobody.example").status == 503
        assert caller.invite("sip:911@acme.example").status == proxy.callee.ANSWER


def test_the_last_answer_holds_for_the_same_call_and_no_longer_than_it_said(
    tmp_path: Path, ownkey: ServerProcess, door: TcpGate
) -> None:
    address = f"127.0.0.1:{door.port}"
    with kamailio.process(tmp_path / "ownkey", address, children=1, timeout_ms=500) as proxy, proxy.caller() as caller:
        assert caller.invite(CALLEE).status == proxy.callee.ANSWER
        door.cut_off()
        assert caller.invite(CALLEE).status == proxy.callee.ANSWER
        assert caller.invite("sip:+15550000000@acme.example").status == 503
        # The server's answers hold for five seconds.
        wait_until(lambda: caller.invite(CALLEE).status == 503, "the last answer ended")
        door.mend()
        wait_until(lambda: caller.invite(CALLEE).status == proxy.callee.ANSWER, "ownkey was asked again")
        # A refusal holds as well.
        ownkey.disable()
        until(ownkey, "acme", "refuse")
        try:
            assert caller.invite(CALLEE).status == 403
            door.cut_off()
            assert caller.invite(CALLEE).status == 403
        finally:
            door.mend()
            ownkey.enable()
            until(ownkey, "acme", "allow")


def test_however_many_calls_wait_for_a_service_that_hangs_a_worker_is_left_for_emergencies(
    tmp_path: Path, door: TcpGate
) -> None:
    with (
        kamailio.process(tmp_path / "ownkey", f"127.0.0.1:{door.port}", timeout_ms=5000) as proxy,
        proxy.caller() as crowd,
        proxy.caller() as caller,
    ):
        door.hang()
        try:
            for _ in range(3):
                crowd.begin(CALLEE)
            # Three of four workers try, and wait for five seconds. The one that is left connects this one ...
            assert [answer.status for answer in crowd.answers(3)] == [100, 100, 100]
            assert caller.invite("sip:112@acme.example").status == proxy.callee.ANSWER
            # (one may have been turned away at once)
            assert len(crowd.answers()) <= 1
            # ... and refuses others at once.
            assert [caller.invite(CALLEE).status for _ in range(5)] == [503] * 5
        finally:
            door.resume()
