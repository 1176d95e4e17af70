from __future__ import annotations

from importlib import resources

import pytest

from ownkey_server.domain.errors import EnrolmentFailed, EtagMismatch, InvalidRequest, ResourceExists, ResourceInUse
from ownkey_server.domain.tenants import KeyLifecycle
from ownkey_server.service.administration.edits import StepKind
from ownkey_server.storage.gate_documents import CallGateTable
from support.office import Office

TEMPLATE = (
    resources.files("ownkey_server")
    .joinpath("templates", "tenants.toml")
    .read_text(encoding="utf-8")
    .replace('"embedded"', '"one"')
)


@pytest.fixture
async def applied(office: Office) -> Office:
    for reference in ("acme-main", "acme-finance"):
        await office.make(reference)
    await office.configuration.apply(office.act, TEMPLATE, dry_run=False)
    return office


def said(plan) -> list[tuple[str, str, str]]:  # type: ignore[no-untyped-def]
    return [(step.kind.value, step.resource, step.field) for step in plan.steps]


async def test_a_dry_run_says_everything_and_changes_nothing(office: Office) -> None:
    for reference in ("acme-main", "acme-finance"):
        await office.make(reference)
    plan = await office.configuration.apply(office.act, TEMPLATE, dry_run=True)
    assert not plan.applied
    assert said(plan) == [
        ("add", "tenants/acme", ""),
        ("add", "tenants/acme/keys/main", ""),
        ("add", "tenants/acme/keys/finance", ""),
        ("add", "tenants/acme/groups/finance", ""),
        ("add", "tenants/acme/policy", ""),
    ]
    assert await office.tenants.list("", 10) == []
    assert office.trail.records == []


async def test_what_was_applied_differs_in_nothing_and_exports_as_what_it_is(applied: Office) -> None:
    assert said(await applied.configuration.apply(applied.act, TEMPLATE, dry_run=False)) == []
    exported = await applied.configuration.export()
    assert said(await applied.configuration.apply(applied.act, exported, dry_run=True)) == []
    version = await applied.policies.get("acme", 0)
    assert (version.number, version.author, version.reason) == (1, "ann", "a test")


async def test_each_difference_is_a_step_and_is_made(applied: Office) -> None:
    text = (
        TEMPLATE.replace('"frida@acme.example", "felix@acme.example"', '"frida@acme.example"')
        .replace('mode = "refuse"', 'mode = "allow_no_recording"')
        .replace('default = "key:main"', 'default = "deny"')
    )
    plan = await applied.configuration.apply(applied.act, text, dry_run=False)
    assert said(plan) == [
        ("change", "tenants/acme", "call_gate"),
        ("change", "tenants/acme/groups/finance", "users"),
        ("change", "tenants/acme/policy", ""),
    ]
    assert said(await applied.configuration.apply(applied.act, text, dry_run=True)) == []
    assert (await applied.policies.get("acme", 0)).number == 2
    assert [record.tenant for record in applied.trail.records] == ["acme", "acme"]


async def test_a_key_is_never_taken_away_because_a_line_is_missing(applied: Office) -> None:
    head, _, rest = TEMPLATE.partition('[[tenants.keys]]\nid = "finance"')
    text = (head + rest.partition("\n\n")[2]).replace('use = "key:finance"', 'use = "key:main"')
    plan = await applied.configuration.apply(applied.act, text, dry_run=False)
    kept = [step for step in plan.steps if step.kind is StepKind.KEEP]
    assert [step.resource for step in kept] == ["tenants/acme/keys/finance"]
    assert "ownkey admin key retire" in kept[0].note
    assert (await applied.keys.get("acme", "finance")).lifecycle is KeyLifecycle.ACTIVE


async def test_a_key_is_retired_and_taken_up_again_by_word_alone(applied: Office) -> None:
    retired = TEMPLATE.replace('reference = "acme-finance"', 'reference = "acme-finance"\nretired = true')
    with pytest.raises(InvalidRequest, match="key 'finance' is retired in this file"):
        await applied.configuration.apply(applied.act, retired, dry_run=False)
    retired = retired.replace('use = "key:finance"', 'use = "key:main"')
    plan = await applied.configuration.apply(applied.act, retired, dry_run=False)
    assert ("change", "tenants/acme/keys/finance", "lifecycle") in said(plan)
    assert (await applied.keys.get("acme", "finance")).lifecycle is KeyLifecycle.RETIRED
    await applied.configuration.apply(applied.act, TEMPLATE, dry_run=False)
    assert (await applied.keys.get("acme", "finance")).lifecycle is KeyLifecycle.ACTIVE


async def test_a_key_that_does_not_work_stops_the_whole_document(applied: Office) -> None:
    more = TEMPLATE + '\n[[tenants]]\nid = "umbrella"\nenrolled_at = 2026-01-01T00:00:00Z\n'
    more += '[[tenants.keys]]\nid = "main"\nkey_store = "two"\nreference = "nothing"\n'
    for dry_run in (True, False):
        with pytest.raises(EnrolmentFailed, match="key 'nothing' of key store 'two' cannot be used"):
            await applied.configuration.apply(applied.act, more, dry_run=dry_run)
    assert [tenant.id for tenant in await applied.tenants.list("", 10)] == ["acme"]


async def test_a_replica_is_added_by_a_line_when_it_is_the_same_key(applied: Office) -> None:
    line = 'reference = "acme-main"\nreplicas = [{ key_store = "two", reference = "acme-main" }]'
    text = TEMPLATE.replace('reference = "acme-main"', line)
    with pytest.raises(EnrolmentFailed):
        await applied.configuration.apply(applied.act, text, dry_run=False)
    applied.copy("acme-main", "one", "two")
    plan = await applied.configuration.apply(applied.act, text, dry_run=False)
    assert said(plan) == [("change", "tenants/acme/keys/main", "replicas")]
    assert (
        said(await applied.configuration.apply(applied.act, await applied.configuration.export(), dry_run=True)) == []
    )


async def test_a_removed_key_s_id_is_not_taken_again(applied: Office) -> None:
    text = TEMPLATE.replace('use = "key:finance"', 'use = "key:main"')
    await applied.configuration.apply(applied.act, text, dry_run=False)
    await applied.keys.retire(applied.act, "acme", "finance", "*")
    await applied.keys.remove(applied.act, "acme", "finance", "*")
    with pytest.raises(ResourceInUse, match="it was removed, and its id stays taken"):
        await applied.configuration.apply(applied.act, TEMPLATE, dry_run=False)


async def test_a_document_with_mistakes_is_refused_whole(applied: Office) -> None:
    with pytest.raises(InvalidRequest, match="document: tenant 'acme': policy: the default"):
        await applied.configuration.apply(applied.act, TEMPLATE.replace("key:main", "key:none"), dry_run=False)


async def test_a_plan_can_be_applied_as_it_was_shown_or_not_at_all(applied: Office) -> None:
    text = TEMPLATE.replace('mode = "refuse"', 'mode = "off"')
    shown = await applied.configuration.apply(applied.act, text, dry_run=True)
    await applied.tenants.update(applied.act, "acme", "*", "Renamed", None)
    with pytest.raises(EtagMismatch):
        await applied.configuration.apply(applied.act, text, dry_run=False, etag=shown.etag)
    again = await applied.configuration.apply(applied.act, text, dry_run=True)
    assert (await applied.configuration.apply(applied.act, text, dry_run=False, etag=again.etag)).applied


async def test_a_refused_document_is_recorded(applied: Office) -> None:
    more = TEMPLATE + '\n[[tenants]]\nid = "umbrella"\nenrolled_at = 2026-01-01T00:00:00Z\n'
    more += '[[tenants.keys]]\nid = "main"\nkey_store = "two"\nreference = "nothing"\n'
    with pytest.raises(EnrolmentFailed):
        await applied.configuration.apply(applied.act, more, dry_run=False)
    [refusal] = applied.refusals.records
    assert (refusal.action, refusal.reason) == ("admin.apply_tenants", "ENROLMENT_FAILED")


async def test_a_document_of_too_many_tenants_is_refused(applied: Office) -> None:
    many = "".join(f'[[tenants]]\nid = "t{n}"\nenrolled_at = 2026-01-01T00:00:00Z\n' for n in range(1001))
    with pytest.raises(InvalidRequest, match="names 1002 tenants, and may name 1000"):
        await applied.configuration.apply(applied.act, TEMPLATE + many, dry_run=False)


async def test_the_id_of_a_deleted_tenant_is_not_used_again(applied: Office) -> None:
    await applied.tenants.create(applied.act, "umbrella", "", None, CallGateTable())
    await applied.tenants.delete(applied.act, "umbrella", "*")
    with pytest.raises(ResourceExists, match="ids are not used again"):
        await applied.tenants.create(applied.act, "umbrella", "", None, CallGateTable())
    more = TEMPLATE + '\n[[tenants]]\nid = "umbrella"\nenrolled_at = 2026-01-01T00:00:00Z\n'
    with pytest.raises(ResourceExists):
        await applied.configuration.apply(applied.act, more, dry_run=False)


async def test_a_retired_key_is_taken_up_again_only_when_all_of_its_places_work(applied: Office) -> None:
    line = 'reference = "acme-finance"\nreplicas = [{ key_store = "two", reference = "acme-finance" }]'
    text = TEMPLATE.replace('reference = "acme-finance"', line).replace('use = "key:finance"', 'use = "key:main"')
    applied.copy("acme-finance", "one", "two")
    await applied.configuration.apply(applied.act, text, dry_run=False)
    await applied.keys.retire(applied.act, "acme", "finance", "*")
    await applied.stores["two"].disable("acme-finance")
    with pytest.raises(EnrolmentFailed, match="key store 'two' cannot be used: it is revoked"):
        await applied.configuration.apply(applied.act, text, dry_run=False)
    assert (await applied.keys.get("acme", "finance")).lifecycle is KeyLifecycle.RETIRED
