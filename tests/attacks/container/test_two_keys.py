"""One ciphertext that two keys open: what AES-GCM allows, and the commitment ends."""

from __future__ import annotations

import secrets

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attacks.container.objects import read
from ownkey.container import CommitmentMismatch, Decryptor, HeaderReader, RangeDecryptor
from vectors.container import two_keys
from vectors.container.independent import Writer, iv, message_key


def test_an_object_that_is_authentic_under_two_data_keys_opens_with_one_only() -> None:
    keys, message_id = (secrets.token_bytes(32), secrets.token_bytes(32)), secrets.token_bytes(32)
    message = two_keys.forge(keys, message_id)
    reader = HeaderReader()
    header = reader.feed(message)
    assert header is not None
    frame = bytes(reader.rest)

    # The forgery is real: for AES-GCM, header and frame are authentic under both, and say two different things.
    contents = []
    for data_key in keys:
        cipher = AESGCM(message_key(data_key, message_id))
        assert cipher.decrypt(iv(0), header.tag, header.body) == b""
        contents.append(cipher.decrypt(iv(1), frame[24:], Writer(data_key, message_id).aad(b"Final Frame", 1, 16)))
    assert contents[0] != contents[1]

    # The object commits to the first.
    assert read(message, keys[0]).released == contents[0]
    with pytest.raises(CommitmentMismatch):
        Decryptor(header, keys[1])
    with pytest.raises(CommitmentMismatch):
        RangeDecryptor(header, keys[1], object_size=len(message))
