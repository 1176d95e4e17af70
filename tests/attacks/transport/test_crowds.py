"""Callers that ask for much of what is always answered, or has precedence: others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from ownkey.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    call_pb2,
    key_service_pb2,
    key_service_pb2_grpc,
    role_pb2,
)
from support.access import DOMAIN, Lab
from support.attacks import MIB, eventually, honest_calls
from support.pki import Issued
from support.rpc import Failure

# What the server uses, and how long the honest wait, says something only while nothing else runs.
pytestmark = pytest.mark.alone

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))
AUTHORIZE = "/ownkey.v1.KeyService/AuthorizeCall"
EMERGENCY = call_pb2.AuthorizeCallRequest(tenant="x", call_id="1", callee="911")
# Fewer than a connection may have: at its limit the transport refuses some before the server sees them.
CONNECTIONS, AT_ONCE = 8, 48


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server that tells its callers apart, an honest caller, and an administrator of another tenant."""
    with Lab(Path(tmp_path_factory.mktemp("crowds"))).running() as running:
        assert running.by_certificate(running.admin)("CreateTenant", id="globex")
        grant = role_pb2.RoleGrant
        running.grant(
            f"{DOMAIN}/honest",
            grant(role=role_pb2.ROLE_DATA, tenant="acme"),
            grant(role=role_pb2.ROLE_CALL_GATE, tenant="acme"),
        )
        running.grant(f"{DOMAIN}/globex", grant(role=role_pb2.ROLE_TENANT_ADMIN, tenant="globex"))
        running.grant(f"{DOMAIN}/acme", grant(role=role_pb2.ROLE_TENANT_ADMIN, tenant="acme"))
        yield running


def credentials(lab: Lab, issued: Issued | None = None) -> grpc.ChannelCredentials:
    """Those of a certificate, or of nobody."""
    pair = (issued.key.read_bytes(), issued.pem.read_bytes()) if issued else (None, None)
    return grpc.ssl_channel_credentials(lab.authority.pem.read_bytes(), *pair)


def issued(lab: Lab, name: str) -> Issued:
    """A certificate of that principal."""
    return lab.authority.issue(name, uris=[f"{DOMAIN}/{name}"])


@contextlib.contextmanager
def flood(
    address: str, who: grpc.ChannelCredentials, calls: Sequence[Callable[[grpc.aio.Channel], object]], at_once: int
) -> Iterator[Counter[str]]:
    """So many calls at once on each of several connections, one after the other, while the block runs; their ends."""
    ends: Counter[str] = Counter()
    stop = threading.Event()

    async def one(call: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                await call()  # type: ignore[misc]
                ends["OK"] += 1
            except grpc.aio.AioRpcError as error:
                ends[Failure.of(error).reason or error.code().name] += 1

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            running = []
            for make in calls:
                channel = await stack.enter_async_context(grpc.aio.secure_channel(address, who, OPTIONS))
                running += [one(make(channel)) for _ in range(at_once)]  # type: ignore[arg-type]
            await asyncio.gather(*running)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert eventually(lambda: ends.total() > 0)
        yield ends
    finally:
        stop.set()
        thread.join()


def test_requests_of_millions_of_fields_hold_up_nobody(lab: Lab) -> None:
    tiny = b"\x08\x01" * (11 * MIB // 2)

    def make(channel: grpc.aio.Channel) -> Callable[[], object]:
        call = channel.unary_unary(AUTHORIZE)
        return lambda: call(tiny, timeout=20)

    with (
        honest_calls(lab.address, credentials(lab, issued(lab, "honest"))) as honest,
        flood(lab.token_address, credentials(lab), [make] * 2, 2) as ends,
    ):
        assert eventually(lambda: ends.total() >= 20)
    print(f"{dict(ends)}; {honest}")
    assert set(ends) == {"INVALID_FIELD"}, "it is refused for its size, whoever sends it"


def test_a_crowd_of_strangers_gets_its_emergency_calls_and_known_callers_do_not_wait_for_it(lab: Lab) -> None:
    def make(channel: grpc.aio.Channel) -> Callable[[], object]:
        stub = key_service_pb2_grpc.KeyServiceStub(channel)

        async def call() -> None:
            assert (await stub.AuthorizeCall(EMERGENCY, timeout=20)).emergency

        return call

    stranger = lab.by_token(None)
    with (
        honest_calls(lab.address, credentials(lab, issued(lab, "honest"))) as honest,
        flood(lab.token_address, credentials(lab), [make] * CONNECTIONS, AT_ONCE) as ends,
    ):
        assert eventually(lambda: ends.total() >= CONNECTIONS * AT_ONCE)
        for _ in range(5):  # behind the same address, and not behind all of the crowd
            assert stranger("AuthorizeCall", tenant="acme", call_id="1", callee="112").emergency
    print(f"{dict(ends)}; {honest}")
    assert set(ends) == {"OK"}


def test_a_crowd_that_is_turned_away_holds_up_nobody(lab: Lab) -> None:
    def make(channel: grpc.aio.Channel) -> Callable[[], object]:
        stub = key_service_pb2_grpc.KeyServiceStub(channel)
        return lambda: stub.KeyStatus(key_service_pb2.KeyStatusRequest(tenant="acme"), timeout=20)

    with (
        honest_calls(lab.address, credentials(lab, issued(lab, "honest"))) as honest,
        flood(lab.token_address, credentials(lab), [make] * CONNECTIONS, AT_ONCE) as ends,
    ):
        assert eventually(lambda: ends.total() >= CONNECTIONS * AT_ONCE)
    print(f"{dict(ends)}; {honest}")
    assert set(ends) == {"UNAUTHENTICATED"}


def test_what_one_tenant_s_administrator_asks_holds_up_no_other_tenant_and_no_other_administrator(lab: Lab) -> None:
    def look(channel: grpc.aio.Channel) -> Callable[[], object]:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        return lambda: stub.GetTenant(admin_service_pb2.GetTenantRequest(tenant="globex"), timeout=20)

    def change(channel: grpc.aio.Channel) -> Callable[[], object]:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        request = admin_service_pb2.UpdateGroupRequest(tenant="globex", group="none", etag="*", users=["u"])
        return lambda: stub.UpdateGroup(request, timeout=20)

    acme = lab.by_certificate(issued(lab, "acme"))
    with (
        honest_calls(lab.address, credentials(lab, issued(lab, "honest"))) as honest,
        flood(lab.address, credentials(lab, issued(lab, "globex")), [look] * 6 + [change] * 2, AT_ONCE) as ends,
    ):
        assert eventually(lambda: ends.total() >= CONNECTIONS * AT_ONCE)
        for number in range(3):
            made = acme("CreateGroup", tenant="acme", group=f"crowd-{number}", users=["u"])
            assert not isinstance(made, Failure), made
        assert acme("GetTenant", tenant="acme").tenant.id == "acme"
    print(f"{dict(ends)}; {honest}")
