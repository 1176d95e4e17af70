from __future__ import annotations

import pickle

import pytest

from ownkey_server.domain.secret_bytes import SecretBytes


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = SecretBytes(b"swordfish")
    assert bytes(secret.reveal()) == b"swordfish"
    assert "swordfish" not in f"{secret} {secret!r} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_a_wiped_secret_is_zeros() -> None:
    secret = SecretBytes(bytearray(b"swordfish"))
    view = secret.reveal()
    secret.wipe()
    assert view == bytes(9)
