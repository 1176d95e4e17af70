"""A key is activated as another than it was, or not at all: no attempt changes what is known of the one that worked."""

from __future__ import annotations

import os

import pytest

from ownkey_server.domain.errors import EnrolmentFailed, EtagMismatch, KeyMisconfigured, KeyRevoked, KeyUnreachable
from ownkey_server.domain.tenants import CustomerKey, KeyLifecycle, Replica
from ownkey_server.storage.gate_documents import CallGateTable
from support.office import Office


@pytest.fixture
async def acme(office: Office) -> Office:
    await office.tenants.create(office.act, "acme", "Acme", None, CallGateTable())
    await office.keys.enrol(office.act, "acme", "main", await office.make("acme-main"))
    return office


async def of(acme: Office) -> CustomerKey:
    return (await acme.directory.tenant("acme")).keys["main"]


async def test_an_activation_that_comes_to_nothing_lets_no_other_key_be_used(acme: Office) -> None:
    key = await of(acme)
    content = await acme.ring.generate(key, {}, None)
    file = acme.folder / "one" / "acme-main.key"
    was = file.read_bytes()
    file.write_bytes(os.urandom(len(was)))
    with pytest.raises(KeyMisconfigured):
        await acme.ring.generate(key, {}, None)
    with pytest.raises(EtagMismatch):
        await acme.keys.activate(acme.act, "acme", "main", "not-its-etag")
    for _ in range(2):
        with pytest.raises(KeyMisconfigured, match="another key"):
            await acme.ring.generate(key, {}, None)
    file.write_bytes(was)
    assert (await acme.ring.unwrap(key, content.value.wrapped, {}, None)).value.plaintext
    # Whoever means the other one, says so.
    file.write_bytes(os.urandom(len(was)))
    await acme.keys.activate(acme.act, "acme", "main", "*")
    assert await acme.ring.generate(key, {}, None)


async def test_an_activation_during_an_outage_makes_no_mistake_of_it(acme: Office) -> None:
    key = await of(acme)
    assert await acme.ring.generate(key, {}, None)
    file = acme.folder / "one" / "acme-main.key"
    was = file.read_bytes()
    file.unlink()  # its volume is gone
    for _ in range(2):
        with pytest.raises(KeyUnreachable):
            await acme.ring.generate(key, {}, None)
        with pytest.raises(KeyUnreachable):
            await acme.keys.activate(acme.act, "acme", "main", "*")
    file.write_bytes(was)
    file.chmod(0o600)
    await acme.keys.activate(acme.act, "acme", "main", "*")
    await acme.stores["one"].disable("acme-main")
    with pytest.raises(KeyRevoked):
        await acme.ring.generate(key, {}, None)


async def test_a_place_that_another_key_is_enrolled_at_meanwhile_is_looked_at_again(acme: Office) -> None:
    """Somebody may begin anew at a place that was nobody's a moment ago."""
    key = await of(acme)
    assert await acme.ring.generate(key, {}, None)
    file = acme.folder / "one" / "acme-main.key"
    file.write_bytes(os.urandom(file.stat().st_size))
    acme.ring.forget(Replica("one", "acme-main"))
    with pytest.raises(KeyMisconfigured, match="another key by the same name"):
        await acme.ring.generate(key, {}, None)


DOCUMENT = """
[provider_key]
key_store = "one"
reference = "provider"

[[tenants]]
id = "umbrella"
display_name = "Umbrella"
enrolled_at = 2026-11-01T00:00:00Z
policy = { default = "provider_key" }

[[tenants.keys]]
id = "main"
key_store = "one"
reference = "umbrella-main"
"""


def exchange(office: Office, reference: str) -> bytes:
    """Put another key into a file while no server runs: the next one has seen neither."""
    file = office.folder / "one" / f"{reference}.key"
    was = file.read_bytes()
    file.write_bytes(os.urandom(len(was)))
    office.ring.forget(Replica("one", reference))
    return was


async def test_a_key_that_came_by_a_document_is_known_again_as_one_that_was_enrolled(office: Office) -> None:
    await office.make("umbrella-main")
    assert (await office.configuration.apply(office.act, DOCUMENT, dry_run=False)).applied
    exchange(office, "umbrella-main")
    with pytest.raises(KeyMisconfigured, match="another key by the same name"):
        await office.ring.generate((await office.directory.tenant("umbrella")).keys["main"], {}, None)


async def test_no_document_makes_a_key_active_as_another(office: Office) -> None:
    """It says nothing of which key is meant: `activate` is there for whoever means another."""
    await office.make("umbrella-main")
    await office.configuration.apply(office.act, DOCUMENT, dry_run=False)
    await office.keys.retire(office.act, "umbrella", "main", "*")
    was = exchange(office, "umbrella-main")
    for dry_run in (True, False):
        with pytest.raises(EnrolmentFailed, match="another key by the same name"):
            await office.configuration.apply(office.act, DOCUMENT, dry_run=dry_run)
    assert (await office.keys.get("umbrella", "main")).lifecycle is KeyLifecycle.RETIRED
    (office.folder / "one" / "umbrella-main.key").write_bytes(was)
    await office.configuration.apply(office.act, DOCUMENT, dry_run=False)
    assert await office.ring.generate((await office.directory.tenant("umbrella")).keys["main"], {}, None)
