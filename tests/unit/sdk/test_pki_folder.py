"""The folder of the lab's authority: whatever befalls it, no revocation is lost, and no half of anything is there."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ownkey import pki
from ownkey.errors import InvalidRequest
from ownkey.files import OutputExists

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


# The folder


@pytest.fixture(params=[0o000, 0o022])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_keys_and_folder_are_the_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir(mode=0o755)
    made = pki.create(tmp_path / "lab")
    pki.issue(made.directory, "a")
    pki.issue(made.directory, "a", overwrite=True)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (made.directory, *made.directory.iterdir())}
    assert {name: modes[name] for name in ("lab", "issued", "ca.key", "a.key")} == {
        "lab": 0o700,
        "issued": 0o700,
        "ca.key": 0o600,
        "a.key": 0o600,
    }


def test_an_authority_is_never_overwritten(lab: Path) -> None:
    before = content(lab)
    with pytest.raises(pki.AuthorityExists, match=r"lab/ca\.key is there already: .* never overwritten"):
        pki.create(lab)
    assert content(lab) == before


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir(mode=0o755)
    (tmp_path / "lab" / ".notes.key.new").write_text("mine")
    with pytest.raises(pki.AuthorityExists, match=r"lab is not empty: \.notes\.key\.new is in it"):
        pki.create(tmp_path / "lab")
    assert content(tmp_path / "lab") == {".notes.key.new": b"mine"}
    assert (tmp_path / "lab").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("there", ["a.pem", "a.key"])
def test_a_name_that_is_taken_is_not_overwritten_unasked(lab: Path, there: str) -> None:
    (lab / there).write_text("mine")
    before = content(lab)
    with pytest.raises(OutputExists) as caught:
        pki.issue(lab, "a")
    assert caught.value.filename == str(lab / there)
    assert content(lab) == before
    pki.issue(lab, "a", overwrite=True)
    assert is_pair(lab, "a")


def test_nothing_shows_the_authoritys_key(lab: Path) -> None:
    made = pki.create(lab.parent / "other")
    assert "key=" not in repr(made)


FAILS = """
import os, signal, sys
from pathlib import Path
from ownkey import pki
replace, left = Path.replace, int(sys.argv[2])
def dying(self, target):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = dying
pki.issue(Path(sys.argv[1]), "a", overwrite=True)
"""


def test_a_reissue_that_is_killed_leaves_the_old_pair_or_the_new_one(lab: Path) -> None:
    for step in itertools.count(1):
        old = pki.issue(lab, "a", overwrite=True)
        before = old.private_key_file.read_bytes()
        done = subprocess.run([sys.executable, "-c", FAILS, str(lab), str(step)], check=False)
        pki.renew_crl(lab)  # whatever next holds the lock completes it, or undoes it
        assert is_pair(lab, "a")
        assert not [name for name in content(lab) if name.endswith(".new")]
        current = [one for one in pki.issued(lab) if one.current]
        assert len(current) == 1
        replaced = (lab / "a.key").read_bytes() != before
        if done.returncode == 0:
            assert replaced
            break
        assert done.returncode == -signal.SIGKILL
        assert replaced == (current[0].serial != old.issued.serial)
    assert step > 3


def test_a_reader_never_sees_half_a_file_while_it_is_replaced(lab: Path) -> None:
    pki.issue(lab, "a")
    stop = threading.Event()

    def read() -> int:
        reads = 0
        while not stop.is_set() or not reads:
            certificate(lab / "a.pem")
            serialization.load_pem_private_key((lab / "a.key").read_bytes(), None)
            x509.load_pem_x509_crl((lab / "crl.pem").read_bytes())
            reads += 1
        return reads

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            for _ in range(20):
                pki.issue(lab, "a", overwrite=True)
                pki.revoke(lab, "a")
        finally:
            stop.set()
        assert reader.result() > 1


def test_a_list_that_cannot_be_written_stays_as_it_was(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pki.issue(lab, "a")
    before = content(lab)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            pki.revoke(lab, "a")
    assert content(lab) == before
    assert pki.revoke(lab, "a").fresh


# Revocation


def revoked_names(lab: Path) -> set[str]:
    return {one.name for one in pki.issued(lab) if one.revoked}


def test_revoking_again_changes_nothing_and_says_so(lab: Path) -> None:
    pki.issue(lab, "a")
    first = pki.revoke(lab, "a", now=NOW)
    before = content(lab)
    second = pki.revoke(lab, "a", now=NOW + DAY)
    assert (first.fresh, first.crl_number) == (True, 2)
    assert (second.fresh, second.crl_number) == (False, 2)
    assert second.issued.revoked == NOW
    assert content(lab) == before


def test_of_a_name_that_was_reissued_the_present_certificate_is_revoked(lab: Path) -> None:
    old = pki.issue(lab, "a", now=NOW - DAY).issued
    new = pki.issue(lab, "a", overwrite=True, now=NOW).issued
    assert [(one.serial, one.current) for one in pki.issued(lab)] == [(old.serial, False), (new.serial, True)]
    assert pki.revoke(lab, "a").issued.serial == new.serial
    assert [bool(one.revoked) for one in pki.issued(lab)] == [False, True]
    written = ":".join(old.serial.upper()[i : i + 2] for i in range(0, 40, 2))
    assert pki.revoke(lab, serial=written).fresh
    assert [bool(one.revoked) for one in pki.issued(lab)] == [True, True]


def test_a_certificate_whose_files_are_gone_is_revoked_by_its_serial(lab: Path) -> None:
    issued = pki.issue(lab, "a").issued
    (lab / "a.pem").unlink()
    with pytest.raises(pki.NotIssued, match=r"lab/a\.pem is not there"):
        pki.revoke(lab, "a")
    assert pki.revoke(lab, serial=issued.serial.lstrip("0")).fresh
    assert revoked_names(lab) == {"a"}


def test_serials_that_are_none_or_nobodys_are_refused(lab: Path) -> None:
    with pytest.raises(pki.NotIssued, match="no certificate 12ab was issued here"):
        pki.revoke(lab, serial="12ab")
    for serial in ("", "xyz", "1" * 41, "../../a", "-1"):
        with pytest.raises(InvalidRequest, match="is no serial number"):
            pki.revoke(lab, serial=serial)
    for both in ((None, None), ("a", "12")):
        with pytest.raises(InvalidRequest, match="either a name or a serial number"):
            pki.revoke(lab, both[0], serial=both[1])


def test_a_list_keeps_what_was_revoked_counts_up_and_counts_as_long_as_asked(lab: Path) -> None:
    for name in ("a", "b"):
        pki.issue(lab, name)
    pki.revoke(lab, "a", now=NOW)
    renewed = pki.renew_crl(lab, days=30, now=NOW)
    assert (renewed.number, renewed.next_update, len(renewed.revoked)) == (3, NOW + 30 * DAY, 1)
    pki.revoke(lab, "b", now=NOW + DAY)
    crl = x509.load_pem_x509_crl((lab / "crl.pem").read_bytes())
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 4
    assert crl.last_update_utc == NOW + DAY - MINUTE
    assert crl.next_update_utc == NOW + 31 * DAY
    assert {one.serial_number: one.revocation_date_utc for one in crl} == {
        certificate(lab / "a.pem").serial_number: NOW,
        certificate(lab / "b.pem").serial_number: NOW + DAY,
    }
    ca = certificate(lab / "ca.pem").extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    own = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert own.key_identifier == ca.digest


NAMES = [f"n{number}" for number in range(12)]


def in_threads(act: Callable[..., object], calls: list[tuple[Path, str]]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(act, *zip(*calls, strict=True)))


def in_processes(act: Callable[..., object], calls: list[tuple[Path, str]]) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(act, calls, chunksize=1)


@pytest.mark.parametrize("at_once", [in_threads, in_processes])
def test_no_revocation_is_lost_when_several_revoke_at_once(lab: Path, at_once: Callable[..., None]) -> None:
    at_once(pki.issue, [(lab, name) for name in NAMES])
    at_once(pki.revoke, [(lab, name) for name in NAMES])
    assert revoked_names(lab) == set(NAMES)
    assert pki.renew_crl(lab).number == len(NAMES) + 2


def test_one_of_two_that_make_an_authority_at_once_makes_it(tmp_path: Path) -> None:
    def make(_: int) -> bool:
        with contextlib.suppress(pki.AuthorityExists):
            pki.create(tmp_path / "lab")
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(make, range(8))) == 1
    assert pki.issued(tmp_path / "lab") == []


# Damage


def pem_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, password: bytes = b"") -> bytes:
    sealed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("ca.pem", b"garbage", r"lab/ca\.pem holds no certificate in PEM"),
        ("ca.pem", None, r"lab/ca\.pem cannot be read: No such file"),
        ("ca.key", b"", r"lab/ca\.key holds no unencrypted private key in PEM"),
        ("ca.key", None, r"lab/ca\.key cannot be read: No such file"),
        ("ca.key", pem_of(ec.generate_private_key(ec.SECP256R1()), b"pw"), r"lab/ca\.key holds no unencrypted private"),
        ("ca.key", pem_of(ec.generate_private_key(ec.SECP256R1())), r"lab/ca\.key is not the key of .*lab/ca\.pem"),
        ("ca.key", pem_of(ed25519.Ed25519PrivateKey.generate()), r"lab/ca\.key is not the key of .*lab/ca\.pem"),
        ("crl.pem", b"garbage", r"lab/crl\.pem holds no numbered certificate revocation list in PEM"),
        ("crl.pem", None, r"lab/crl\.pem cannot be read: No such file"),
        ("issued/x.pem", b"garbage", r"lab/issued/x\.pem holds no certificate in PEM"),
    ],
)
def test_what_is_damaged_is_named_and_nothing_takes_its_place(
    lab: Path, name: str, damage: bytes | None, complaint: str
) -> None:
    pki.issue(lab, "a")
    if damage is None:
        (lab / name).unlink()
    else:
        (lab / name).write_bytes(damage)
    before = content(lab)
    with pytest.raises(pki.AuthorityInvalid, match=complaint):
        pki.issued(lab)
    if not name.startswith("issued"):
        for act in (lambda: pki.revoke(lab, "a"), lambda: pki.renew_crl(lab)):
            with pytest.raises(pki.AuthorityInvalid, match=complaint):
                act()
    assert content(lab) == before


@pytest.mark.parametrize(
    ("source", "target", "complaint"),
    [
        ("crl.pem", "crl.pem", r"lab/crl\.pem was not signed by .*lab/ca\.pem"),
        ("ca.pem", "ca.pem", r"lab/ca\.key is not the key of .*lab/ca\.pem"),
        ("a.pem", "a.pem", r"lab/a\.pem was not issued by .*lab/ca\.pem"),
    ],
)
def test_files_of_another_authority_are_refused(
    lab: Path, tmp_path: Path, source: str, target: str, complaint: str
) -> None:
    other = pki.create(tmp_path / "other").directory
    for folder in (lab, other):
        pki.issue(folder, "a")
    shutil.copy(other / source, lab / target)
    with pytest.raises(pki.AuthorityInvalid, match=complaint):
        pki.revoke(lab, "a")


def test_the_authoritys_own_certificate_is_none_that_it_issued(lab: Path) -> None:
    shutil.copy(lab / "ca.pem", lab / "a.pem")
    with pytest.raises(pki.AuthorityInvalid, match=r"lab/a\.pem was not issued by"):
        pki.revoke(lab, "a")


def test_an_index_whose_files_were_exchanged_is_refused(lab: Path) -> None:
    issued = pki.issue(lab, "a").issued
    (lab / "issued" / f"{issued.serial}.pem").rename(lab / "issued" / f"{1:040x}.pem")
    with pytest.raises(pki.AuthorityInvalid, match=f"holds the certificate {issued.serial}, which is another"):
        pki.issued(lab)


def test_what_is_no_authority_is_told(tmp_path: Path) -> None:
    with pytest.raises(pki.AuthorityInvalid, match="holds no authority"):
        pki.issued(tmp_path)
    with pytest.raises(pki.AuthorityInvalid, match="none cannot be opened as a folder: No such file"):
        pki.issue(tmp_path / "none", "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(pki.AuthorityInvalid, match="file cannot be opened as a folder: Not a directory"):
        pki.revoke(tmp_path / "file", "a")
