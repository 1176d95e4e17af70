"""TLS itself: which versions are agreed on, and whose clients' certificates are taken while the bundle changes."""

from __future__ import annotations

import ssl
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from ownkey.v1 import admin_service_pb2, role_pb2
from support.access import DOMAIN, Lab
from support.http2 import Connection
from support.pki import Authority, Issued
from support.rpc import Failure
from support.server import wait_until

AUDITOR = role_pb2.RoleGrant(role=role_pb2.ROLE_AUDITOR, tenant="acme")
OLD = {"1.1": ssl.TLSVersion.TLSv1_1, "1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture(scope="module", params=["", "1.3", "1.2"], ids=["by default", "1.3", "1.2"])
def least(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, str]]:
    """A server, and the least version that it agrees on."""
    with Lab(Path(tmp_path_factory.mktemp("tls")), least=request.param).running() as running:
        yield running, request.param or "1.3"


def context(lab: Lab, version: str) -> ssl.SSLContext:
    """A client that speaks this version alone, with the administrator's certificate."""
    made = ssl.create_default_context(cafile=lab.authority.pem)
    with warnings.catch_warnings():  # that versions below 1.2 are not to be used any more is why they are tried
        warnings.simplefilter("ignore", DeprecationWarning)
        made.minimum_version = made.maximum_version = OLD[version]
    made.set_ciphers("DEFAULT:@SECLEVEL=0")  # or OpenSSL would not even offer 1.1
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    made.set_alpn_protocols(["h2"])
    made.load_cert_chain(lab.admin.pem, lab.admin.key)
    return made


@pytest.mark.parametrize("version", OLD)
def test_a_client_gets_in_with_the_least_version_or_a_later_one(least: tuple[Lab, str], version: str) -> None:
    lab, lowest = least
    address = lab.address.replace("127.0.0.1", "localhost")
    request = admin_service_pb2.GetTenantRequest(tenant="acme").SerializeToString()
    if version < lowest:
        with pytest.raises((ssl.SSLError, ConnectionError)) as caught:
            Connection(address, tls=context(lab, version))
        # The server hangs up: it is not that the client does not offer it.
        assert getattr(caught.value, "reason", "") != "NO_PROTOCOLS_AVAILABLE"
        return
    with Connection(address, tls=context(lab, version)) as connection:
        assert connection.socket.version() == f"TLSv{version}"  # type: ignore[attr-defined]
        answer = connection.call("/ownkey.v1.AdminService/GetTenant", request)
    assert answer.status == 0, answer
    assert admin_service_pb2.GetTenantResponse.FromString(answer.data[5:]).tenant.id == "acme"


@pytest.mark.parametrize("version", ["-tls1_1", "-tls1_2", "-tls1_3"])
def test_so_it_is_where_tokens_are_taken(least: tuple[Lab, str], version: str) -> None:
    lab, lowest = least
    command = ["openssl", "s_client", "-connect", lab.token_address, version, "-alpn", "h2", "-CAfile"]
    command += [str(lab.authority.pem), "-cipher", "DEFAULT:@SECLEVEL=0"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    agreed = b"Verify return code: 0" in done.stdout and b"Cipher is (NONE)" not in done.stdout
    assert agreed == (version.removeprefix("-tls").replace("_", ".") >= lowest), done.stdout
    assert b"no protocols available" not in done.stderr, "the server refused it, and not the client"


def replace(path: Path, content: bytes) -> None:
    """Put another file in its place, whole."""
    partial = path.with_suffix(".new")
    partial.write_bytes(content)
    partial.rename(path)


def test_the_authorities_of_clients_are_exchanged_without_a_restart(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    new = Authority(tmp_path / "new", "the next authority")
    newcomer = new.issue("newcomer", uris=[f"{DOMAIN}/newcomer"])
    veteran = lab.authority.issue("veteran", uris=[f"{DOMAIN}/veteran"])
    crl, lists = lab.authority.crl, (lab.authority.crl.read_bytes(), new.crl.read_bytes())

    def may(issued: Issued) -> bool:
        """Whether a new connection with that certificate is let in; its handshake fails if it is not."""
        answer = lab.by_certificate(issued)("GetTenant", tenant="acme")
        assert not isinstance(answer, Failure) or answer.code is grpc.StatusCode.UNAVAILABLE, answer
        return not isinstance(answer, Failure)

    with lab.running():
        for name in ("newcomer", "veteran"):
            lab.grant(f"{DOMAIN}/{name}", AUDITOR)
        living = lab.by_certificate(veteran)
        assert living("GetTenant", tenant="acme").tenant.id == "acme"
        assert (may(veteran), may(newcomer)) == (True, False)
        both = lab.bundle.read_bytes() + new.pem.read_bytes()
        # The list first: the new authority's callers are taken from the moment in which its list is known.
        replace(crl, b"".join(lists))
        replace(lab.bundle, both)
        wait_until(lambda: knows(lab, newcomer), "the new authority's clients are taken")
        assert (may(veteran), may(newcomer)) == (True, True)
        replace(lab.bundle, b"no certificate")
        wait_until(lambda: may(veteran) and "holds no certificate" in lab.log, "the log says what cannot be used")
        assert (may(veteran), may(newcomer)) == (True, True), "the last good bundle serves on"
        replace(crl, lists[1])
        replace(lab.bundle, new.pem.read_bytes())
        wait_until(lambda: not knows(lab, veteran), "the old authority's clients are not taken any more")
        assert may(newcomer)
        ended = living("GetTenant", tenant="acme")
        assert isinstance(ended, Failure), "nor on the connections that they have"
        assert ended.reason == "UNAUTHENTICATED"


def knows(lab: Lab, issued: Issued) -> bool:
    """The same as ``may``, while a call may come between the exchange of the bundle and that of the lists."""
    return not isinstance(lab.by_certificate(issued)("GetTenant", tenant="acme"), Failure)
