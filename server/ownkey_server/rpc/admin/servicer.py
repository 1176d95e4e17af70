"""AdminService as a whole."""

from __future__ import annotations

from ownkey_server.rpc.admin.keys import KeyRoom
from ownkey_server.rpc.admin.notifications import NotificationRoom
from ownkey_server.rpc.admin.policies import PolicyRoom
from ownkey_server.rpc.admin.principals import PrincipalRoom
from ownkey_server.rpc.admin.revocations import RevocationRoom
from ownkey_server.rpc.admin.tenants import TenantRoom
from ownkey_server.rpc.admin.trail import TrailRoom


class AdminServicer(TenantRoom, KeyRoom, RevocationRoom, NotificationRoom, PolicyRoom, PrincipalRoom, TrailRoom):
    """AdminService's methods: one call, and its answer."""
