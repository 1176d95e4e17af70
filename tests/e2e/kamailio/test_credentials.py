"""Kamailio proves who it is, and is told plainly when it may not ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ownkey.v1 import role_pb2
from support import kamailio
from support.access import DOMAIN, Lab
from support.server import wait_until

CALLEE = "sip:+15551234567@acme.example"
GATE = role_pb2.RoleGrant(role=role_pb2.ROLE_CALL_GATE, tenant="acme")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server with TLS, certificates and tokens."""
    with Lab(tmp_path_factory.mktemp("lab")).running() as running:
        running.grant(f"{DOMAIN}/kamailio", GATE)
        running.grant("corp/sbc", GATE)
        yield running


def service(lab: Lab, name: str) -> str:
    issued = lab.authority.issue(name, uris=[f"{DOMAIN}/{name}"])
    return f'ca_file = "{lab.authority.pem}"\ncertificate_file = "{issued.pem}"\nprivate_key_file = "{issued.key}"'


def test_a_certificate_with_the_role_of_a_call_gate_is_enough(tmp_path: Path, lab: Lab) -> None:
    with kamailio.process(tmp_path / "ownkey", lab.address, service=service(lab, "kamailio")) as proxy:
        wait_until(lambda: proxy.invite(CALLEE).status == proxy.callee.ANSWER, "the key was known to work")


def test_a_token_is_enough_and_a_renewed_one_counts_at_once(tmp_path: Path, lab: Lab) -> None:
    token = tmp_path / "token"
    token.write_text(lab.tokens.token("nobody"), encoding="ascii")
    options = f'ca_file = "{lab.authority.pem}"\ntoken_file = "{token}"'
    with kamailio.process(tmp_path / "ownkey", lab.token_address, service=options) as proxy:
        assert proxy.invite(CALLEE).status == 503
        token.write_text(lab.tokens.token("sbc"), encoding="ascii")
        wait_until(lambda: proxy.invite(CALLEE).status == proxy.callee.ANSWER, "the token counted")


def test_whoever_may_not_ask_sets_up_no_calls_but_emergency_calls(tmp_path: Path, lab: Lab) -> None:
    with kamailio.process(
        tmp_path / "ownkey", lab.address, service=service(lab, "stranger"), no_answer='behaviour = "allow"'
    ) as proxy:
        assert proxy.invite(CALLEE).status == 503
        assert proxy.invite("sip:911@acme.example").status == proxy.callee.ANSWER
        assert "ownkey would not decide about a call of acme" in proxy.log


def test_a_key_that_is_another_s_puts_the_gate_out_of_order_and_says_so(tmp_path: Path, lab: Lab) -> None:
    one, other = (lab.authority.issue(name, uris=[f"{DOMAIN}/{name}"]) for name in ("one", "other"))
    options = f'certificate_file = "{one.pem}"\nprivate_key_file = "{other.key}"\nca_file = "{lab.authority.pem}"'
    with kamailio.process(tmp_path / "ownkey", lab.address, service=options) as proxy:
        assert proxy.invite(CALLEE).status == 503
        assert proxy.invite("sip:911@acme.example").status == proxy.callee.ANSWER
        assert "is not the key of" in proxy.log
