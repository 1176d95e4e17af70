"""The lab's authority: what it signs holds in TLS, and what it revokes does not."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ownkey import pki
from ownkey.errors import InvalidRequest

NOW = datetime.now(UTC).replace(microsecond=0)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    pki.create(tmp_path / "lab")
    return tmp_path / "lab"


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_pair(folder: Path, name: str) -> bool:
    key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
    return key.public_key() == certificate(folder / f"{name}.pem").public_key()


# What it signs


def test_a_certificate_is_an_x509_svid(lab: Path) -> None:
    pair = pki.issue(lab, "keys", spiffe="/ownkey/keys", dns=["Keys.Example.org"], ips=["127.0.0.1", "::1"])
    found = certificate(pair.certificate_file)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example.org/ownkey/keys"]
    assert names.get_values_for_type(x509.DNSName) == ["keys.example.org"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    basic = found.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = found.extensions.get_extension_for_class(x509.KeyUsage)
    assert (basic.critical, basic.value.ca) == (True, False)
    assert (usage.critical, usage.value.digital_signature) == (True, True)
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    key = found.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert isinstance(found.signature_hash_algorithm, hashes.SHA256)
    assert pair.issued == pki.issued(lab)[0]


def test_the_authority_signs_for_its_trust_domain_and_for_nothing_deeper(tmp_path: Path) -> None:
    made = pki.create(tmp_path / "lab", trust_domain="lab.example", name="Lab 7", days=10, now=NOW)
    found = certificate(made.ca_file)
    basic = found.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = found.extensions.get_extension_for_class(x509.KeyUsage)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://lab.example"]
    assert found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "Lab 7"
    assert (found.not_valid_before_utc, found.not_valid_after_utc) == (NOW - MINUTE, NOW + 10 * DAY)
    assert pki.issue(tmp_path / "lab", "a").issued.identity == "spiffe://lab.example/a"


def test_two_authorities_have_different_names(lab: Path, tmp_path: Path) -> None:
    other = pki.create(tmp_path / "other")
    assert other.certificate.subject != certificate(lab / "ca.pem").subject


@pytest.mark.parametrize(
    ("asked", "server", "client"),
    [
        ({}, False, True),
        ({"dns": ["a.example"]}, True, False),
        ({"ips": ["192.0.2.1"]}, True, False),
        ({"dns": ["a.example"], "client": True}, False, True),
        ({"server": True}, True, False),
        ({"server": True, "client": True}, True, True),
    ],
)
def test_what_a_certificate_is_for(lab: Path, asked: dict[str, object], server: bool, client: bool) -> None:
    pair = pki.issue(lab, "a", **asked)  # type: ignore[arg-type]
    usages = certificate(pair.certificate_file).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert (ExtendedKeyUsageOID.SERVER_AUTH in usages, ExtendedKeyUsageOID.CLIENT_AUTH in usages) == (server, client)
    assert (pair.issued.server, pair.issued.client) == (server, client)


def test_chains_hold_for_a_verifier_that_is_not_openssl(lab: Path) -> None:
    server = pki.issue(lab, "server", dns=["localhost"])
    client = pki.issue(lab, "client")
    builder = verification.PolicyBuilder().store(verification.Store([certificate(lab / "ca.pem")]))
    builder.build_server_verifier(x509.DNSName("localhost")).verify(certificate(server.certificate_file), [])
    builder.build_client_verifier().verify(certificate(client.certificate_file), [])
    with pytest.raises(verification.VerificationError):
        builder.build_client_verifier().verify(certificate(server.certificate_file), [])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there: apt-get install openssl")
def test_chains_and_lists_hold_for_openssl(lab: Path) -> None:
    for name in ("kept", "revoked"):
        pki.issue(lab, name)
    pki.issue(lab, "ended", not_after=NOW - DAY)
    pki.revoke(lab, "revoked")

    def verified(name: str) -> str:
        lists = ["-CAfile", str(lab / "ca.pem"), "-CRLfile", str(lab / "crl.pem"), "-crl_check"]
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", *lists, str(lab / f"{name}.pem")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert verified("kept") == f"{lab}/kept.pem: OK\n"
    assert "certificate revoked" in verified("revoked")
    assert "certificate has expired" in verified("ended")


# In TLS


def handshake(lab: Path, client: str, *, server: str = "server", host: str = "localhost") -> list[str]:
    """Agree on TLS with certificates of both sides; gives the client's identity as the server sees it."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.verify_mode = ssl.CERT_REQUIRED
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context, name in ((server_side, server), (client_side, client)):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(lab / f"{name}.pem", lab / f"{name}.key")
        context.load_verify_locations(lab / "ca.pem")
        context.load_verify_locations(lab / "crl.pem")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client_side.wrap_bio(to_client, to_server, server_hostname=host),
        server_side.wrap_bio(to_server, to_client, server_side=True),
    ]
    seen = ends[1]
    while ends:
        for end in list(ends):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                ends.remove(end)
    certificate_shown = seen.getpeercert(binary_form=True)
    assert certificate_shown is not None
    names = x509.load_der_x509_certificate(certificate_shown).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


@pytest.fixture
def serving(lab: Path) -> Path:
    """The authority, and a server's certificate."""
    pki.issue(lab, "server", dns=["localhost"], ips=["127.0.0.1", "::1"])
    return lab


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_server_and_client_know_each_other(serving: Path, host: str) -> None:
    pki.issue(serving, "recorder")
    assert handshake(serving, "recorder", host=host) == ["spiffe://example.org/recorder"]


def test_another_host_is_not_the_server(serving: Path) -> None:
    pki.issue(serving, "recorder")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(serving, "recorder", host="keys.example.org")


def test_a_revoked_client_is_refused_and_others_are_not(serving: Path) -> None:
    for name in ("one", "two"):
        pki.issue(serving, name)
    pki.revoke(serving, "one")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        handshake(serving, "one")
    assert handshake(serving, "two") == ["spiffe://example.org/two"]


def test_a_client_whose_time_has_passed_or_not_come_is_refused(serving: Path) -> None:
    pki.issue(serving, "ended", not_before=NOW - 2 * DAY, not_after=NOW - DAY)
    pki.issue(serving, "early", not_before=NOW + DAY, not_after=NOW + 2 * DAY)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        handshake(serving, "ended")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate is not yet valid"):
        handshake(serving, "early")


def test_a_client_is_no_server_and_a_server_no_client(serving: Path) -> None:
    pki.issue(serving, "client", dns=["localhost"], client=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate purpose"):
        handshake(serving, "client", server="client")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate purpose"):
        handshake(serving, "server")


def test_a_client_of_another_authority_is_refused(serving: Path, tmp_path: Path) -> None:
    foreign = pki.create(tmp_path / "foreign").directory
    pki.issue(foreign, "recorder")
    for name in ("recorder.pem", "recorder.key"):
        shutil.copy(foreign / name, serving)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer certificate"):
        handshake(serving, "recorder")


def test_a_list_that_has_ended_lets_nobody_in(serving: Path) -> None:
    pki.issue(serving, "recorder")
    pki.renew_crl(serving, days=1, now=NOW - 2 * DAY)
    with pytest.raises(ssl.SSLCertVerificationError, match="CRL has expired"):
        handshake(serving, "recorder")
    pki.renew_crl(serving)
    assert handshake(serving, "recorder") == ["spiffe://example.org/recorder"]


# Times


def test_a_certificate_ends_after_90_days_or_with_its_authority(lab: Path, tmp_path: Path) -> None:
    issued = pki.issue(lab, "a", now=NOW).issued
    assert (issued.not_before, issued.not_after) == (NOW - MINUTE, NOW + 90 * DAY)
    short = pki.create(tmp_path / "short", days=5, now=NOW)
    assert pki.issue(short.directory, "a", now=NOW).issued.not_after == NOW + 5 * DAY == short.not_after
    with pytest.raises(InvalidRequest, match="would outlive its authority, which ends at"):
        pki.issue(short.directory, "b", not_after=NOW + 6 * DAY)


def test_an_authority_that_has_ended_issues_nothing(tmp_path: Path) -> None:
    made = pki.create(tmp_path / "lab", days=1, now=NOW - 2 * DAY)
    with pytest.raises(pki.AuthorityInvalid, match="issues nothing any more"):
        pki.issue(made.directory, "a")


def test_times_that_make_no_sense_are_refused(lab: Path) -> None:
    with pytest.raises(InvalidRequest, match="and begin no sooner than"):
        pki.issue(lab, "a", not_before=NOW + 2 * DAY, not_after=NOW + DAY)
    with pytest.raises(InvalidRequest, match="has no time zone"):
        pki.issue(lab, "a", not_after=datetime(2030, 1, 1))
    for days in (0, -1, 36_501):
        with pytest.raises(InvalidRequest, match="must be 1 to 36500"):
            pki.renew_crl(lab, days=days)
    assert "a.pem" not in content(lab)


# Names


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "../a", "a b", "a\n", "ä", "a" * 65, "ca", "CRL", "Ca"])
def test_what_is_no_name_is_refused(lab: Path, name: str) -> None:
    before = content(lab)
    for act in (pki.issue, pki.revoke):
        with pytest.raises(InvalidRequest, match="name"):
            act(lab, name)
    assert content(lab) == before


@pytest.mark.parametrize("name", ["a", "0", "a" * 64, "a.b-c_d", "ca.pem", "server.key", "issued"])
def test_names_make_files_that_do_not_meet(lab: Path, name: str) -> None:
    pki.issue(lab, "server")
    pki.issue(lab, name)
    assert is_pair(lab, name)
    assert is_pair(lab, "server")
    assert pki.revoke(lab, name).issued.name == name


@pytest.mark.parametrize(
    ("given", "identity"),
    [
        (None, "spiffe://example.org/a"),
        ("/x", "spiffe://example.org/x"),
        ("/ns/default/sa/player_1.x-y", "spiffe://example.org/ns/default/sa/player_1.x-y"),
        ("spiffe://example.org/x", "spiffe://example.org/x"),
        ("spiffe://elsewhere.example/x", "spiffe://elsewhere.example/x"),
    ],
)
def test_identities(lab: Path, given: str | None, identity: str) -> None:
    assert pki.issue(lab, "a", spiffe=given).issued.identity == identity


@pytest.mark.parametrize(
    "given",
    ["x", "/", "//x", "/x/", "/x/../y", "/./x", "/x y", "/x?y", "/ä", "https://example.org/x", "spiffe://example.org",
     "spiffe://Example.org/x", "spiffe:///x", "spiffe://u@example.org/x", "spiffe://example.org:1/x", "/" + "x" * 2048],
)  # fmt: skip
def test_what_is_no_identity_is_refused(lab: Path, given: str) -> None:
    with pytest.raises(InvalidRequest):
        pki.issue(lab, "a", spiffe=given)
    assert "a.pem" not in content(lab)


@pytest.mark.parametrize(
    "host", ["", ".", "a..b", "-a.example", "a_b", "*", "a.*", "a" * 64, "ä.example", "a/b", "a\n"]
)
def test_what_is_no_host_name_is_refused(lab: Path, host: str) -> None:
    with pytest.raises(InvalidRequest, match="is no host name"):
        pki.issue(lab, "a", dns=[host])


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:7400", "[::1]", "10.0.0.0/8", "fe80::1%eth0", "1"])
def test_what_is_no_address_is_refused(lab: Path, address: str) -> None:
    with pytest.raises(InvalidRequest, match=r"IP address|zone"):
        pki.issue(lab, "a", ips=[address])


@pytest.mark.parametrize("trust_domain", ["", "Example.org", "spiffe://example.org", "example.org/x", "-a", "a" * 256])
def test_what_is_no_trust_domain_is_refused(tmp_path: Path, trust_domain: str) -> None:
    with pytest.raises(InvalidRequest, match="trust domain"):
        pki.create(tmp_path / "lab", trust_domain=trust_domain)
    assert not (tmp_path / "lab").exists()
