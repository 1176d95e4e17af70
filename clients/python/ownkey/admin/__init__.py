"""The control plane's client: tenants, keys, groups, policies, and the audit trail.

It takes plain values, and answers with the contract's own messages (protos/ownkey/v1): their fields are documented
there.

Example::

    with AdminClient(author="ann") as admin:
        tenant = admin.create_tenant("acme", display_name="Acme")
        admin.enrol_key("acme", "main", "hsm", "acme-main", reason="enrolment")
        policy = policy_pb2.Policy(default_use="key:main")
        admin.create_policy_version("acme", policy, activate_with=tenant.etag)
"""

from __future__ import annotations

from ownkey.admin._calls import ANY_ETAG, AdminCalls
from ownkey.admin.keys import KeyCalls
from ownkey.admin.notifications import NotificationCalls
from ownkey.admin.policies import PolicyCalls
from ownkey.admin.principals import PrincipalCalls
from ownkey.admin.revocations import RevocationCalls
from ownkey.admin.tenants import TenantCalls
from ownkey.admin.trail import TrailCalls

__all__ = ["ANY_ETAG", "AdminClient"]


class AdminClient(
    TenantCalls, KeyCalls, RevocationCalls, NotificationCalls, PolicyCalls, PrincipalCalls, TrailCalls, AdminCalls
):
    """A client of the control plane of one ownkey service. Thread-safe; every method raises :mod:`ownkey.errors`.

    Methods that change something take ``reason``: why, for whoever reads the audit trail. Those that change what is
    there take the ``etag`` that was read with it, and raise :class:`ownkey.errors.Conflict` when somebody changed it
    since. No change is ever sent twice.

    Args:
        address: ``HOST:PORT`` or ``unix:PATH``; without credentials on this machine only.
        timeout: Seconds that a call may take. Enrolling a key waits for its key store.
        credentials: For a service elsewhere.
        author: Who stands behind the changes; kept in the audit trail.
        approval: Id of the approval by which changes are made, where a second person had to agree.

    Raises:
        InvalidRequest: The address is on another machine, and there are no credentials; or the timeout is not positive.
    """
