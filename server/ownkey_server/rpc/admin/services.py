"""The use cases of the control plane, and what a room of AdminService is."""

from __future__ import annotations

from dataclasses import dataclass

from ownkey_server.service.administration.approvals import Approvals
from ownkey_server.service.administration.audit_trail import AuditTrail
from ownkey_server.service.administration.branch_keys import BranchKeyOffice
from ownkey_server.service.administration.configuration import Configuration
from ownkey_server.service.administration.groups import Groups
from ownkey_server.service.administration.keys import Keys
from ownkey_server.service.administration.notifications import Notifications
from ownkey_server.service.administration.policies import Policies
from ownkey_server.service.administration.principals import Principals
from ownkey_server.service.administration.receipts import Receipts
from ownkey_server.service.administration.retention import AuditRetention
from ownkey_server.service.administration.revocation_previews import RevocationPreviews
from ownkey_server.service.administration.revocations import Revocations
from ownkey_server.service.administration.simulation import Simulation
from ownkey_server.service.administration.tenants import Tenants


@dataclass(frozen=True, slots=True)
class AdminServices:
    """The use cases of the control plane."""

    tenants: Tenants
    keys: Keys
    branch_keys: BranchKeyOffice
    groups: Groups
    policies: Policies
    principals: Principals
    configuration: Configuration
    simulation: Simulation
    audit_trail: AuditTrail
    approvals: Approvals
    retention: AuditRetention
    revocations: Revocations
    receipts: Receipts
    revocation_previews: RevocationPreviews
    notifications: Notifications


class Room:
    """Some methods of AdminService. Each takes a request that was let in (``dispatch.py``), and gives its answer."""

    def __init__(self, services: AdminServices) -> None:
        self._services = services
