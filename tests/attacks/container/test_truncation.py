"""An object that was cut anywhere is never taken for whole."""

from __future__ import annotations

import secrets

from attacks.container.objects import CONTENT, assert_refused, expect_nothing_wrong, read, small
from ownkey.container import EncryptedDataKey, Encryptor, Truncated


def test_a_cut_at_every_byte_is_noticed() -> None:
    by = small()
    message = by.message(CONTENT)
    expect_nothing_wrong(message, by.data_key, CONTENT)
    header, stride = len(by.header), 16 + 32
    for size in range(len(message)):
        whole_frames = min(max(0, size - header) // stride, 3)
        error = assert_refused(message[:size], by.data_key, may_release=CONTENT[: 16 * whole_frames])
        assert isinstance(error, Truncated)


def test_a_cut_at_every_frame_s_edge_is_noticed_when_the_frames_are_large() -> None:
    data_key, content = secrets.token_bytes(32), secrets.token_bytes(20 * 4096)
    encryptor = Encryptor(
        data_key,
        encryption_context={"ownkey:tenant": "acme"},
        encrypted_data_keys=[EncryptedDataKey("test", b"key-1", b"wrapped")],
        frame_length=4096,
    )
    message = encryptor.header.to_bytes() + encryptor.update(content) + encryptor.finish()
    expect_nothing_wrong(message, data_key, content)
    for frames in range(20):
        edge = encryptor.header.length + frames * (4096 + 32)
        for size in (edge - 1, edge, edge + 1):
            whole = frames - (size < edge)
            error = read(message[:size], data_key).error
            assert isinstance(error, Truncated)
            if frames:
                assert f"after {whole} whole" in str(error)
