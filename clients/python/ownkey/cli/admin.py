"""``ownkey admin``: tenants, customer keys, groups, policies and service principals."""

from __future__ import annotations

import click

from ownkey.cli.admin_branch_keys import branch_key
from ownkey.cli.admin_keys import key
from ownkey.cli.admin_policies import policy
from ownkey.cli.admin_principals import approval, principal
from ownkey.cli.admin_retention import retention
from ownkey.cli.admin_revocations import revocation
from ownkey.cli.admin_tenants import group, tenant
from ownkey.cli.main import Group


@click.group(cls=Group, no_args_is_help=True)
def admin() -> None:
    """Administer tenants, their keys, groups and policies, and service principals.

    Every change is in the audit trail. What is there is changed by its etag: if somebody else changed it meanwhile,
    nothing is done, and the exit code is 10.
    """


for _command in (tenant, key, branch_key, group, policy, revocation, principal, approval, retention):
    admin.add_command(_command)
