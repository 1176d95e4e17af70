"""A tenant whose key is in two regions of AWS KMS, and what a server says of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ownkey.v1 import key_service_pb2, key_state_pb2
from support.fake_kms import FakeKms
from support.fault_proxy import FaultProxy
from support.rpc import Rpc

FIRST, SECOND = "eu-west-1", "us-east-1"
TENANTS = """
[provider_key]
key_store = "embedded"
reference = "provider"

[[tenants]]
id = "acme"
enrolled_at = 2026-01-01T00:00:00Z

[[tenants.keys]]
id = "main"
key_store = "aws"
reference = "{first}"
replicas = [{{ key_store = "aws", reference = "{second}" }}]

[tenants.policy]
default = "key:main"
"""
STORE = """
[key_stores.aws]
kind = "aws_kms"
require_tenant_context = false
sts_endpoint_url = "{sts_url}"
endpoint_urls = {{ {first} = "{first_url}", {second} = "{second_url}" }}
"""


@dataclass
class Regions:
    """AWS KMS in two regions, the way to each, and a server that uses a key in both.

    Attributes:
        arns: The key's ARN, by region.
        proxies: The way there, by region.
    """

    kms: FakeKms
    arns: dict[str, str]
    proxies: dict[str, FaultProxy]
    address: str = ""

    def served(self, operation: str, region: str, asset: str) -> int:
        """How often a region has served an operation for an asset; probes are none."""
        return sum(
            (one.operation, one.region, one.error, one.context.get("ownkey:asset-id")) == (operation, region, "", asset)
            for one in list(self.kms.calls)
        )

    def mend(self) -> None:
        """End every fault, and give everything back."""
        for region, proxy in self.proxies.items():
            proxy.fault = None
            self.kms.enable(self.arns[region])
            self.kms.set_policy(self.arns[region], None)
        self.kms.heal()


async def states(rpc: Rpc) -> dict[str, str]:
    """The state of the key (``""``) and of each of its places."""
    request = key_service_pb2.KeyStatusRequest(tenant="acme")
    [key] = (await rpc.stub.KeyStatus(request, timeout=20)).keys
    found = {"": key.state, **{one.replica: one.state for one in key.replicas}}
    return {name: key_state_pb2.KeyState.Name(state).removeprefix("KEY_STATE_") for name, state in found.items()}


async def until_states(rpc: Rpc, condition: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    """The first states that are as they should be."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = await states(rpc)
        if condition(found):
            return found
    raise AssertionError(f"after 30 s the states are {found}")
