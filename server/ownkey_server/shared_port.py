"""A TCP port that several processes share, each with a listening socket of its own (``SO_REUSEPORT``).

The kernel gives every new connection to one of the listeners. Whoever calls :func:`held` listens to nothing: its socket
keeps the port for the listeners while they come and go, and keeps everybody else from it.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

# An address that this machine lacks, such as ::1 where IPv6 is off: "localhost" means what is left.
_LACKING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@contextlib.contextmanager
def held(listen: str) -> Iterator[str]:
    """Hold ``HOST:PORT`` until the block ends; gives it with the port that port 0 got.

    Raises:
        OSError: It is taken, or several processes cannot share a port on this system.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise OSError("this system has no SO_REUSEPORT, so that several workers cannot share a port")
    host, _, given = listen.rpartition(":")
    port = int(given)
    with contextlib.ExitStack() as stack:
        found = {(family, place[0]) for family, _, _, _, place in socket.getaddrinfo(host.strip("[]"), port)}
        held_any = False
        for family, address in sorted(found, key=str):
            try:
                holder = stack.enter_context(_bound(family, str(address), port))
            except OSError as error:
                if error.errno in _LACKING:
                    continue
                raise OSError(f"cannot listen on {listen}: is the port taken?") from error
            port, held_any = holder.getsockname()[1], True
        if not held_any:
            raise OSError(f"cannot listen on {listen}: this machine has no such address")
        yield f"{host}:{port}"


def _bound(family: int, address: str, port: int) -> socket.socket:
    """A bound socket that lets others of this user share its port from now on, but none that was there before."""
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Past connections of a former server must not keep us from its port. With SO_REUSEPORT set before, another
        # ownkey with workers, whose port this is, would not either: so it is set afterwards.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((address, port))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        holder.close()
        raise
    return holder
