"""Every method, who may call it, and a request for it that keeps every rule of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message_factory import GetMessageClass

from ownkey.v1 import admin_service_pb2 as admin
from ownkey.v1 import (
    asset_pb2,
    call_pb2,
    customer_key_pb2,
    key_service_pb2,
    notification_pb2,
    policy_pb2,
    revocation_pb2,
    role_pb2,
)

ROLES = [name.removeprefix("ROLE_").lower() for name, number in role_pb2.Role.items() if number]
MAKE, OPEN = "recorder data", "player data"
ALL = "recorder player data call_gate tenant_admin operator auditor"
CHANGE, READ = "tenant_admin operator", "tenant_admin operator auditor"
RUN, OVERSEE = "operator", "operator auditor"

# Who may call a method, written down apart from the server's own table. "service": only with a grant for everything.
EXPECTED: Mapping[str, tuple[str, str]] = {
    "GenerateDataKey": (MAKE, "tenant"),
    "EncryptMedia": (MAKE, "tenant"),
    "Unwrap": (OPEN, "tenant"),
    "DecryptMedia": (OPEN, "tenant"),
    "Rewrap": ("data", "tenant"),
    "KeyStatus": (ALL, "tenant"),
    "WatchKeyStatus": (ALL, "tenant"),
    "ListKeyStateChanges": (ALL, "tenant"),
    "CheckPolicy": (ALL, "tenant"),
    "AuthorizeCall": ("call_gate", "tenant"),
    "WatchCallGate": ("call_gate", "tenant"),
    "WatchCalls": ("call_gate", "tenant"),
    "CreateTenant": (RUN, "service"),
    "GetTenant": (READ, "tenant"),
    "ListTenants": (READ, "visible"),
    "UpdateTenant": (CHANGE, "tenant"),
    "DeleteTenant": (RUN, "service"),
    "EnrolKey": (CHANGE, "tenant"),
    "GetKey": (READ, "tenant"),
    "ListKeys": (READ, "tenant"),
    "AddKeyReplica": (CHANGE, "tenant"),
    "RemoveKeyReplica": (CHANGE, "tenant"),
    "ActivateKey": (CHANGE, "tenant"),
    "RetireKey": (CHANGE, "tenant"),
    "RemoveKey": (CHANGE, "tenant"),
    "RotateBranchKey": (CHANGE, "tenant"),
    "ListBranchKeys": (READ, "tenant"),
    "RewrapBranchKeys": (CHANGE, "tenant"),
    "Revoke": (CHANGE, "tenant"),
    "PreviewRevocation": (READ, "tenant"),
    "Restore": (CHANGE, "tenant"),
    "GetRevocation": (READ, "tenant"),
    "ListRevocations": (READ, "tenant"),
    "GetRevocationReceipt": (READ, "tenant"),
    "CreateGroup": (CHANGE, "tenant"),
    "GetGroup": (READ, "tenant"),
    "ListGroups": (READ, "tenant"),
    "UpdateGroup": (CHANGE, "tenant"),
    "DeleteGroup": (CHANGE, "tenant"),
    "CreatePolicyVersion": (CHANGE, "tenant"),
    "GetPolicyVersion": (READ, "tenant"),
    "ListPolicyVersions": (READ, "tenant"),
    "ActivatePolicyVersion": (CHANGE, "tenant"),
    "SimulatePolicy": (READ, "tenant"),
    "CreateServicePrincipal": (RUN, "service"),
    "GetServicePrincipal": (OVERSEE, "service"),
    "ListServicePrincipals": (OVERSEE, "service"),
    "UpdateServicePrincipal": (RUN, "service"),
    "DeleteServicePrincipal": (RUN, "service"),
    "ApplyTenants": (RUN, "service"),
    "CreateNotificationChannel": (CHANGE, "tenant"),
    "GetNotificationChannel": (READ, "tenant"),
    "ListNotificationChannels": (READ, "tenant"),
    "UpdateNotificationChannel": (CHANGE, "tenant"),
    "DeleteNotificationChannel": (CHANGE, "tenant"),
    "TestNotificationChannel": (CHANGE, "tenant"),
    "ListNotifications": (READ, "tenant"),
    "ReplayNotification": (CHANGE, "tenant"),
    "ExportTenants": (READ, "tenant"),
    "ListAuditRecords": (READ, "tenant"),
    "ListApprovals": (READ, "visible"),
    "GetApproval": (READ, "visible"),
    "ApproveChange": (CHANGE, "visible"),
    "WithdrawApproval": (CHANGE, "visible"),
    "GetAuditRetention": (OVERSEE, "service"),
    "UpdateAuditRetention": (RUN, "service"),
}
METHODS = [
    *key_service_pb2.DESCRIPTOR.services_by_name["KeyService"].methods,
    *admin.DESCRIPTOR.services_by_name["AdminService"].methods,
]


def request_class(method: str) -> Any:
    """The stub's class of a method's requests."""
    return GetMessageClass(next(one for one in METHODS if one.name == method).input_type)


def request(method: str, tenant: str) -> object:
    """A request that keeps every rule of the contract, about a tenant, and changes nothing where it is allowed."""
    asset = asset_pb2.Asset(
        tenant=tenant,
        asset_class=asset_pb2.ASSET_CLASS_PHONE_RECORDING,
        asset_id="call-1",
        origin=asset_pb2.ASSET_ORIGIN_CREATED,
    )
    place = customer_key_pb2.KeyPlace(key_store="embedded", reference="no-such-key")
    known = {
        "tenant": tenant,
        "id": tenant if method == "CreateTenant" else "spiffe://example.org/admin-of-" + tenant,
        "tenants": [tenant],
        "key": "" if method in ("KeyStatus", "WatchKeyStatus", "ListKeyStateChanges") else "no-such-key",
        "group": "" if method == "AuthorizeCall" else "no-such-group",
        "from_key": "no-such-key",
        "to_key": "no-such-key",
        "number": 99,
        "etag": "0",
        "primary": place,
        "replica": place,
        "key_store": "no-such-store",
        "policy": policy_pb2.Policy(default_use="key:no-such-key"),
        "service_principal": "spiffe://example.org/nobody",
        "document": "no document",
        "approval": "0123",
        "revocation": "0" * 32,
        "channel": "0" * 32,
        "notification": "0" * 32,
        "webhook": notification_pb2.WebhookChannel(url="https://127.0.0.1/"),
        "scope": revocation_pb2.RevocationScope(users=["nobody"]),
        "call_gate": call_pb2.CallGate(),
        "assets": [asset],
        "asset": asset,
        "wrapped_key": b"no wrapped key",
        "encryption_context": {"a": "b"},
        "call_id": "call-1",
        "callee": "+15551234567",
    }
    if method in ("EncryptMedia", "DecryptMedia"):
        start = getattr(key_service_pb2, f"{method}Start")(asset=asset)
        return getattr(key_service_pb2, f"{method}Request")(start=start)
    kind = request_class(method)
    names = [name for name in known if name in kind.DESCRIPTOR.fields_by_name]
    return kind(**{name: known[name] for name in names})
