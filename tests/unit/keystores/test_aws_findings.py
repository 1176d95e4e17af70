"""A key policy, read by its statements."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey_server.keystores.aws.findings import Outcome, read_policy
from ownkey_server.keystores.aws.identity import principal_of
from ownkey_server.keystores.aws.policies import Access, account_root, key_policy, role_arn

ACCOUNT = "111122223333"
ROLE = role_arn(ACCOUNT, "service/ownkey")
WORDS = st.sampled_from(
    [
        "Statement",
        "Effect",
        "Allow",
        "Deny",
        "Principal",
        "AWS",
        "*",
        "Action",
        "kms:*",
        "Condition",
        "StringEquals",
        ROLE,
    ]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=20,
)


def outcomes(policy: object, tenant: str = "acme") -> dict[str, Outcome]:
    found = read_policy("eu-west-1", policy, account=ACCOUNT, principal=ROLE, tenant=tenant)
    return {one.check: one.outcome for one in found}


def printed() -> dict[str, Any]:
    return key_policy(Access("acme", account_root(ACCOUNT), (ROLE,)))


def test_the_printed_policy_is_all_that_is_asked_for() -> None:
    assert set(outcomes(printed()).values()) == {Outcome.PASS}
    assert set(outcomes(printed(), tenant="").values()) == {Outcome.PASS}


def test_a_policy_for_another_tenant_is_none_for_this() -> None:
    assert outcomes(printed(), tenant="umbrella")["policy: tenant's context"] is Outcome.WARN


@given(ANYTHING)
def test_whatever_a_policy_holds_is_read(policy: object) -> None:
    assert len(outcomes(policy)) == 4


def test_what_is_no_policy_passes_nothing_that_it_does_not_say() -> None:
    for policy in ([], None, {"Statement": []}, {"Statement": [{"Effect": "Allow", "Action": "kms:*"}]}):
        found = outcomes(policy)
        assert found.pop("policy: no wildcard") is Outcome.PASS
        assert set(found.values()) == {Outcome.WARN}


@pytest.mark.parametrize(
    ("caller", "principal"),
    [
        ("arn:aws:sts::111122223333:assumed-role/ownkey/session", "arn:aws:iam::111122223333:role/ownkey"),
        ("arn:aws-cn:iam::111122223333:user/ci/ownkey", "arn:aws-cn:iam::111122223333:user/ci/ownkey"),
        ("arn:aws:iam::111122223333:root", None),
        ("nobody", None),
    ],
)
def test_who_a_policy_would_name(caller: str, principal: str | None) -> None:
    assert principal_of(caller) == principal
