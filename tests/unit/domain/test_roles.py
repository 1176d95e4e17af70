from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ownkey_server.domain.assets import AssetClass
from ownkey_server.domain.roles import ACCESS, EVERYWHERE, Facts, Grant, Role, Scope, decide
from ownkey_server.rpc import methods
from ownkey_server.storage.grants import GrantTable, grants_json, grants_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "authorization.md"
ABOUT = {
    Scope.TENANT: "its tenant",
    Scope.TENANTS: "its tenants",
    Scope.VISIBLE: "what one sees",
    Scope.SERVICE: "the service",
}

classes = st.frozensets(st.sampled_from(list(AssetClass)), max_size=3)
names = st.sampled_from(["acme", "globex", EVERYWHERE])
grants = st.builds(Grant, st.sampled_from(list(Role)), names, classes)
facts = st.builds(
    Facts,
    st.lists(st.sampled_from(["acme", "globex", "nobody"]), max_size=2).map(tuple),
    st.lists(st.sampled_from(list(AssetClass)), max_size=2).map(tuple),
)


@given(st.lists(grants, max_size=4), st.sampled_from(sorted(ACCESS)), facts)
def test_nothing_is_allowed_that_no_grant_allows(held: list[Grant], method: str, about: Facts) -> None:
    permit = decide(held, method, about)
    if permit is None:
        return
    able = [one for one in held if one.role in ACCESS[method].roles]
    assert able
    if permit.tenants is None:
        assert any(one.tenant == EVERYWHERE for one in able)
    else:
        assert ACCESS[method].scope is not Scope.SERVICE
        assert permit.tenants <= {one.tenant for one in able}
        assert all(permit.sees(tenant) for tenant in about.tenants) or ACCESS[method].scope is Scope.VISIBLE
        assert not permit.sees("")


@given(st.lists(grants, max_size=3), grants, st.sampled_from(sorted(ACCESS)), facts)
def test_one_more_grant_never_takes_anything_away(held: list[Grant], more: Grant, method: str, about: Facts) -> None:
    if decide(held, method, about) is not None:
        assert decide([*held, more], method, about) is not None


def test_nobody_may_do_anything_by_default() -> None:
    for method in ACCESS:
        assert decide((), method, Facts(("acme",))) is None
        assert decide((), method, Facts()) is None


def test_naming_no_tenant_is_asking_for_all_of_them() -> None:
    mine = [Grant(Role.AUDITOR, "acme")]
    assert decide(mine, "ListAuditRecords", Facts()) is None
    # Without a tenant it is the provider whose channels are meant.
    assert decide(mine, "ListNotificationChannels", Facts()) is None
    assert decide(mine, "CreateNotificationChannel", Facts()) is None
    assert decide(mine, "ExportTenants", Facts(("acme", "globex"))) is None
    assert decide([*mine, Grant(Role.AUDITOR, "globex")], "ExportTenants", Facts(("acme", "globex"))) is not None


def test_no_role_for_administration_opens_or_makes_anything() -> None:
    for method in ("GenerateDataKey", "EncryptMedia", "Unwrap", "DecryptMedia"):
        assert not ACCESS[method].roles & {Role.OPERATOR, Role.TENANT_ADMIN, Role.AUDITOR, Role.CALL_GATE}


def test_an_auditor_changes_nothing_and_a_recorder_opens_nothing() -> None:
    changing = re.compile(
        r"Create|Update|Delete|Enrol|Add|Remove|Activate|Retire|Apply|Approve|Withdraw|Generate|Encrypt"
    )
    for method, access in ACCESS.items():
        if changing.match(method):
            assert Role.AUDITOR not in access.roles, method
        if method in ("Unwrap", "DecryptMedia"):
            assert Role.RECORDER not in access.roles
        if method in ("GenerateDataKey", "EncryptMedia"):
            assert Role.PLAYER not in access.roles


def test_a_method_without_a_row_cannot_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {name: access for name, access in ACCESS.items() if name != "RemoveKey"}
    monkeypatch.setattr(methods, "ACCESS", fewer)
    with pytest.raises(methods.UnknownMethod, match=r"AdminService\.RemoveKey: nothing says who may call it"):
        methods.all_methods()


def test_the_table_has_no_method_that_the_contract_lacks() -> None:
    assert set(methods.all_methods()) == set(ACCESS)


def test_the_page_has_the_table() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    expected = []
    for method, access in ACCESS.items():
        marks = " | ".join("x" if role in access.roles else "" for role in Role)
        expected.append(f"| `{method}` | {ABOUT[access.scope]} | {marks} |")
    assert [row for row in rows if row.split("`")[1] in ACCESS] == expected


@given(st.lists(grants, max_size=4))
def test_grants_come_out_of_the_database_as_they_went_in(held: list[Grant]) -> None:
    sensible = [one for one in held if not one.asset_classes or one.role in (Role.RECORDER, Role.DATA)]
    assert grants_of(grants_json(sensible)) == tuple(sensible)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"role": "operator", "tenant": "acme", "asset_classes": ["team_chat"]}, "not about assets"),
        ({"role": "player", "tenant": "acme", "methods": ["GenerateDataKey"]}, "has no method 'GenerateDataKey'"),
        ({"role": "player", "tenant": "Acme"}, "tenant"),
        ({"role": "player", "tenant": ""}, "tenant"),
        ({"role": "root", "tenant": "acme"}, "role"),
        ({"role": "player", "tenant": "acme", "until": "tomorrow"}, "until"),
    ],
)
def test_a_grant_that_says_what_does_not_count_is_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        GrantTable.model_validate(fields)


def test_what_somebody_wrote_into_the_database_grants_nothing() -> None:
    with pytest.raises(ValueError, match="role"):
        grants_of('[{"role": "god", "tenant": "*"}]')
