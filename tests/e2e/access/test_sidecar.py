"""Identity from a proxy on the same machine, or from one with a certificate of its own; and from nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from ownkey.v1 import role_pb2
from support import server
from support.access import DOMAIN, Caller, Lab
from support.pki import now
from support.requests import request
from support.server import wait_until

HEADER = "x-forwarded-client-cert"
BRIEF_SECONDS = 4
RECORDER = role_pb2.RoleGrant(role=role_pb2.ROLE_RECORDER, tenant="acme")


def forwarded(caller: Caller, *values: str) -> Caller:
    """The caller, with what a proxy would add."""
    caller._metadata = tuple((HEADER, value) for value in values)
    return caller


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server that takes the word of one sidecar."""
    extra = f'\n[identity.sidecar]\ntrusted = ["{DOMAIN}/envoy"]\n'
    with Lab(Path(tmp_path_factory.mktemp("sidecar")), extra=extra).running() as running:
        running.grant(f"{DOMAIN}/recorder", RECORDER)
        yield running


def reason(caller: Caller) -> str:
    """Why a data key is not made; empty when it is."""
    return getattr(caller.send("GenerateDataKey", request("GenerateDataKey", "acme")), "reason", "")


def test_a_trusted_sidecar_says_who_calls(lab: Lab) -> None:
    envoy = lab.authority.issue("envoy", uris=[f"{DOMAIN}/envoy"])
    assert reason(forwarded(lab.by_certificate(envoy), f"Hash=00;URI={DOMAIN}/recorder")) == ""
    assert reason(forwarded(lab.by_certificate(envoy), f"URI={DOMAIN}/stranger")) == "PERMISSION_DENIED"
    assert reason(lab.by_certificate(envoy)) == "PERMISSION_DENIED", "without a word it speaks for itself alone"


def test_what_a_client_added_itself_is_not_believed(lab: Lab) -> None:
    envoy = lab.authority.issue("envoy-again", uris=[f"{DOMAIN}/envoy"])
    appended = f"URI={DOMAIN}/recorder,URI={DOMAIN}/stranger"
    assert reason(forwarded(lab.by_certificate(envoy), appended)) == "UNAUTHENTICATED"
    twice = (f"URI={DOMAIN}/recorder", f"URI={DOMAIN}/stranger")
    assert reason(forwarded(lab.by_certificate(envoy), *twice)) == "UNAUTHENTICATED"
    assert reason(forwarded(lab.by_certificate(envoy), "garbage")) == "UNAUTHENTICATED"


def test_nobody_else_says_who_calls(lab: Lab) -> None:
    liar = lab.authority.issue("liar", uris=[f"{DOMAIN}/liar"])
    assert reason(forwarded(lab.by_certificate(liar), f"URI={DOMAIN}/recorder")) == "UNAUTHENTICATED"
    tokens = lab.by_token(None)
    assert reason(forwarded(tokens, f"URI={DOMAIN}/recorder")) == "UNAUTHENTICATED"


def test_a_token_makes_nobody_a_sidecar(lab: Lab) -> None:
    lab.grant("corp/ann", RECORDER)
    ann = lab.by_token(lab.tokens.token("ann"))
    bearer = ann._metadata
    assert reason(ann) == ""
    ann._metadata = (*bearer, (HEADER, f"URI={DOMAIN}/recorder"))
    assert reason(ann) == "UNAUTHENTICATED", "what is given and does not hold is never passed over"
    envoy = lab.by_certificate(lab.authority.issue("envoy-with-token", uris=[f"{DOMAIN}/envoy"]))
    envoy._metadata = (*bearer, (HEADER, f"URI={DOMAIN}/stranger"))
    assert reason(envoy) == "", "the token names the caller"
    envoy._metadata = (*bearer, (HEADER, "garbage"))
    assert reason(envoy) == "UNAUTHENTICATED"


def test_a_proxy_whose_certificate_does_not_count_any_more_says_nothing(lab: Lab) -> None:
    says = f"URI={DOMAIN}/recorder"
    revoked = lab.authority.issue("envoy-to-be-revoked", uris=[f"{DOMAIN}/envoy"])
    brief = lab.authority.issue(
        "envoy-that-expires", uris=[f"{DOMAIN}/envoy"], not_after=now() + timedelta(seconds=BRIEF_SECONDS)
    )
    until_revoked, until_expired = (forwarded(lab.by_certificate(one), says) for one in (revoked, brief))
    assert (reason(until_revoked), reason(until_expired)) == ("", "")
    lab.authority.revoke(revoked)
    for caller, told in ((until_revoked, "was revoked"), (until_expired, "is valid from")):
        wait_until(lambda caller=caller: reason(caller) == "UNAUTHENTICATED", "the proxy is not believed")  # type: ignore[misc]
        answer = caller.send("GenerateDataKey", request("GenerateDataKey", "acme"))
        assert told in answer.message, answer
    # On a new connection as little: revoked by the server's word, expired already in the handshake.
    again = forwarded(lab.by_certificate(revoked), says)
    assert reason(again) == "UNAUTHENTICATED"
    expired = forwarded(lab.by_certificate(brief), says)
    assert expired.send("GenerateDataKey", request("GenerateDataKey", "acme")).code is grpc.StatusCode.UNAVAILABLE


def test_a_socket_for_a_sidecar_alone(tmp_path: Path) -> None:
    access = f"""
[identity.certificates]
spiffe_trust_domains = ["example.org"]
[identity.sidecar]
unix_socket = true
[authorization]
operators = ["{DOMAIN}/admin"]
"""
    socket = tmp_path / "ownkey.sock"
    with (
        server.process(tmp_path, access=access, listen=f"unix:{socket}") as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        admin = forwarded(Caller(channel), f"URI={DOMAIN}/admin")
        assert admin("GetTenant", tenant="acme").tenant.id == "acme"
        assert Caller(channel)("GetTenant", tenant="acme").reason == "UNAUTHENTICATED"
        assert socket.stat().st_mode & 0o077 == 0
