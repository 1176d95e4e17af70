"""Who calls: certificates and tokens that must not be taken, on every method; and what is exchanged while serving."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ownkey.v1 import call_watch_pb2, key_service_pb2, role_pb2
from ownkey_server import health
from ownkey_server.rpc.dispatch import AGAIN_SECONDS
from ownkey_server.rpc.media_streams import DECIDED_SECONDS
from support.access import DOMAIN, Caller, Lab
from support.pki import DAY, Authority, now
from support.requests import EXPECTED, request
from support.rpc import Failure

EVERYTHING = [role_pb2.RoleGrant(role=number, tenant="*") for number in role_pb2.Role.values() if number]
PATIENCE = 10.0


def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def good(lab: Lab) -> Caller:
    """A certificate that may do everything."""
    return lab.caller("everything", *EVERYTHING)


def certificates(lab: Lab) -> dict[str, tuple[Caller, str]]:
    """Callers whose certificate must not be taken, and what they are told; nothing where the handshake fails."""
    issue = lab.authority.issue
    foreign = Authority(lab.folder / "foreign", "another authority")
    revoked = issue("revoked", uris=[f"{DOMAIN}/everything"])
    lab.authority.revoke(revoked)
    made = {
        "none": (None, ""),
        "of another authority": (foreign.issue("foreign", uris=[f"{DOMAIN}/everything"]), ""),
        "expired": (
            issue("expired", uris=[f"{DOMAIN}/everything"], not_before=now() - 2 * DAY, not_after=now() - DAY),
            "",
        ),
        "not valid yet": (issue("early", uris=[f"{DOMAIN}/everything"], not_before=now() + DAY / 2), ""),
        "revoked": (revoked, "was revoked"),
        "of another trust domain": (issue("other", uris=["spiffe://example.com/everything"]), "trust domain"),
        "with two URIs": (issue("two", uris=[f"{DOMAIN}/everything", f"{DOMAIN}/admin"]), "several URIs"),
        "with a SPIFFE id and another URI": (
            issue("mixed", uris=[f"{DOMAIN}/everything", "https://example.org/"]),
            "several URIs",
        ),
        "with a SPIFFE id of no workload": (issue("root", uris=[DOMAIN]), "no SPIFFE id of a workload"),
        "with dots in its SPIFFE id": (issue("dots", uris=[f"{DOMAIN}/a/../everything"]), "no SPIFFE id"),
        "with a port in its SPIFFE id": (issue("port", uris=["spiffe://example.org:1/everything"]), "no SPIFFE id"),
        "without names": (issue("nameless"), "no subject alternative name"),
        "with a foreign host": (issue("host", hosts=["services.example.com"]), "no name that this server takes"),
        "with a host that ends alike": (issue("alike", hosts=["evilservices.example.org"]), "no name that this server"),
        "with a wildcard": (issue("wild", hosts=["*.services.example.org"]), "no name that this server takes"),
        "with two hosts": (
            issue("hosts", hosts=["a.services.example.org", "b.services.example.org"]),
            "several names",
        ),
    }
    return {name: (lab.by_certificate(issued), told) for name, (issued, told) in made.items()}


def _with(token: str, part: int, **changes: Any) -> str:
    """A token whose header or claims were changed after it was signed."""
    parts = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(parts[part] + "=="))
    parts[part] = base64.urlsafe_b64encode(json.dumps(said | changes).encode()).rstrip(b"=").decode()
    return ".".join(parts)


def tokens(lab: Lab) -> dict[str, tuple[Caller, str]]:
    """Callers whose token must not be taken, and what they are told."""
    make, at = lab.tokens.token, int(now().timestamp())
    good = make("ann")
    public = lab.tokens.keys["first"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    stranger = ec.generate_private_key(ec.SECP256R1())
    hmac_key = base64.b64encode(pem)  # a public key taken for a shared secret, which PyJWT would refuse to sign with
    unsigned = ".".join([*_with(good, 0, alg="none").split(".")[:2], ""])
    made = {
        "none": (None, "show a client certificate or a bearer token"),
        "empty": ("", "no JSON Web Token"),
        "no token at all": ("abc.def", "no JSON Web Token"),
        "expired": (make("ann", iat=at - 700, exp=at - 100), "has expired"),
        "not valid yet": (make("ann", nbf=at + 100), "not valid yet"),
        "issued in the future": (make("ann", iat=at + 100, exp=at + 700), "not valid yet"),
        "valid for too long": (make("ann", exp=at + 10 * 86_400), "for longer than"),
        "without an end": (make("ann", exp=None), "no claim 'exp'"),
        "with an end beyond numbers": (make("ann", exp=10**400), "times are no numbers"),
        "with an end that is infinite": (make("ann", exp=float("inf")), "for longer than"),
        "with an end that is no number": (make("ann", exp=float("nan")), "has expired"),
        "begun beyond numbers": (make("ann", nbf=10**400), "times are no numbers"),
        "for another audience": (make("ann", aud="another"), "another audience"),
        "for several audiences": (make("ann", aud=["ownkey", "account"]), "authorized party"),
        "with a critical header": (_with(good, 0, crit=["b64"], b64=True), "critical header"),
        "for no audience": (make("ann", aud=None), "no claim 'aud'"),
        "of another issuer": (make("ann", iss="https://evil.example.org"), "issuer that this server does not know"),
        "of no issuer": (make("ann", iss=None), "issuer that this server does not know"),
        "by another key": (make("ann", key=stranger), "signature"),
        "by a key that the issuer lacks": (_with(good, 0, kid="second"), "key that its issuer does not have"),
        "with changed claims": (_with(good, 1, sub="bob"), "signature"),
        "unsigned": (unsigned, "not signed by one of"),
        "signed with the public key as secret": (make("ann", key=hmac_key, algorithm="HS256"), "not signed by one of"),
        "without a subject": (make("ann", sub=None), "no claim 'sub'"),
        "with a subject that no principal has": (make("an n\n"), "not one that a principal can have"),
        "too long": (good + "A" * 9000, "longer than"),
    }
    return {name: (lab.by_token(token), told) for name, (token, told) in made.items()}


@pytest.fixture(scope="module")
def nobody(lab: Lab, good: Caller) -> Iterator[dict[str, tuple[Caller, str]]]:
    """Everybody who must not be let in."""
    lab.grant("corp/ann", *EVERYTHING)
    made = {f"certificate {name}": one for name, one in certificates(lab).items()}
    made |= {f"token {name}": one for name, one in tokens(lab).items()}
    revoked, _ = made["certificate revoked"]
    until(lambda: "was revoked" in getattr(revoked("ListTenants"), "message", ""))
    return made


@pytest.mark.parametrize("method", sorted(EXPECTED))
def test_nobody_unknown_is_let_in(method: str, nobody: dict[str, tuple[Caller, str]]) -> None:
    for name, (caller, told) in nobody.items():
        answer = caller.send(method, request(method, "acme"))
        assert isinstance(answer, Failure), name
        if told:
            assert (answer.code, answer.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"), (name, answer)
            assert told in answer.message, (name, answer)
        else:
            assert answer.code is grpc.StatusCode.UNAVAILABLE, (name, answer)
            assert answer.reason == ""


def test_everybody_who_reaches_the_server_gets_an_answer_about_an_emergency_call(
    lab: Lab, nobody: dict[str, tuple[Caller, str]], good: Caller
) -> None:
    known = 0
    for name, (caller, told) in nobody.items():
        answer = caller("AuthorizeCall", tenant="acme", call_id="1", callee="112")
        if told:
            assert answer.emergency, name
            known += 1
    assert known > 20
    assert good("AuthorizeCall", tenant="acme", call_id="1", callee="112").emergency
    assert lab.caller("without-a-role")("AuthorizeCall", tenant="acme", call_id="1", callee="tel:911").emergency


def test_a_host_name_can_be_a_principal(lab: Lab) -> None:
    issued = lab.authority.issue("by-host", hosts=["recorder.services.example.org", "alias.example.net"])
    lab.grant("recorder.services.example.org", role_pb2.RoleGrant(role=role_pb2.ROLE_RECORDER, tenant="acme"))
    answer = lab.by_certificate(issued).send("GenerateDataKey", request("GenerateDataKey", "acme"))
    assert answer.wrapped_key


def test_a_token_names_its_bearer_whatever_carries_it(lab: Lab, good: Caller) -> None:
    lab.grant("corp/bob", role_pb2.RoleGrant(role=role_pb2.ROLE_AUDITOR, tenant="acme"))
    bob = lab.by_token(lab.tokens.token("bob"))
    assert bob("GetTenant", tenant="acme").tenant.id == "acme"
    assert bob.send("GenerateDataKey", request("GenerateDataKey", "acme")).reason == "PERMISSION_DENIED"
    issued = lab.authority.issue("carrier", uris=[f"{DOMAIN}/everything"])
    carried = lab.by_certificate(issued, lab.tokens.token("bob"))
    assert carried.send("GenerateDataKey", request("GenerateDataKey", "acme")).reason == "PERMISSION_DENIED"
    broken = lab.by_certificate(issued, "not.a.token")
    assert broken("GetTenant", tenant="acme").reason == "UNAUTHENTICATED"


def test_a_forwarded_certificate_is_not_believed_where_no_sidecar_is_set(lab: Lab) -> None:
    caller = lab.caller("liar")
    caller._metadata = (("x-forwarded-client-cert", f"URI={DOMAIN}/everything"),)
    answer = caller("GetTenant", tenant="acme")
    assert answer.reason == "PERMISSION_DENIED"
    assert "liar" in answer.message


def test_a_certificate_is_revoked_on_a_living_connection(lab: Lab) -> None:
    issued = lab.authority.issue("to-be-revoked", uris=[f"{DOMAIN}/to-be-revoked"])
    lab.grant(f"{DOMAIN}/to-be-revoked", role_pb2.RoleGrant(role=role_pb2.ROLE_AUDITOR, tenant="acme"))
    caller = lab.by_certificate(issued)
    assert caller("GetTenant", tenant="acme").tenant.id == "acme"
    lab.authority.revoke(issued)
    until(lambda: getattr(caller("GetTenant", tenant="acme"), "reason", "") == "UNAUTHENTICATED")
    assert "was revoked" in caller("GetTenant", tenant="acme").message


def _endless(caller: Caller, *, idle: bool) -> tuple[Failure, float]:
    """A recording that ends only when the server ends it: why, and after how long.

    Args:
        caller: Whose it is.
        idle: Whether nothing is sent after the start.
    """
    began = time.monotonic()
    over = threading.Event()

    def requests() -> Iterator[object]:
        yield request("EncryptMedia", "acme")
        if idle:
            over.wait(PATIENCE + 10)
        while not idle and time.monotonic() - began < PATIENCE + 10:
            yield key_service_pb2.EncryptMediaRequest(chunk=bytes(4096))
            time.sleep(0.05)

    ended = caller.send_all("EncryptMedia", requests())
    over.set()
    assert isinstance(ended, Failure), "it went on to its end"
    return ended, time.monotonic() - began


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("what", ["role", "certificate"])
def test_a_stream_ends_when_its_caller_s_role_or_certificate_is_taken_away(lab: Lab, what: str, idle: bool) -> None:
    name = f"recording-{what}-{idle}"
    issued = lab.authority.issue(name, uris=[f"{DOMAIN}/{name}"])
    lab.grant(f"{DOMAIN}/{name}", role_pb2.RoleGrant(role=role_pb2.ROLE_RECORDER, tenant="acme"))
    caller = lab.by_certificate(issued)

    def take_away() -> None:
        if what == "certificate":
            lab.authority.revoke(issued)
        else:
            administrator = lab.by_certificate(lab.admin)
            administrator("UpdateServicePrincipal", service_principal=f"{DOMAIN}/{name}", etag="*")

    soon = threading.Timer(1.0, take_away)
    soon.start()
    ended, seconds = _endless(caller, idle=idle)
    soon.join()
    assert ended.reason == ("UNAUTHENTICATED" if what == "certificate" else "PERMISSION_DENIED"), ended
    assert 1.0 < seconds < 1.0 + 2 * DECIDED_SECONDS + 2


def test_a_gateway_that_never_pauses_is_looked_at_all_the_same(lab: Lab) -> None:
    name = "busy-gateway"
    caller = lab.caller(name, role_pb2.RoleGrant(role=role_pb2.ROLE_CALL_GATE, tenant="acme"))
    began = time.monotonic()

    def requests() -> Iterator[object]:
        while time.monotonic() - began < 2 * AGAIN_SECONDS:
            yield call_watch_pb2.WatchCallsRequest(tenant="acme")
            time.sleep(0.2)

    def take_away() -> None:
        administrator = lab.by_certificate(lab.admin)
        administrator("UpdateServicePrincipal", service_principal=f"{DOMAIN}/{name}", etag="*")

    soon = threading.Timer(0.5, take_away)
    soon.start()
    ended = caller.send_all("WatchCalls", requests())
    soon.join()
    assert isinstance(ended, Failure), f"it was served to its end: {len(ended)} answers"
    assert ended.reason == "PERMISSION_DENIED"


def test_a_certificate_that_expires_on_a_living_connection_counts_no_more(lab: Lab) -> None:
    issued = lab.authority.issue("brief", uris=[f"{DOMAIN}/brief"], not_after=now() + timedelta(seconds=3))
    lab.grant(f"{DOMAIN}/brief", role_pb2.RoleGrant(role=role_pb2.ROLE_AUDITOR, tenant="acme"))
    caller = lab.by_certificate(issued)
    assert caller("GetTenant", tenant="acme").tenant.id == "acme"
    until(lambda: getattr(caller("GetTenant", tenant="acme"), "reason", "") == "UNAUTHENTICATED")


def test_a_list_that_is_out_of_date_or_broken_lets_nobody_in_by_mistake(lab: Lab, good: Caller) -> None:
    lab.authority.write_crl(next_update=now() - timedelta(minutes=1))
    until(lambda: getattr(good("GetTenant", tenant="acme"), "reason", "") == "UNAUTHENTICATED")
    assert "out of date" in good("GetTenant", tenant="acme").message
    lab.authority.write_crl()
    until(lambda: not isinstance(good("GetTenant", tenant="acme"), Failure))
    lab.authority.crl.write_text("no list", encoding="ascii")

    def told() -> bool:
        assert not isinstance(good("GetTenant", tenant="acme"), Failure), "the last good list serves on"
        return "holds no certificate revocation list" in lab.log

    until(told)
    lab.authority.write_crl()


def test_keys_of_an_issuer_come_and_go(lab: Lab) -> None:
    lab.grant("corp/carol", role_pb2.RoleGrant(role=role_pb2.ROLE_AUDITOR, tenant="acme"))
    lab.tokens.keys["second"] = ec.generate_private_key(ec.SECP256R1())
    lab.tokens.write()
    by_second = lab.by_token(lab.tokens.token("carol", kid="second"))
    until(lambda: not isinstance(by_second("GetTenant", tenant="acme"), Failure))
    del lab.tokens.keys["second"]
    lab.tokens.write()
    until(lambda: getattr(by_second("GetTenant", tenant="acme"), "reason", "") == "UNAUTHENTICATED")


def test_the_server_s_certificate_is_exchanged_without_a_restart(lab: Lab, good: Caller) -> None:
    before = _serial(lab)
    lab.authority.issue("server", hosts=["localhost"], addresses=["127.0.0.1"])
    until(lambda: _serial(lab) != before)
    assert not isinstance(good("GetTenant", tenant="acme"), Failure), "the old connection serves on"


def _serial(lab: Lab) -> bytes:
    """The certificate that the server shows where tokens are taken."""
    host, _, port = lab.token_address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=str(lab.authority.pem)).encode()


def test_nothing_is_served_in_clear_beside_tls(lab: Lab) -> None:
    for address in (lab.address, lab.token_address):
        with grpc.insecure_channel(address) as channel:
            answer = Caller(channel)("GetTenant", tenant="acme")
        assert answer.code is grpc.StatusCode.UNAVAILABLE


def test_the_machine_may_ask_whether_it_serves_in_clear_and_nothing_else(lab: Lab, good: Caller) -> None:
    assert health.serving(f"unix:{lab.health}")
    with grpc.insecure_channel(f"unix:{lab.health}") as channel:
        for token in (None, lab.tokens.token("ann")):
            caller = Caller(channel, token)
            for method in sorted(EXPECTED):
                answer = caller.send(method, request(method, "acme"))
                assert isinstance(answer, Failure), method
                assert (answer.reason, "not of TLS" in answer.message) == ("UNAUTHENTICATED", True), answer


def test_the_log_says_nothing_that_lets_somebody_in(lab: Lab, nobody: object) -> None:
    assert "eyJ" not in lab.log
    assert "PRIVATE KEY" not in lab.log
    assert Path(lab.admin.key).read_text(encoding="ascii").splitlines()[1] not in lab.log
