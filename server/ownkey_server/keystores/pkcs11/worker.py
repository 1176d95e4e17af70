"""The process that a PKCS#11 module has to itself: takes requests from a socket, does one at a time, and answers it.

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
from ownkey_server.keystores.pkcs11.child import ARGUMENTS_VARIABLE
from ownkey_server.keystores.pkcs11.frames import Frames
from ownkey_server.keystores.pkcs11.messages import Answer, pack_answer, unpack_request, wipe
from ownkey_server.keystores.pkcs11.module import LoadedModule
from ownkey_server.keystores.pkcs11.operations import Desk

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
    """Say that this side is up, and answer requests until the other side closes.

    Each is answered before the next is begun: what has no answer yet shows the other side where this one was.
    """
    requests.sendall(pack_answer(Answer()))
    frames = Frames()
    with contextlib.suppress(ConnectionError):
        while count := requests.recv_into(frames.room()):
            frames.came(count)
            for number, body in frames.whole():
                answer = desk.serve(unpack_request(body))
                packed = pack_answer(answer, number)
                wipe(answer.data_key)
                requests.sendall(packed)
                wipe(packed)
                # Nothing of a call, a data key least of all, stays here until the next one comes.
                del answer, packed


def _end_with_parent(parent: int) -> None:
    """Be killed when the server is gone, even while a call hangs in C."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
