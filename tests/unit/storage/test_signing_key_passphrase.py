from __future__ import annotations

from pathlib import Path

import pytest

from ownkey_server.secret_sources import SecretReference
from ownkey_server.storage.audit.signing import SigningKeyError, load_or_make_signer, load_signer

PASSPHRASE = SecretReference.typed("four stones")
WRONG = SecretReference.typed("five stones")


def test_a_signing_key_is_made_and_read_under_its_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "audit.pem"
    made, _ = load_or_make_signer(path, PASSPHRASE)
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    again, made_again = load_or_make_signer(path, PASSPHRASE)
    assert (again.fingerprint, made_again) == (made.fingerprint, False)


@pytest.mark.parametrize(
    ("made_under", "read_under", "complaint"),
    [
        (PASSPHRASE, WRONG, "the passphrase in prompt is wrong"),
        (PASSPHRASE, None, r"is encrypted: set signing_key_passphrase in \[audit\]"),
        (None, PASSPHRASE, "is not encrypted: remove signing_key_passphrase"),
        (None, SecretReference.file(Path("/nowhere")), "in file:/nowhere: cannot be read"),
    ],
)
def test_what_does_not_fit_is_told_with_what_to_change(
    tmp_path: Path, made_under: SecretReference | None, read_under: SecretReference | None, complaint: str
) -> None:
    path = tmp_path / "audit.pem"
    load_or_make_signer(path, made_under)
    before = path.read_bytes()
    for read in (load_signer, load_or_make_signer):
        with pytest.raises(SigningKeyError, match=complaint) as caught:
            read(path, read_under)
        assert "stones" not in str(caught.value)
    assert path.read_bytes() == before
