"""A server that is told to stop lets the calls under way end, and takes no new ones."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ownkey import Asset, Client, errors
from support import server

ASSET = Asset("acme", "phone_recording", "call-1")


def test_a_stream_under_way_ends_whole_after_sigterm(tmp_path: Path) -> None:
    with server.process(tmp_path) as running, Client(running.address) as client:
        go_on = threading.Event()

        def content() -> Iterator[bytes]:
            yield b"x" * 300_000
            assert go_on.wait(20)
            yield b"y" * 300_000

        stream = client.encrypt_stream(content(), ASSET)
        assert stream.info.key
        os.kill(running.pid, signal.SIGTERM)
        with Client(running.address, timeout=2) as late:
            tick = threading.Event()
            for _ in range(500):
                try:
                    late.key_status("acme")
                except errors.ServiceUnavailable:
                    break
                tick.wait(0.02)
            else:
                pytest.fail("the server takes new calls though it was told to stop")
        go_on.set()
        sealed = b"".join(stream)
    # The same keys, another process: what was made while it stopped is whole.
    with server.process(tmp_path) as again, Client(again.address) as client:
        assert b"".join(client.decrypt_stream([sealed], ASSET)) == b"x" * 300_000 + b"y" * 300_000
