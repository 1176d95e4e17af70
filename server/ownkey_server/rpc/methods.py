"""Every method that is served: its request, what the request is about, and how urgent it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import message_factory
from google.protobuf.message import Message

from ownkey.v1 import admin_service_pb2, asset_pb2, call_pb2, key_service_pb2
from ownkey_server.domain.roles import ACCESS, Access, Facts
from ownkey_server.rpc import convert
from ownkey_server.rpc.contract import ADMIN_SERVICE_NAME, SERVICE_NAME
from ownkey_server.service.admission import Priority

AboutRequest = Callable[[Any], Facts]


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    Attributes:
        service: Full name of its service.
        request: The stub's class of its requests.
        facts: What a request is about, for authorization.
        access: Who may call it.
        priority: How urgent it is, unless the request says that nobody waits.
        watches: Whether one request has a stream of answers, which lasts for as long as its caller listens.
        streams: Whether requests and answers are streams; the first request says what the stream is about.
    """

    service: str
    name: str
    request: type[Message]
    facts: AboutRequest
    access: Access
    priority: Priority
    streams: bool
    watches: bool = False

    def urgency(self, request: Any) -> Priority:
        """How urgent a request, or the stream that it starts, is."""
        asked = getattr(request.start if self.streams else request, "priority", key_service_pb2.PRIORITY_UNSPECIFIED)
        return Priority.BACKGROUND if asked == key_service_pb2.PRIORITY_BACKGROUND else self.priority


class UnknownMethod(Exception):
    """The contract has a method of which nothing says who may call it: it cannot be served."""


def _asset(asset: asset_pb2.Asset) -> Facts:
    return Facts((asset.tenant,), (convert.ASSET_CLASSES[asset.asset_class],))


def _of_asset(request: Any) -> Facts:
    return _asset(request.asset)


def _of_start(request: Any) -> Facts:
    return _asset(request.start.asset)


def _of_call(request: call_pb2.AuthorizeCallRequest) -> Facts:
    return Facts((request.tenant,), tuple(convert.ASSET_CLASSES[one] for one in request.stores))


def _of_tenant(request: Any) -> Facts:
    return Facts((request.tenant,))


def _of_tenant_if_any(request: Any) -> Facts:
    return Facts((request.tenant,) if request.tenant else ())


def _of_tenants(request: admin_service_pb2.ExportTenantsRequest) -> Facts:
    return Facts(tuple(request.tenants))


def _of_the_service(_request: Any) -> Facts:
    return Facts()


def _of_new_tenant(request: admin_service_pb2.CreateTenantRequest) -> Facts:
    return Facts((request.id,))


# The data plane's methods, and those of the control plane whose requests name their tenant otherwise than as `tenant`.
_ABOUT: Mapping[str, tuple[AboutRequest, Priority]] = {
    "GenerateDataKey": (_of_asset, Priority.LIVE),
    "Unwrap": (_of_asset, Priority.PLAYBACK),
    "Rewrap": (_of_asset, Priority.BACKGROUND),
    "KeyStatus": (_of_tenant, Priority.LIVE),
    "WatchKeyStatus": (_of_tenant, Priority.LIVE),
    "ListKeyStateChanges": (_of_tenant, Priority.READ),
    "CheckPolicy": (_of_asset, Priority.LIVE),
    "AuthorizeCall": (_of_call, Priority.GATE),
    "WatchCallGate": (_of_tenant, Priority.LIVE),
    "WatchCalls": (_of_tenant, Priority.LIVE),
    "EncryptMedia": (_of_start, Priority.LIVE),
    "DecryptMedia": (_of_start, Priority.PLAYBACK),
    "CreateTenant": (_of_new_tenant, Priority.CHANGE),
    "ListTenants": (_of_the_service, Priority.READ),
    "ExportTenants": (_of_tenants, Priority.READ),
    "ListAuditRecords": (_of_tenant_if_any, Priority.READ),
    "ListApprovals": (_of_tenant_if_any, Priority.READ),
    "CreateNotificationChannel": (_of_tenant_if_any, Priority.CHANGE),
    "GetNotificationChannel": (_of_tenant_if_any, Priority.READ),
    "ListNotificationChannels": (_of_tenant_if_any, Priority.READ),
    "UpdateNotificationChannel": (_of_tenant_if_any, Priority.CHANGE),
    "DeleteNotificationChannel": (_of_tenant_if_any, Priority.CHANGE),
    "TestNotificationChannel": (_of_tenant_if_any, Priority.CHANGE),
    "ListNotifications": (_of_tenant_if_any, Priority.READ),
    "ReplayNotification": (_of_tenant_if_any, Priority.CHANGE),
}
# How the names of methods begin whose answers go on for as long as somebody listens.
_WATCHES = "Watch"
# The control plane's methods that change nothing, by how their names begin.
_READS = ("Get", "List", "Export", "Simulate", "Preview")


def all_methods() -> Mapping[str, Method]:
    """Every method of the contract, by its name.

    Raises:
        UnknownMethod: The contract has one that the table of roles does not name.
    """
    found: dict[str, Method] = {}
    for file, service_name in (
        (key_service_pb2.DESCRIPTOR, SERVICE_NAME),
        (admin_service_pb2.DESCRIPTOR, ADMIN_SERVICE_NAME),
    ):
        service = file.services_by_name[service_name.rpartition(".")[2]]
        for method in service.methods:
            if method.name not in ACCESS:
                raise UnknownMethod(f"{service_name}.{method.name}: nothing says who may call it")
            named = "tenant" in method.input_type.fields_by_name
            default = (
                _of_tenant if named else _of_the_service,
                Priority.READ if method.name.startswith(_READS) else Priority.CHANGE,
            )
            facts, priority = _ABOUT.get(method.name, default)
            found[method.name] = Method(
                service_name,
                method.name,
                message_factory.GetMessageClass(method.input_type),
                facts,
                ACCESS[method.name],
                priority,
                method.client_streaming and not method.name.startswith(_WATCHES),
                method.name.startswith(_WATCHES),
            )
    return found
