"""Names to addresses, once for each attempt: what was checked is what is connected to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from ownkey_server.domain.addresses import Address, Network, refusal
from ownkey_server.service.notifications.sending import DeliveryFailed

Resolve: TypeAlias = Callable[[str, int, bool], Awaitable[Sequence[str]]]
"""Host, port and whether the channel is slow, to addresses."""

THREADS = 32
TRIED = 3
"""How many of a name's addresses are tried."""


class SystemResolver:
    """Asks the system, on threads of its own: a name that hangs holds up nobody's database or key store.

    Names of channels that were slow lately have other threads than those of all others. Who asks for a name that is
    being asked for waits for the same answer.
    """

    def __init__(self) -> None:
        self._threads = [ThreadPoolExecutor(THREADS, f"names-{lane}") for lane in ("fast", "slow")]
        self._asked: dict[tuple[str, int, bool], asyncio.Future[list[str]]] = {}

    async def __call__(self, host: str, port: int, slow: bool) -> Sequence[str]:
        """The addresses of a name.

        Raises:
            OSError: There are none.
        """
        which = (host, port, slow)
        asked = self._asked.get(which)
        if asked is None:
            asked = asyncio.get_running_loop().run_in_executor(self._threads[slow], _look_up, host, port)
            self._asked[which] = asked
            asked.add_done_callback(lambda _: self._asked.pop(which, None))
        return await asyncio.shield(asked)

    def close(self) -> None:
        """Ask no more. What is asked already ends by itself."""
        for one in self._threads:
            one.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(address[0]) for _, _, _, _, address in found]


async def checked_addresses(
    resolve: Resolve, host: str, port: int, allowed: Collection[Network], *, slow: bool
) -> list[Address]:
    """Where to connect to for a name: every one of its addresses may be connected to, or none is.

    Raises:
        DeliveryFailed: There are none, or one may not be.
    """
    try:
        literal: Address | None = ipaddress.ip_address(host)
    except ValueError:
        literal = None
    if literal is not None:
        found = [literal]
    else:
        try:
            found = [ipaddress.ip_address(one) for one in await resolve(host, port, slow)]
        except (OSError, UnicodeError):
            raise DeliveryFailed(f"the name {host} cannot be resolved") from None
        except ValueError:
            raise DeliveryFailed(f"the name {host} leads to no address") from None
    for address in found:
        why = refusal(address, allowed)
        if why:
            # Which address it is would tell a tenant how our own network looks.
            raise DeliveryFailed(f"{host} may not be connected to: its address is not public ({why.partition(',')[0]})")
    if not found:
        raise DeliveryFailed(f"the name {host} has no address")
    return list(dict.fromkeys(found))[:TRIED]
