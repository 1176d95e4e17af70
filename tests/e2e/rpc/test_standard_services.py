"""Health and reflection, as ghz, grpcurl and orchestrators use them."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ownkey.v1 import admin_service_pb2, key_service_pb2
from support.rpc import Rpc


@pytest.mark.parametrize("service", ["", "ownkey.v1.KeyService", "ownkey.v1.AdminService"])
async def test_the_server_says_that_it_serves(rpc: Rpc, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(rpc.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def ask(rpc: Rpc, **question: str) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(rpc.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**question)]))
    return await call.read()


async def test_reflection_lists_the_services(rpc: Rpc) -> None:
    answer = await ask(rpc, list_services="")
    names = {service.name for service in answer.list_services_response.service}
    standard = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert names == {"ownkey.v1.KeyService", "ownkey.v1.AdminService"} | standard


SERVICES = (
    key_service_pb2.DESCRIPTOR.services_by_name["KeyService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
)
SYMBOLS = [name for service in SERVICES for name in (service.full_name, *(one.full_name for one in service.methods))]


@pytest.mark.parametrize("symbol", ["ownkey.v1.Asset", "grpc.health.v1.Health", *SYMBOLS])
async def test_reflection_knows_every_symbol_with_its_rules(rpc: Rpc, symbol: str) -> None:
    answer = await ask(rpc, file_containing_symbol=symbol)
    raw = answer.file_descriptor_response.file_descriptor_proto[0]
    file = descriptor_pb2.FileDescriptorProto.FromString(raw)
    assert symbol.startswith(file.package)
    assert symbol.startswith("grpc") or "buf/validate/validate.proto" in file.dependency


async def test_reflection_says_what_it_does_not_know(rpc: Rpc) -> None:
    for symbol in ("ownkey.v1.KeyService.Nothing", "nothing"):
        assert (await ask(rpc, file_containing_symbol=symbol)).error_response.error_code == 5
