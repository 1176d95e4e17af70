"""What becomes of a call, by what ownkey says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.kamailio.conftest import until
from support import kamailio
from support.kamailio import Kamailio
from support.server import ServerProcess
from support.telephones import Dialog, Message, dialog_of

CALLEE = "sip:+15551234567@acme.example"
QUIET = "sip:+15551234567@quiet.example"
RECORDING = "X-Ownkey-Recording"


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory, ownkey: ServerProcess) -> Iterator[Kamailio]:
    """Kamailio behind a machine of our own."""
    folder = tmp_path_factory.mktemp("trusting") / "ownkey"
    with kamailio.process(folder, ownkey.address, trusted=True) as running:
        yield running


@pytest.fixture(scope="class")
def let_in(proxy: Kamailio) -> tuple[Dialog, Dialog]:
    """A call that was let in while the key worked, and one to an emergency service."""
    calls = proxy.invite(CALLEE), proxy.invite("sip:911@acme.example")
    assert [answer.status for answer in calls] == [proxy.callee.ANSWER] * 2
    first, second = map(dialog_of, calls)
    return first, second


@pytest.fixture(scope="class")
def without_keys(ownkey: ServerProcess, let_in: tuple[Dialog, Dialog]) -> Iterator[None]:
    """The tenants have taken their keys away."""
    for tenant in ("acme", "quiet"):
        ownkey.disable(f"{tenant}-main")
    until(ownkey, "acme", "refuse")
    until(ownkey, "quiet", "allow_no_recording")
    yield
    for tenant in ("acme", "quiet"):
        ownkey.enable(f"{tenant}-main")
        until(ownkey, tenant, "allow")


def received(proxy: Kamailio, uri: str, **options: object) -> Message:
    """The INVITE as the next hop gets it."""
    with proxy.caller() as caller:
        answer = caller.invite(uri, **options)  # type: ignore[arg-type]
        assert answer.status == proxy.callee.ANSWER, answer
        return proxy.callee.got[caller.call_id][0]


def test_a_call_is_set_up_while_the_key_works(proxy: Kamailio) -> None:
    invite = received(proxy, CALLEE)
    assert invite.first == f"INVITE {CALLEE} SIP/2.0"
    assert invite.all(RECORDING) == []
    assert len(invite.all("Record-Route")) == 1


def test_a_tenant_s_own_calls_are_found_by_the_caller_s_domain(proxy: Kamailio) -> None:
    elsewhere = "sip:+15551234567@elsewhere.example"
    assert proxy.invite(elsewhere, sender="sip:bob@acme.example").status == proxy.callee.ANSWER
    assert proxy.invite(elsewhere).status == 503


@pytest.mark.usefixtures("without_keys")
class TestWithoutKeys:
    def test_a_revoked_key_forbids_the_call(self, proxy: Kamailio) -> None:
        answer = proxy.invite(CALLEE)
        assert answer.first == "SIP/2.0 403 Forbidden"
        assert answer.get("Retry-After") == ""

    def test_a_call_that_must_not_be_recorded_says_so_to_whoever_would_record_it(self, proxy: Kamailio) -> None:
        assert received(proxy, QUIET).all(RECORDING) == ["no"]

    def test_of_two_tenants_the_stricter_decides(self, proxy: Kamailio) -> None:
        assert proxy.invite(QUIET, sender="sip:bob@acme.example").status == 403

    def test_an_emergency_call_connects(self, proxy: Kamailio) -> None:
        for number in ("911", "112", "%39%31%31", "9,911", "٩١١"):
            assert proxy.invite(f"sip:{number}@acme.example").status == proxy.callee.ANSWER, number

    @pytest.mark.parametrize("method", ["UPDATE", "INFO", "BYE"])
    def test_what_sets_no_call_up_passes(self, proxy: Kamailio, method: str) -> None:
        assert proxy.invite(CALLEE, method=method, to_tag="callee").status == 200

    @pytest.mark.parametrize("end", ["caller", "callee"])
    def test_what_belongs_to_a_call_that_was_let_in_passes(
        self, proxy: Kamailio, let_in: tuple[Dialog, Dialog], end: str
    ) -> None:
        for dialog in let_in:
            said = dialog if end == "caller" else dialog.of_the_other()
            for method in ("INVITE", "BYE"):
                answer = proxy.invite(f"sip:bob@127.0.0.1:{proxy.callee.port}", method=method, within=said)
                assert answer.status == (proxy.callee.ANSWER if method == "INVITE" else 200)

    def test_an_invented_tag_a_stolen_route_and_a_wrong_mark_let_no_call_in(
        self, proxy: Kamailio, let_in: tuple[Dialog, Dialog]
    ) -> None:
        assert proxy.invite(CALLEE, to_tag="callee").status == 403
        (own, _) = let_in
        for forged in (
            replace(own, routes=()),
            replace(own, call_id="other@test"),
            replace(own, from_tag="other"),
            replace(own, routes=tuple(re.sub("ownkey=[0-9a-f]*", "ownkey=" + "0" * 32, one) for one in own.routes)),
            replace(own, routes=tuple(re.sub(";ownkey=[0-9a-f]*", "", one) for one in own.routes)),
            replace(own, routes=tuple(re.sub("ownkey=[0-9a-f]*", "ownkey", one) for one in own.routes)),
        ):
            assert proxy.invite(CALLEE, within=forged).status == 403, forged
            for number in ("911", "tel:112", "urn:service:sos.fire"):
                uri = number if ":" in number else f"sip:{number}@acme.example"
                assert proxy.invite(uri, within=forged).status == proxy.callee.ANSWER, "an emergency call is none"

    def test_what_is_stored_is_for_our_own_machines_to_say(self, proxy: Kamailio, trusting: Kamailio) -> None:
        # What policy denies to store needs no key.
        claim = {"X-Ownkey-Stores": "phone_mms"}
        assert received(trusting, CALLEE, headers=claim).all(RECORDING) == ["no"]
        assert proxy.invite(CALLEE, headers=claim).status == 403
        assert trusting.invite(CALLEE, headers={"X-Ownkey-Stores": "phone_mmm"}).status == 503

    def test_a_trusted_machine_says_whose_call_it_is_and_an_outsider_does_not(
        self, proxy: Kamailio, trusting: Kamailio
    ) -> None:
        claim = {"X-Ownkey-Tenant": "quiet"}
        assert received(trusting, CALLEE, headers=claim).all(RECORDING) == ["no"]
        assert proxy.invite(CALLEE, headers=claim).status == 403


def test_a_call_that_was_let_in_is_asked_about_again_where_its_phone_keeps_no_routes(proxy: Kamailio) -> None:
    assert proxy.invite(CALLEE, to_tag="callee").status == proxy.callee.ANSWER


def test_without_a_secret_whatever_has_a_tag_passes(tmp_path: Path) -> None:
    with kamailio.process(tmp_path / "ownkey", "127.0.0.1:9", secret="") as proxy:
        assert proxy.invite(CALLEE).status == 503
        assert proxy.invite(CALLEE, to_tag="callee").status == proxy.callee.ANSWER


def test_forged_headers_are_taken_away(proxy: Kamailio) -> None:
    forged = {"X-OWNKEY-Recording": "no", "x-ownkey-tenant": "quiet", "X-Ownkey-Anything": "x", "X-Other": "kept"}
    for uri in (CALLEE, "sip:911@acme.example"):
        invite = received(proxy, uri, headers=forged)
        assert [name for name, _ in invite.headers if name.lower().startswith("x-")] == ["X-Other"]
    with proxy.caller() as caller:
        caller.invite(CALLEE, headers=forged, to_tag="callee")
        assert proxy.callee.got[caller.call_id][0].all(RECORDING) == []


def test_a_trusted_machine_s_word_that_nothing_is_recorded_is_passed_on(trusting: Kamailio) -> None:
    assert received(trusting, CALLEE, headers={RECORDING: "no"}).all(RECORDING) == ["no"]


@pytest.mark.parametrize(
    "uri",
    [
        "sip:+15551234567@ghost.example",  # a tenant that the service does not have
        "sip:+15551234567@nobody.example",  # no tenant's domain
        "sip:bob@nobody.example",
    ],
)
def test_a_call_of_nobody_known_is_refused(proxy: Kamailio, uri: str) -> None:
    answer = proxy.invite(uri)
    assert answer.status == 503
    assert answer.get("Retry-After") == "10"


def test_a_request_line_that_cannot_be_told_in_full_is_refused(proxy: Kamailio) -> None:
    assert proxy.invite(f"sip:{'a' * 600}@acme.example").status == 414


def test_a_route_that_comes_with_a_call_does_not_lead_past_the_next_hop(proxy: Kamailio) -> None:
    invite = received(proxy, CALLEE, headers={"Route": "<sip:127.0.0.1:1;lr>"})
    assert invite.all("Route") == []


def test_other_requests_pass(proxy: Kamailio) -> None:
    assert proxy.invite(CALLEE, method="OPTIONS").status == 200
