"""What the control plane's client accepts before anything is sent, and how it fetches pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from datetime import datetime

import grpc
import pytest

from ownkey import AdminClient, errors
from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import admin_service_pb2_grpc, tenant_pb2

LONE = "\ud800"


class Service(admin_service_pb2_grpc.AdminServiceServicer):
    """Lists seven groups, three on a page, and answers nothing else."""

    def __init__(self) -> None:
        self.changes = 0

    def ListGroups(self, request: pb.ListGroupsRequest, context: object) -> pb.ListGroupsResponse:  # type: ignore[override]
        start = int(request.page_token or 0)
        groups = [tenant_pb2.Group(id=f"g{n}") for n in range(start, min(start + 3, 7))]
        return pb.ListGroupsResponse(groups=groups, next_page_token=str(start + 3) if start + 3 < 7 else "")

    def CreateTenant(self, request: object, context: grpc.ServicerContext) -> None:  # type: ignore[override]
        self.changes += 1
        context.abort(grpc.StatusCode.UNAVAILABLE, "a moment")


@pytest.fixture
def service() -> Iterator[tuple[Service, str]]:
    servicer, server = Service(), grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    admin_service_pb2_grpc.add_AdminServiceServicer_to_server(servicer, server)  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_pages_are_fetched_as_they_are_needed(service: tuple[Service, str]) -> None:
    with AdminClient(service[1]) as client:
        groups = client.list_groups("acme")
        assert next(groups).id == "g0"
        assert [group.id for group in groups] == [f"g{n}" for n in range(1, 7)]


def test_a_change_is_sent_once_even_when_the_service_says_unavailable(service: tuple[Service, str]) -> None:
    with AdminClient(service[1]) as client:
        with pytest.raises(errors.ServiceUnavailable):
            client.create_tenant("acme")
        assert service[0].changes == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.create_tenant(LONE),
        lambda client: client.create_tenant("acme", reason=LONE),
        lambda client: client.create_tenant("acme", enrolled_at=datetime(2026, 1, 1)),
        lambda client: client.get_tenant(LONE),
        lambda client: client.update_tenant("acme", LONE),
        lambda client: client.enrol_key("acme", "main", "hsm", LONE),
        lambda client: client.create_group("acme", "g", "sam"),
        lambda client: client.update_group("acme", "g", "*", "sam"),
        lambda client: client.create_group("acme", "g", [LONE]),
        lambda client: client.export_tenants("acme"),
        lambda client: client.get_policy_version("acme", 2**31),
        lambda client: client.activate_policy_version("acme", 2**40, "*"),
        lambda client: client.simulate_policy("acme", 2**31),
        lambda client: client.apply_tenants(LONE),
        lambda client: list(client.list_groups(LONE)),
        lambda client: list(client.list_audit_records(start=datetime(2026, 1, 1))),
    ],
)
def test_what_cannot_be_sent_is_an_invalid_request(call: Callable[[AdminClient], object]) -> None:
    with AdminClient("127.0.0.1:1") as client, pytest.raises(errors.InvalidRequest):
        call(client)


@pytest.mark.parametrize("address", ["10.0.0.1:7400", "example.com:7400", "7400"])
def test_another_machine_needs_credentials(address: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        AdminClient(address)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_a_call_ends_some_time(timeout: float) -> None:
    with pytest.raises(errors.InvalidRequest):
        AdminClient(timeout=timeout)
