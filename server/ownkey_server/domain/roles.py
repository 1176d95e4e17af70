"""Who may call what: the roles, the table of all methods, and the one decision by them.

Nothing is allowed that no grant allows. The decision looks at what a request says, never at what there is, so that
whoever may not see a tenant cannot tell whether it exists.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ownkey_server.domain.assets import AssetClass

EVERYWHERE = "*"
"""The tenant of a grant that holds for all tenants, and for the service itself."""
PRINCIPALS = "servicePrincipals/"
"""Where principals are among the resources. No tenant has an id with a slash."""


class Role(StrEnum):
    """A set of methods."""

    RECORDER = "recorder"
    PLAYER = "player"
    DATA = "data"
    CALL_GATE = "call_gate"
    TENANT_ADMIN = "tenant_admin"
    OPERATOR = "operator"
    AUDITOR = "auditor"


class Scope(StrEnum):
    """What a method's request is about.

    ``TENANT``: the tenant that it names. ``TENANTS``: those that it names, or all. ``VISIBLE``: whatever the caller may
    see. ``SERVICE``: the service itself.
    """

    TENANT = "tenant"
    TENANTS = "tenants"
    VISIBLE = "visible"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call a method."""

    scope: Scope
    roles: frozenset[Role]


@dataclass(frozen=True, slots=True)
class Grant:
    """A role, and for what it is held.

    Attributes:
        tenant: Id of the tenant, or :data:`EVERYWHERE`.
        asset_classes: Only for these; empty means all.
        methods: Only these of the role's methods; empty means all of them.
    """

    role: Role
    tenant: str
    asset_classes: frozenset[AssetClass] = frozenset()
    methods: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a request is about, as it says itself.

    Attributes:
        tenants: The tenants that it names.
        asset_classes: The asset classes that it names.
    """

    tenants: tuple[str, ...] = ()
    asset_classes: tuple[AssetClass, ...] = ()

    @property
    def tenant(self) -> str:
        """The first tenant; empty when there is none."""
        return self.tenants[0] if self.tenants else ""


_STATUS = frozenset(Role)
_MAKES = frozenset({Role.RECORDER, Role.DATA})
_OPENS = frozenset({Role.PLAYER, Role.DATA})
_CHANGES = frozenset({Role.TENANT_ADMIN, Role.OPERATOR})
_READS = frozenset({Role.TENANT_ADMIN, Role.OPERATOR, Role.AUDITOR})
_RUNS = frozenset({Role.OPERATOR})
_OVERSEES = frozenset({Role.OPERATOR, Role.AUDITOR})

ACCESS: Mapping[str, Access] = {
    "GenerateDataKey": Access(Scope.TENANT, _MAKES),
    "Unwrap": Access(Scope.TENANT, _OPENS),
    "Rewrap": Access(Scope.TENANT, _MAKES & _OPENS),
    "KeyStatus": Access(Scope.TENANT, _STATUS),
    "WatchKeyStatus": Access(Scope.TENANT, _STATUS),
    "ListKeyStateChanges": Access(Scope.TENANT, _STATUS),
    "CheckPolicy": Access(Scope.TENANT, _STATUS),
    "AuthorizeCall": Access(Scope.TENANT, frozenset({Role.CALL_GATE})),
    "WatchCallGate": Access(Scope.TENANT, frozenset({Role.CALL_GATE})),
    "WatchCalls": Access(Scope.TENANT, frozenset({Role.CALL_GATE})),
    "EncryptMedia": Access(Scope.TENANT, _MAKES),
    "DecryptMedia": Access(Scope.TENANT, _OPENS),
    "CreateTenant": Access(Scope.SERVICE, _RUNS),
    "GetTenant": Access(Scope.TENANT, _READS),
    "ListTenants": Access(Scope.VISIBLE, _READS),
    "UpdateTenant": Access(Scope.TENANT, _CHANGES),
    "DeleteTenant": Access(Scope.SERVICE, _RUNS),
    "EnrolKey": Access(Scope.TENANT, _CHANGES),
    "GetKey": Access(Scope.TENANT, _READS),
    "ListKeys": Access(Scope.TENANT, _READS),
    "AddKeyReplica": Access(Scope.TENANT, _CHANGES),
    "RemoveKeyReplica": Access(Scope.TENANT, _CHANGES),
    "ActivateKey": Access(Scope.TENANT, _CHANGES),
    "RetireKey": Access(Scope.TENANT, _CHANGES),
    "RemoveKey": Access(Scope.TENANT, _CHANGES),
    "RotateBranchKey": Access(Scope.TENANT, _CHANGES),
    "ListBranchKeys": Access(Scope.TENANT, _READS),
    "RewrapBranchKeys": Access(Scope.TENANT, _CHANGES),
    "Revoke": Access(Scope.TENANT, _CHANGES),
    "PreviewRevocation": Access(Scope.TENANT, _READS),
    "Restore": Access(Scope.TENANT, _CHANGES),
    "GetRevocation": Access(Scope.TENANT, _READS),
    "ListRevocations": Access(Scope.TENANT, _READS),
    "GetRevocationReceipt": Access(Scope.TENANT, _READS),
    "CreateNotificationChannel": Access(Scope.TENANTS, _CHANGES),
    "GetNotificationChannel": Access(Scope.TENANTS, _READS),
    "ListNotificationChannels": Access(Scope.TENANTS, _READS),
    "UpdateNotificationChannel": Access(Scope.TENANTS, _CHANGES),
    "DeleteNotificationChannel": Access(Scope.TENANTS, _CHANGES),
    "TestNotificationChannel": Access(Scope.TENANTS, _CHANGES),
    "ListNotifications": Access(Scope.TENANTS, _READS),
    "ReplayNotification": Access(Scope.TENANTS, _CHANGES),
    "CreateGroup": Access(Scope.TENANT, _CHANGES),
    "GetGroup": Access(Scope.TENANT, _READS),
    "ListGroups": Access(Scope.TENANT, _READS),
    "UpdateGroup": Access(Scope.TENANT, _CHANGES),
    "DeleteGroup": Access(Scope.TENANT, _CHANGES),
    "CreatePolicyVersion": Access(Scope.TENANT, _CHANGES),
    "GetPolicyVersion": Access(Scope.TENANT, _READS),
    "ListPolicyVersions": Access(Scope.TENANT, _READS),
    "ActivatePolicyVersion": Access(Scope.TENANT, _CHANGES),
    "SimulatePolicy": Access(Scope.TENANT, _READS),
    "CreateServicePrincipal": Access(Scope.SERVICE, _RUNS),
    "GetServicePrincipal": Access(Scope.SERVICE, _OVERSEES),
    "ListServicePrincipals": Access(Scope.SERVICE, _OVERSEES),
    "UpdateServicePrincipal": Access(Scope.SERVICE, _RUNS),
    "DeleteServicePrincipal": Access(Scope.SERVICE, _RUNS),
    "ApplyTenants": Access(Scope.SERVICE, _RUNS),
    "ExportTenants": Access(Scope.TENANTS, _READS),
    "ListAuditRecords": Access(Scope.TENANTS, _READS),
    "ListApprovals": Access(Scope.VISIBLE, _READS),
    "GetApproval": Access(Scope.VISIBLE, _READS),
    "ApproveChange": Access(Scope.VISIBLE, _CHANGES),
    "WithdrawApproval": Access(Scope.VISIBLE, _CHANGES),
    "GetAuditRetention": Access(Scope.SERVICE, _OVERSEES),
    "UpdateAuditRetention": Access(Scope.SERVICE, _RUNS),
}
"""Every method that is served: one that is not here cannot be. docs/authorization.md shows it."""


@dataclass(frozen=True, slots=True)
class Permit:
    """What a caller was allowed.

    Attributes:
        tenants: The tenants that it may see; None means all, and the service itself.
    """

    tenants: frozenset[str] | None

    def sees(self, tenant: str) -> bool:
        """Whether the caller may know of the tenant; an empty one is the service itself."""
        return self.tenants is None or tenant in self.tenants


def principal_name(principal: str) -> str:
    """A service principal's name as a resource."""
    return PRINCIPALS + principal


def decide(grants: Collection[Grant], method: str, facts: Facts) -> Permit | None:
    """Whether a principal with these grants may call a method about these facts; None means no.

    Args:
        grants: All that the principal holds.
        method: A name in :data:`ACCESS`.
        facts: What the request is about.
    """
    access = ACCESS[method]
    held = [one for one in grants if one.role in access.roles and (not one.methods or method in one.methods)]
    held = [one for one in held if not one.asset_classes or one.asset_classes.issuperset(facts.asset_classes)]
    tenants = frozenset(one.tenant for one in held)
    if EVERYWHERE in tenants:
        return Permit(None)
    match access.scope:
        case Scope.TENANT | Scope.TENANTS:
            allowed = bool(facts.tenants) and tenants.issuperset(facts.tenants)
        case Scope.VISIBLE:
            allowed = bool(tenants)
        case Scope.SERVICE:
            allowed = False
    return Permit(tenants) if allowed else None
