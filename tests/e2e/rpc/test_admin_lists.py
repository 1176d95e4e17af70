"""Lists through gRPC: whole, in order, and never larger than a message may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ownkey import AdminClient
from ownkey.v1 import policy_pb2
from ownkey_server.rpc import pages
from support import server
from support.admin import Admin, connected

MIB = 1024 * 1024
USERS = [f"user-{number}@a-rather-long-name.example" for number in range(10_000)]


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    async with server.in_process(tmp_path) as listening:
        yield listening


@pytest.fixture
async def admin(address: str) -> AsyncIterator[Admin]:
    async with connected(address) as calls:
        yield calls


async def test_tenants_are_listed_by_id_page_after_page(admin: Admin) -> None:
    for number in range(9):
        await admin("CreateTenant", id=f"t{number}")
    whole = [tenant.id for tenant in (await admin("ListTenants", page_size=1000)).tenants]
    assert whole == sorted(whole)
    found, token = [], ""
    while True:
        page = await admin("ListTenants", page_size=2, page_token=token)
        found += [tenant.id for tenant in page.tenants]
        token = page.next_page_token
        if not token:
            break
    assert found == whole


async def test_large_things_are_listed_whole_in_messages_that_any_client_takes(address: str, admin: Admin) -> None:
    names = [f"large-{number:02}" for number in range(24)]
    for name in names:
        await admin("CreateGroup", tenant="acme", group=name, users=USERS)
        rule = policy_pb2.PolicyRule(name="r", use="deny", users=USERS[:1000])
        await admin("CreatePolicyVersion", tenant="acme", policy=policy_pb2.Policy(rules=[rule]))
    for method, field in (
        ("ListGroups", "groups"),
        ("ListPolicyVersions", "policy_versions"),
        ("ListAuditRecords", "records"),
    ):
        token, count, calls = "", 0, 0
        while calls == 0 or token:
            page = await admin(method, tenant="acme", page_size=1000, page_token=token)
            assert page.ByteSize() < 4 * MIB, method
            assert len(getattr(page, field)) > 0
            token, count, calls = page.next_page_token, count + len(getattr(page, field)), calls + 1
        assert calls > 1, method
        assert count >= len(names)

    def by_the_sdk() -> list[str]:
        with AdminClient(address) as client:
            return [group.id for group in client.list_groups("acme")]

    assert [name for name in await asyncio.to_thread(by_the_sdk) if name.startswith("large")] == names


async def test_a_document_that_no_message_holds_is_told_before_it_is_sent(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "DOCUMENT_BYTES", 500)
    failure = await admin.fail("ExportTenants")
    assert "name fewer tenants" in failure.fields["tenants"]
