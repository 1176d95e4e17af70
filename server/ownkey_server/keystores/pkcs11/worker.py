"""The process that a PKCS#11 module has to itself: takes requests from a socket, one at a time, and answers them.

What runs here is the vendor's code. It may crash, hang or write where it should not: the server loses an answer by
that, and nothing else. The process ends with its server, however that ends.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

from ownkey_server import hardening
from ownkey_server.keystores.pkcs11.messages import (
    HEADER_LENGTH,
    Answer,
    length_of,
    number_of,
    pack_answer,
    unpack_request,
    wipe,
)
from ownkey_server.keystores.pkcs11.module import LoadedModule
from ownkey_server.keystores.pkcs11.operations import Desk
from ownkey_server.keystores.pkcs11.process import ARGUMENTS_VARIABLE

# linux/prctl.h
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve the socket on standard input until it ends."""
    parser = argparse.ArgumentParser(description="Internal: runs a PKCS#11 module for ownkey's server.")
    parser.add_argument("module", type=Path)
    parser.add_argument("--store", help="whose it is, for whoever lists processes")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--pause", type=float, required=True)
    parser.add_argument("--lock-memory", action="store_true")
    given = parser.parse_args()
    # The server says when it is over. A signal for its whole group would end this before the last calls are answered.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _end_with_parent(given.parent)
    hardening.harden()
    if given.lock_memory:
        hardening.lock_memory()
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as requests:
        serve(requests, Desk(LoadedModule(given.module, os.environ.get(ARGUMENTS_VARIABLE), pause=given.pause)))
    # Not through the module's own ends: a vendor's atexit handler may hang or crash, and there is nothing left to keep.
    os._exit(0)


def serve(requests: socket.socket, desk: Desk) -> None:
    """Say that this side is up, and answer requests until the other side closes."""
    requests.sendall(pack_answer(Answer()))
    with contextlib.suppress(ConnectionError):
        while (received := _received(requests)) is not None:
            number, message = received
            answer = desk.serve(unpack_request(memoryview(message)))
            wipe(message)
            packed = pack_answer(answer, number)
            wipe(answer.data_key)
            requests.sendall(packed)
            wipe(packed)
            # Nothing of a call, a data key least of all, stays here until the next one comes.
            del received, message, answer, packed


def _received(requests: socket.socket) -> tuple[int, bytearray] | None:
    header = bytearray(HEADER_LENGTH)
    if not _filled(requests, header):
        return None
    message = bytearray(length_of(header))
    return (number_of(header), message) if _filled(requests, message) else None


def _filled(requests: socket.socket, buffer: bytearray) -> bool:
    view = memoryview(buffer)
    while view:
        count = requests.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


def _end_with_parent(parent: int) -> None:
    """Be killed when the server is gone, even while a call hangs in C."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
