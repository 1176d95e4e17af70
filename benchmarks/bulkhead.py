"""One tenant's KMS swallows every question: what another tenant notices of it, at 200 requests a second.

A machine that cannot serve 200 a second of even one tenant shows its own queue, and nothing else: then the rate is
halved until it can, and the figure says at which it was taken.

Both tenants have their keys in (a fake of) AWS KMS, each in a region of its own; between the server and one of them
stands a proxy that takes calls and never answers. An open loop asks for the healthy tenant, in alternating rounds alone
and while the other tenant is asked for too.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from typing import Any

from client import SERVICE
from harness import CLIENT_CORE, HERE, Peer, Result, peer
from kms_server import fake_kms, kms_server

from ownkey.v1 import asset_pb2, key_service_pb2

sys.path.insert(0, str(HERE.parent / "tests"))
from support.fault_proxy import Fault, FaultProxy

RATES, OTHER_SHARE = (200, 100, 50, 25), 4
# A tenant alone is served at a rate when nearly all of its calls take no longer.
CALM_MS = 100.0
DEADLINE = 2.0
HEALTHY, SICK = "acme", "globex"
REGIONS = {HEALTHY: "eu-west-1", SICK: "us-east-1"}
# What KMS takes in its own region, more or less.
KMS_SECONDS = 0.005
AIM = 1.3


def source(tenant: str, rate: float) -> dict[str, Any]:
    asset = asset_pb2.Asset(
        tenant=tenant, asset_class=asset_pb2.ASSET_CLASS_PHONE_RECORDING, asset_id="benchmark", user="bench@example.org"
    )
    request = key_service_pb2.GenerateDataKeyRequest(asset=asset, with_plaintext=True)
    return {
        "name": tenant,
        "path": f"{SERVICE}/GenerateDataKey",
        "request": request.SerializeToString().hex(),
        "metadata": {},
        "rate": rate,
        "deadline": DEADLINE,
        "patience": DEADLINE,
        "connections": 2,
    }


def results(quick: bool) -> list[Result]:
    rounds, seconds = (3, 4) if quick else (11, 10)
    runs: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = []
    with ExitStack() as stack:
        kms = stack.enter_context(fake_kms(KMS_SECONDS))
        proxy = stack.enter_context(FaultProxy(kms.url))
        keys = {tenant: kms.new_key(region) for tenant, region in REGIONS.items()}
        endpoints = {REGIONS[HEALTHY]: kms.url, REGIONS[SICK]: proxy.url}
        server = stack.enter_context(kms_server(keys, endpoints))
        load = stack.enter_context(peer("open_loop.py", CLIENT_CORE))
        job = {"address": server.address, "warm_up": 2, "seconds": seconds}
        proxy.fault = Fault.BLACK_HOLE
        rate = _rate(load, job)
        alone, beside = [source(HEALTHY, rate)], [source(HEALTHY, rate), source(SICK, rate / OTHER_SHARE)]
        for _ in range(rounds):
            first = load.ask(sources=alone, **job)["sources"][HEALTHY]
            both = load.ask(sources=beside, **job)["sources"]
            runs.append((first, both[HEALTHY], both[SICK]))
    return _figures(rate, runs)


def _rate(load: Peer, job: dict[str, Any]) -> int:
    """The highest rate at which the tenant alone is served in time."""
    for rate in RATES[:-1]:
        found = load.ask(sources=[source(HEALTHY, rate)], **job)["sources"][HEALTHY]
        if found["p99_ms"] < CALM_MS:
            return rate
    return RATES[-1]


def _figures(rate: int, runs: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]) -> list[Result]:
    slower = [beside["p99_ms"] / alone["p99_ms"] for alone, beside, _ in runs]
    spread = statistics.quantiles(slower, n=4)
    middle = statistics.median(slower)
    failed = sum(
        one.get(end, 0) for _, one, _ in runs for end in ("late", "unsent", "refused", "failed", "turned_away")
    )
    served = sum(one.get("ok", 0) for _, one, _ in runs)
    sick = sum(one.get("ok", 0) for _, _, one in runs)
    alone_ms = statistics.median(alone["p99_ms"] for alone, _, _ in runs)
    return [
        {
            "name": "p99 of a tenant beside one whose KMS is black-holed",
            "value": round(middle, 2),
            "unit": "times its p99 alone",
            "baseline": f"{alone_ms:.1f} ms, GenerateDataKey at {rate} a second, {rate // OTHER_SHARE} for the other",
            "runs": len(runs),
            "middle_half": [round(spread[0], 2), round(spread[2], 2)],
            "aim": AIM,
            "met": middle < AIM,
        },
        {
            "name": "its calls that were not answered in time meanwhile",
            "value": failed,
            "unit": f"of {served + failed}",
            "baseline": f"{sick} of the other tenant's were",
            "runs": len(runs),
            "aim": 1,
            "met": failed < 1,
        },
    ]
