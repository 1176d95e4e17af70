"""The process with the module in it: takes operations from its socket, one after another, until that closes."""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection

from ownkey_server import hardening
from ownkey_server.hsm.answers import told
from ownkey_server.hsm.bench import Bench
from ownkey_server.hsm.errors import HsmError
from ownkey_server.hsm.processes import end_with_parent
from ownkey_server.hsm.wire import packed


def main(number: int) -> None:
    """Serve one socket, on which first comes which module it is.

    Args:
        number: Its descriptor.
    """
    hardening.harden()
    end_with_parent()
    # Ctrl-C is for the command, which then has this process undo what was half done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(number)
    try:
        bench = Bench(*connection.recv())
    except HsmError as error:
        connection.send_bytes(packed(_refusal(error)))
        return
    connection.send_bytes(packed(("done", None)))
    while True:
        try:
            operation = connection.recv()
        except EOFError:
            break
        try:
            answer = ("done", operation.run(bench))
        except Exception as error:  # noqa: BLE001 - all of them are told where somebody reads them
            answer = _refusal(told(error))
        connection.send_bytes(packed(answer))
        # Nothing of it, a PIN least of all, stays until the next one comes.
        del operation, answer
    bench.close()


def _refusal(error: HsmError) -> tuple[str, tuple[str, str, str]]:
    return "refused", (str(error), error.trouble.value, error.hint)


if __name__ == "__main__":
    main(int(sys.argv[1]))
