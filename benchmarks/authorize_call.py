"""AuthorizeCall on one core: its rate and p99 with sixteen callers, and what a caller who is alone waits.

By ghz with the profile of clients/ghz where it is installed, and else by a closed loop of such calls (``http2.py``);
the figure says which. The client has a core of its own either way.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
from harness import CLIENT_CORE, HERE, Result, ownkey_server, peer

from ownkey.v1 import asset_pb2, call_pb2, key_service_pb2_grpc

sys.path.insert(0, str(HERE.parent / "clients" / "ghz"))
import load

METHOD = "/ownkey.v1.KeyService/AuthorizeCall"
NUMBERS = 1000
CALLERS = (16, 1)
CONNECTIONS = 2
# The closed loop is told how many calls, not for how long.
CALLS_PER_SECOND = 1500


class Load(Protocol):
    """Puts load on a server for so many seconds, and gives rate, p50, p99 and calls."""

    name: str

    def __call__(self, address: str, seconds: float, at_once: int) -> dict[str, Any]: ...


def results(quick: bool) -> list[Result]:
    """One figure for each number of callers."""
    seconds = 1.0 if quick else 10.0
    with ownkey_server() as server, _load() as put:
        _require_a_decision(server.address)
        put(server.address, min(seconds, 2.0), CALLERS[0])  # the first seconds of a server are its slowest
        return [_result(put(server.address, seconds, at_once), at_once, put.name) for at_once in CALLERS]


@contextmanager
def _load() -> Iterator[Load]:
    ghz = load.ghz_here()
    if ghz:
        yield _Ghz(ghz)
        return
    with peer("client.py", CLIENT_CORE) as client:
        yield _Loop(client)


class _Ghz:
    name = "by ghz"

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, address: str, seconds: float, at_once: int) -> dict[str, Any]:
        core = CLIENT_CORE if load.cores() else None
        report = load.run(self._path, address, *load.AUTHORIZE_CALL, seconds=seconds, at_once=at_once, core=core)
        figures = load.figures_of("AuthorizeCall", report)
        if figures["errors"]:
            raise RuntimeError(f"calls failed: {figures['messages']}")
        return figures


class _Loop:
    name = "by a closed loop, for ghz is not installed"

    def __init__(self, client: Any) -> None:
        self._client = client

    def __call__(self, address: str, seconds: float, at_once: int) -> dict[str, Any]:
        connections = min(CONNECTIONS, at_once)
        calls = int(CALLS_PER_SECOND * seconds)
        job = {"connections": connections, "at_once": at_once // connections, "calls": calls}
        requests = [_request(number).hex() for number in range(NUMBERS)]
        told = self._client.ask(do="timed", address=address, method=METHOD, requests=requests, **job)
        return {**told, "rate": calls / told["seconds"], "calls": calls}


def _request(number: int) -> bytes:
    return call_pb2.AuthorizeCallRequest(
        tenant="acme",
        call_id=f"call-{number:08}",
        caller=f"+1555{number:07}",
        callee=f"tel:+1555{9_999_999 - number:07}",
        direction=call_pb2.CALL_DIRECTION_OUTBOUND,
        user=f"user-{number % 1000:03}@acme.example",
        stores=[asset_pb2.ASSET_CLASS_PHONE_RECORDING],
        request_id=f"benchmark-{number:08}",
    ).SerializeToString()


def _require_a_decision(address: str) -> None:
    """Make sure that what is measured is decided by a key's state, and not let through before that is looked at."""
    with grpc.insecure_channel(address) as channel:
        stub = key_service_pb2_grpc.KeyServiceStub(channel)
        answer = stub.AuthorizeCall(call_pb2.AuthorizeCallRequest.FromString(_request(0)))
    if answer.reason != call_pb2.CALL_REASON_KEY_AVAILABLE:
        raise RuntimeError(f"the call was not decided by its key: {answer}")


def _result(figures: dict[str, Any], at_once: int, how: str) -> Result:
    who = f"{at_once} callers" if at_once > 1 else "one caller"
    return {
        "name": f"AuthorizeCall on one core, {who}, p99",
        "value": round(figures["p99_ms"], 2),
        "unit": "ms",
        "baseline": f"p50 {figures['p50_ms']:.2f} ms, {figures['rate']:,.0f} calls/s, {how}",
        "runs": figures["calls"],
        "calls_per_second": round(figures["rate"]),
        "aim": None,
        "met": None,
    }
