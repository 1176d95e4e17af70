"""The roles that are kept for a tenant: not without bound, and none that was never assumed."""

from __future__ import annotations

import pytest

from ownkey_server.domain.errors import KeyMisconfigured
from ownkey_server.keystores.aws.roles import MOST_ROLES, AssumedRole, TenantRoles
from support.aws_subjects import use
from support.fake_kms import FakeKms
from support.key_stores import CONTEXT, TIMEOUT


def role() -> AssumedRole:
    return AssumedRole(dict, lambda work: None)


def test_of_too_many_roles_those_longest_unused_are_forgotten() -> None:
    roles = TenantRoles()
    first = roles.get(("0", "eu-west-1"), role)
    for number in range(1, MOST_ROLES):
        roles.get((str(number), "eu-west-1"), role)
    assert roles.get(("0", "eu-west-1"), role) is first
    second = roles.get(("1", "eu-west-1"), role)
    roles.get(("0", "eu-west-1"), role)
    for number in range(MOST_ROLES, 2 * MOST_ROLES - 1):
        roles.get((str(number), "eu-west-1"), role)
    assert len(roles) == MOST_ROLES
    assert roles.get(("0", "eu-west-1"), role) is first
    assert roles.get(("1", "eu-west-1"), role) is not second


def test_a_role_that_is_being_asked_for_stays() -> None:
    roles, seen = TenantRoles(most=1), []

    def ask() -> dict[str, object]:
        for number in range(3):
            roles.get((str(number), "eu-west-1"), role)
        seen.append(roles.get(("busy", "eu-west-1"), role))
        return {"AccessKeyId": "a", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": 1e12}

    busy = roles.get(("busy", "eu-west-1"), lambda: AssumedRole(ask, lambda work: None))
    busy.credentials(TIMEOUT, lambda error: False)
    assert seen == [busy]


async def test_accounts_that_do_not_let_us_in_leave_nothing(kms: FakeKms, open_aws) -> None:
    good = kms.create_key()
    kms.create_role("arn:aws:iam::111122223333:role/ownkey", {"Statement": [{"Effect": "Allow", "Action": "sts:*"}]})
    store = open_aws(role_name="ownkey")
    await use(store.for_tenant("acme"), good)
    for number in range(MOST_ROLES + 8):
        with pytest.raises(KeyMisconfigured):
            await store.for_tenant("acme").generate_data_key(
                good.replace("111122223333", f"{number:012}"), CONTEXT, TIMEOUT
            )
    assert len(store._parts.shares.get("acme").roles) == 1
    await use(store.for_tenant("acme"), good)
    assert sum(call.key.endswith(":111122223333:role/ownkey") for call in kms.calls) == 1  # its session was kept
