"""A tenant cannot have so many revocations that others feel them, and can take its keys back all the same."""

from __future__ import annotations

import pytest

from ownkey_server.domain.errors import ResourceInUse
from ownkey_server.domain.revocations import PROVIDER_KEY_ID, Ending, Revocation, Scope
from ownkey_server.service.administration import revocations as administered
from ownkey_server.service.administration.revocations import Revocations
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.records import ANY_ETAG
from support.office import Office


@pytest.fixture
async def revocations(office: Office) -> Revocations:
    for tenant in ("acme", "umbrella"):
        await office.tenants.create(office.act, tenant, "", None, CallGateTable())
    return Revocations(office.desk)


async def taken(revocations: Revocations, scope: Scope, tenant: str = "acme") -> Revocation:
    return await revocations.revoke(Office.act, tenant, scope, Ending.CUT, everything=scope.is_everything)


async def test_there_are_so_many_and_whole_keys_can_be_taken_back_all_the_same(
    revocations: Revocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(administered, "MOST", 2)
    ann = Scope(users=frozenset({"ann"}))
    first = await taken(revocations, ann)
    await taken(revocations, ann)
    with pytest.raises(ResourceInUse, match="2 are in force"):
        await taken(revocations, ann)
    await taken(revocations, ann, "umbrella")
    await taken(revocations, Scope(keys=frozenset({PROVIDER_KEY_ID})))
    await taken(revocations, Scope())
    with pytest.raises(ResourceInUse):
        await taken(revocations, Scope())
    for one in await revocations.list("acme", None, 10, restored=False):
        if one.id != first.id:
            await revocations.restore(Office.act, "acme", one.id)
    await taken(revocations, ann)


async def test_what_they_name_is_bounded(revocations: Revocations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administered, "MOST_CHARACTERS", 100)
    await taken(revocations, Scope(users=frozenset({"a" * 50})))
    with pytest.raises(ResourceInUse, match="1 are in force"):
        await taken(revocations, Scope(users=frozenset({"b" * 50})))
    await taken(revocations, Scope())


async def test_nobody_is_given_back_what_was_taken_from_a_group_by_leaving_it(
    revocations: Revocations, office: Office
) -> None:
    await office.groups.create(Office.act, "acme", "legal", ["ann", "bob"])
    one = await taken(revocations, Scope(groups=frozenset({"legal"})))
    await office.groups.update(Office.act, "acme", "legal", ANY_ETAG, ["ann", "bob", "carl"])
    with pytest.raises(ResourceInUse, match=one.id):
        await office.groups.update(Office.act, "acme", "legal", ANY_ETAG, ["ann", "carl"])
    with pytest.raises(ResourceInUse, match=one.id):
        await office.groups.delete(Office.act, "acme", "legal", ANY_ETAG)
    document = await office.configuration.export()
    start = document.index("[[tenants.groups]]")
    without = document[:start] + document[document.index("\n\n", start) :]
    assert "legal" in document
    assert "legal" not in without
    with pytest.raises(ResourceInUse, match=one.id):
        await office.configuration.apply(Office.act, without, dry_run=False)
    await revocations.restore(Office.act, "acme", one.id)
    await office.groups.delete(Office.act, "acme", "legal", ANY_ETAG)
