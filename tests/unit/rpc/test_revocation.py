"""Revocation lists: whoever was revoked by any of them is not let in, and a list that is not understood is not used."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import Unauthenticated
from ownkey_server.rpc.certificates import Certificates
from ownkey_server.rpc.reloading import UnusableFile
from ownkey_server.settings.access import CertificateRules, TlsSettings
from support.pki import DAY, Authority, Issued, now

URI = "spiffe://example.org/caller"
PLACE = "http://crl.example.org/ca.crl"
UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")


def part(**only: object) -> x509.IssuingDistributionPoint:
    """The extension of a list for a part of the certificates."""
    facts: dict[str, object] = dict.fromkeys(
        ("only_contains_user_certs", "only_contains_ca_certs", "indirect_crl", "only_contains_attribute_certs"), False
    )
    facts |= dict.fromkeys(("full_name", "relative_name", "only_some_reasons"))
    return x509.IssuingDistributionPoint(**(facts | only))  # type: ignore[arg-type]


def names(*urls: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(url) for url in urls]


class Files:
    """A bundle of authorities and a file of lists."""

    def __init__(self, folder: Path) -> None:
        self.bundle, self.lists = folder / "bundle.pem", folder / "lists.pem"

    def certificates(self, authorities: Sequence[Authority], *lists: bytes) -> Certificates:
        """What looks at certificates by them."""
        self.bundle.write_bytes(b"".join(one.pem.read_bytes() for one in authorities))
        self.lists.write_bytes(b"".join(lists))
        tls = TlsSettings(
            certificate_file=Path("x"), private_key_file=Path("y"), client_ca_file=self.bundle, crl_file=self.lists
        )
        return Certificates(CertificateRules(spiffe_trust_domains=["example.org"]), tls, system_clock)


def ask(certificates: Certificates, issued: Issued) -> str:
    """Why a caller is not let in; empty when it is."""
    try:
        assert certificates.principal({"x509_pem_cert": [issued.pem.read_bytes()]}) == URI
    except Unauthenticated as error:
        return str(error)
    return ""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def revoked(authority: Authority) -> Issued:
    issued = authority.issue("revoked", uris=[URI])
    authority.revoke(issued)
    return issued


def test_two_authorities_of_one_name_each_have_their_own_list(tmp_path: Path, files: Files) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    bad, other, good = (one.issue(name, uris=[URI]) for one, name in ((old, "bad"), (new, "other"), (new, "good")))
    old.revoke(bad)
    new.revoke(other)
    for lists in ([old, new], [new, old]):
        certificates = files.certificates([old, new], *(one.crl.read_bytes() for one in lists))
        assert "was revoked" in ask(certificates, bad)
        assert "was revoked" in ask(certificates, other)
        assert ask(certificates, good) == ""
    new.write_crl(next_update=now() + 2 * DAY)
    alone = files.certificates([old, new], new.crl.read_bytes())
    assert "no revocation list" in ask(alone, bad), "the list of another key with the same name is none of its own"
    assert ask(alone, good) == ""


def test_a_number_that_one_authority_revoked_is_good_of_another_of_the_same_name(tmp_path: Path, files: Files) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    bad, good = old.issue("bad", uris=[URI], serial=4711), new.issue("good", uris=[URI], serial=4711)
    old.revoke(bad)
    certificates = files.certificates([old, new], old.crl.read_bytes(), new.crl.read_bytes())
    assert "was revoked" in ask(certificates, bad)
    assert ask(certificates, good) == ""


def test_an_authority_that_was_renewed_with_its_key_has_one_list(authority: Authority, files: Files) -> None:
    issued = authority.issue("before", uris=[URI])
    certificates = files.certificates([authority, authority.renewed()], authority.crl.read_bytes())
    assert ask(certificates, issued) == ""


def test_every_list_of_an_authority_is_looked_at(authority: Authority, revoked: Issued, files: Files) -> None:
    without = authority.signed_list(revoked=[], last_update=now())
    for lists in ([authority.crl.read_bytes(), without], [without, authority.crl.read_bytes()]):
        assert "was revoked" in ask(files.certificates([authority], *lists), revoked)


def test_a_list_that_has_ended_still_revokes_and_lets_nobody_in(
    authority: Authority, revoked: Issued, files: Files
) -> None:
    good = authority.issue("good", uris=[URI])
    ended = authority.signed_list(next_update=now() - timedelta(minutes=1))
    certificates = files.certificates([authority], ended)
    assert "was revoked" in ask(certificates, revoked)
    assert "out of date" in ask(certificates, good)
    certificates = files.certificates([authority], ended, authority.signed_list(revoked=[]))
    assert "was revoked" in ask(certificates, revoked)
    assert ask(certificates, good) == ""


REFUSED: dict[str, tuple[x509.ExtensionType, bool, str]] = {
    "delta": (x509.DeltaCRLIndicator(1), True, "delta"),
    "delta, not critical": (x509.DeltaCRLIndicator(1), False, "delta"),
    "authorities alone": (part(only_contains_ca_certs=True), True, "onlyContainsCACerts"),
    "attributes alone": (part(only_contains_attribute_certs=True), True, "onlyContainsAttributeCerts"),
    "other issuers": (part(indirect_crl=True, full_name=names(PLACE)), True, "indirectCRL"),
    "some reasons": (
        part(only_some_reasons=frozenset([x509.ReasonFlags.key_compromise])),
        True,
        "onlySomeReasons",
    ),
    "a relative name": (
        part(
            relative_name=x509.RelativeDistinguishedName([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "part 1")])
        ),
        True,
        "nameRelativeToCRLIssuer",
    ),
    "unknown": (UNKNOWN, True, "1.3.6.1.4.1.99999.1"),
    "critical without need": (x509.CRLNumber(1), True, "cRLNumber"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_list_that_is_not_understood_is_refused_by_name(authority: Authority, files: Files, name: str) -> None:
    extension, critical, told = REFUSED[name]
    whole, odd = authority.crl.read_bytes(), authority.signed_list(extensions=[(extension, critical)])
    for lists in ([odd], [whole, odd], [odd, whole]):
        with pytest.raises(UnusableFile) as caught:
            files.certificates([authority], *lists)
        assert told in str(caught.value)
        assert str(files.lists) in str(caught.value)
        assert "test authority" in str(caught.value)


@pytest.mark.parametrize("entry", [UNKNOWN, x509.CertificateIssuer(names("http://other.example.org"))])
def test_so_is_one_with_an_entry_that_is_not_understood(
    authority: Authority, files: Files, entry: x509.ExtensionType
) -> None:
    odd = authority.signed_list(revoked=[1, 2], entry=(entry, True))
    with pytest.raises(UnusableFile, match=r"an entry .* critical extension"):
        files.certificates([authority], odd)
    reason = x509.CRLReason(x509.ReasonFlags.key_compromise)
    files.certificates([authority], authority.signed_list(revoked=[1], entry=(reason, False)))


def test_what_is_neither_critical_nor_known_harms_nobody(authority: Authority, revoked: Issued, files: Files) -> None:
    extras = [(UNKNOWN, False), (x509.CRLNumber(7), False), (x509.FreshestCRL([_at(PLACE)]), False)]
    certificates = files.certificates([authority], authority.signed_list(extensions=extras))
    assert "was revoked" in ask(certificates, revoked)
    assert ask(certificates, authority.issue("good", uris=[URI])) == ""


def _at(*urls: str) -> x509.DistributionPoint:
    return x509.DistributionPoint(names(*urls), None, None, None)


def test_a_list_of_one_place_counts_for_the_certificates_that_name_the_place(
    authority: Authority, files: Files
) -> None:
    where = x509.CRLDistributionPoints([_at("ldap://elsewhere"), _at(PLACE)])
    named = authority.issue("named", uris=[URI], extensions=[where])
    elsewhere = authority.issue("elsewhere", uris=[URI], extensions=[x509.CRLDistributionPoints([_at(PLACE + "2")])])
    nowhere = authority.issue("nowhere", uris=[URI])
    place = (part(full_name=names(PLACE)), True)
    certificates = files.certificates([authority], authority.signed_list(extensions=[place]))
    assert ask(certificates, named) == ""
    assert "no revocation list" in ask(certificates, elsewhere)
    assert "no revocation list" in ask(certificates, nowhere)
    authority.revoke(named)
    certificates = files.certificates([authority], authority.signed_list(extensions=[place]))
    assert "was revoked" in ask(certificates, named)


def test_a_list_of_users_counts_for_no_authority(authority: Authority, files: Files) -> None:
    user = authority.issue("user", uris=[URI])
    other = authority.issue("sub-authority", uris=[URI], extensions=[x509.BasicConstraints(ca=True, path_length=None)])
    users = authority.signed_list(extensions=[(part(only_contains_user_certs=True), True)])
    certificates = files.certificates([authority], users)
    assert ask(certificates, user) == ""
    assert "no revocation list" in ask(certificates, other)


def test_a_list_of_nobody_s_or_of_a_namesake_is_refused(tmp_path: Path, authority: Authority, files: Files) -> None:
    namesake = Authority(tmp_path / "namesake")
    with pytest.raises(UnusableFile, match="no authority of"):
        files.certificates([authority], authority.crl.read_bytes(), namesake.crl.read_bytes())


def test_a_list_without_an_end_is_refused(authority: Authority, files: Files) -> None:
    with pytest.raises(UnusableFile, match="does not say until when"):
        files.certificates([authority], authority.endless_list())


def test_a_long_list_is_read_once_and_not_for_every_call(authority: Authority, files: Files) -> None:
    certificates = files.certificates([authority], authority.signed_list(revoked=range(1, 3000)))
    good, bad = authority.issue("good", uris=[URI]), authority.issue("bad", uris=[URI], serial=2999)

    for _ in range(3):
        assert ask(certificates, good) == ""
        assert "was revoked" in ask(certificates, bad)
    found = next(one for lists in certificates._lists.get()._lists.values() for one in lists)  # type: ignore[union-attr]
    assert isinstance(found.serials, frozenset)
    assert len(found.serials) == 2999
    assert not any(isinstance(getattr(found, name), x509.CertificateRevocationList) for name in found.__slots__)


def test_a_list_that_is_written_anew_counts_for_certificates_that_are_known(authority: Authority, files: Files) -> None:
    certificates = files.certificates([authority], authority.crl.read_bytes())
    issued = authority.issue("caller", uris=[URI])
    assert ask(certificates, issued) == ""
    authority.revoke(issued)
    files.lists.write_bytes(authority.crl.read_bytes())
    assert certificates._lists is not None
    certificates._lists._refresh()
    assert "was revoked" in ask(certificates, issued)


def test_pem_is_found_among_other_text(authority: Authority, revoked: Issued, files: Files) -> None:
    certificates = files.certificates([authority], b"# a note\n", authority.crl.read_bytes(), b"\n\n# another\n")
    assert "was revoked" in ask(certificates, revoked)
