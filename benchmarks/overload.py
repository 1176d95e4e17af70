"""Three times the load that the server can bear: what it still answers in time, and how the call gate fares meanwhile.

Live calls (GenerateDataKey), playback (Unwrap) and background work (Unwrap, marked so) are each offered at the server's
best rate, by an open loop, on connections of their own: one connection's calls wait in the client in one line, whatever
their priority. Goodput is what was answered within its deadline. Beside them AuthorizeCall comes at a modest rate, from
another process.

The clients are the kind that overload needs: a call that could not be sent within half of its deadline is given up.
The kind that waits until the deadline, as gRPC's own clients do, is measured too. Under lasting overload all that these
send is about to expire, and there is little that a server can do.

What limits the measurement: the load comes from the one core that is left, of which it takes about a fifth.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

import grpc
from client import ASSET, SERVICE
from harness import CLIENT_CORE, Peer, Result, ownkey_server, peer, ratio

from ownkey.v1 import asset_pb2, call_pb2, key_service_pb2

FACTOR = 3
DEADLINES = {"live": 1.0, "playback": 2.0, "background": 5.0}
CONNECTIONS = 2  # for each priority
GATE_RATE = 100
PATIENCE = {"given up after half of the deadline": 0.5, "given up at the deadline": 1.0}
GOODPUT_AIM, GATE_AIM = 0.8, 5.0
CALLERS = (8, 16, 32)  # at once on each of four connections: the best of these is the best rate

Source = dict[str, Any]


def source(name: str, method: str, request: bytes, rate: float, deadline: float, patience: float) -> Source:
    return {
        "name": name,
        "path": f"{SERVICE}/{method}",
        "request": request.hex(),
        "metadata": {},
        "rate": rate,
        "deadline": deadline,
        "patience": patience,
        "connections": 1 if name == "gate" else CONNECTIONS,
    }


class Requests:
    """What is asked: bytes made once, with a data key that this server wrapped."""

    def __init__(self, address: str) -> None:
        self.generate = key_service_pb2.GenerateDataKeyRequest(asset=ASSET, with_plaintext=True).SerializeToString()
        with grpc.insecure_channel(address) as channel:
            raw = channel.unary_unary(f"{SERVICE}/GenerateDataKey")(self.generate)
        made = key_service_pb2.GenerateDataKeyResponse.FromString(raw)
        unwrap = key_service_pb2.UnwrapRequest(
            asset=ASSET, wrapped_key=made.wrapped_key, encryption_context=made.encryption_context
        )
        self.unwrap = unwrap.SerializeToString()
        unwrap.priority = key_service_pb2.PRIORITY_BACKGROUND
        self.background = unwrap.SerializeToString()
        self.call = call_pb2.AuthorizeCallRequest(
            tenant=ASSET.tenant,
            call_id="benchmark-1",
            callee="+4915112345678",
            stores=[asset_pb2.ASSET_CLASS_PHONE_RECORDING],
        ).SerializeToString()

    def mix(self, rate: float, patience: float) -> list[Source]:
        """Each priority at that rate."""
        kinds = {
            "live": ("GenerateDataKey", self.generate),
            "playback": ("Unwrap", self.unwrap),
            "background": ("Unwrap", self.background),
        }
        return [source(name, *kinds[name], rate, deadline, patience * deadline) for name, deadline in DEADLINES.items()]

    def gate(self) -> list[Source]:
        """AuthorizeCall at its modest rate."""
        return [source("gate", "AuthorizeCall", self.call, GATE_RATE, 1.0, 1.0)]


def best_rate(client: Peer, address: str, calls: int) -> float:
    """GenerateDataKey by a closed loop: the best of several numbers of callers."""
    job = {"do": "unary", "address": address, "method": f"{SERVICE}/GenerateDataKey", "calls": calls}
    seconds = [client.ask(**job, connections=4, at_once=at_once, tenants=[ASSET.tenant]) for at_once in CALLERS]
    return float(max(calls / one["seconds"] for one in seconds))


def results(quick: bool) -> list[Result]:
    rounds, calls, seconds = (1, 2000, 4) if quick else (5, 4000, 10)
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in PATIENCE}
    with ExitStack() as stack:
        server = stack.enter_context(ownkey_server())
        client = stack.enter_context(peer("client.py", CLIENT_CORE))
        load = stack.enter_context(peer("open_loop.py", CLIENT_CORE))
        probe = stack.enter_context(peer("open_loop.py", CLIENT_CORE))
        requests = Requests(server.address)
        best_rate(client, server.address, calls)
        for _ in range(rounds):
            best = best_rate(client, server.address, calls)
            job = {"address": server.address, "warm_up": 1, "seconds": seconds}
            idle = probe.ask(sources=requests.gate(), **job)["sources"]["gate"]
            for name, patience in PATIENCE.items():
                # Longer than any call waits in the client, so that what is counted is the lasting state.
                job["warm_up"] = 3
                load.send(sources=requests.mix(best * FACTOR / len(DEADLINES), patience), **job)
                gate = probe.ask(sources=requests.gate(), **job)["sources"]["gate"]
                answer = load.receive()
                taken[name].append({"best": best, "idle": idle, "gate": gate, **answer})
    return [figure for name, runs in taken.items() for figure in _figures(name, runs)]


def _figures(clients: str, runs: list[dict[str, Any]]) -> list[Result]:
    aimed = clients == next(iter(PATIENCE))
    goodput = [sum(one["goodput"] for one in (*run["sources"].values(), run["gate"])) / run["best"] for run in runs]
    baseline = f"the best rate of GenerateDataKey alone; unsent calls {clients}"
    whole = ratio("goodput at 3 times the capacity", baseline, goodput, GOODPUT_AIM if aimed else None)
    whole["best_calls_per_second"] = round(statistics.median(run["best"] for run in runs))
    whole["client_share_of_its_core"] = round(max(run["client_share"] for run in runs), 2)
    slower = statistics.median(run["gate"]["p99_ms"] / run["idle"]["p99_ms"] for run in runs)
    gate: Result = {
        "name": "AuthorizeCall meanwhile, p99",
        "value": round(slower, 2),
        "unit": "times its p99 on the idle server",
        "baseline": f"{statistics.median(run['idle']['p99_ms'] for run in runs):.1f} ms idle; unsent calls {clients}",
        "runs": len(runs),
        "aim": GATE_AIM if aimed else None,
        "met": slower < GATE_AIM if aimed else None,
        "p99_ms": round(statistics.median(run["gate"]["p99_ms"] for run in runs), 1),
    }
    return [whole, gate, *(_share(name, clients, [run["sources"][name] for run in runs]) for name in DEADLINES)]


def _share(name: str, clients: str, runs: list[dict[str, float]]) -> Result:
    """Which share of a priority's calls was answered in time, and what became of the others."""
    ends = ("ok", "late", "unsent", "refused", "failed", "turned_away")
    total = [sum(run.get(end, 0) for end in ends) for run in runs]
    parts = {
        end: statistics.median(run.get(end, 0) / all_ for run, all_ in zip(runs, total, strict=True)) for end in ends
    }
    told = ", ".join(f"{share:.2f} {end.replace('_', ' ')}" for end, share in parts.items() if end != "ok")
    return {
        "name": f"{name} calls answered in time",
        "value": round(parts["ok"], 3),
        "unit": "of all offered",
        "baseline": f"the others: {told}; unsent calls {clients}",
        "runs": len(runs),
        "aim": None,
        "met": None,
    }
