"""Watching keys through a running server, by both clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ownkey import AdminClient, AsyncClient, Client, errors
from ownkey.models import KeyWatchEvent
from ownkey.v1.revocation_pb2 import RevocationScope
from support import server
from support.server import ServerProcess

MAIN = "tenants/acme/keys/main"


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that looks after its keys often."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OWNKEY_KEYS__RECOVERY_SECONDS", "0.2")
        environment.setenv("OWNKEY_KEYS__WATCH_HEARTBEAT_SECONDS", "0.3")
        with server.process(tmp_path_factory.mktemp("quick")) as running:
            yield running


def taken_away(running: ServerProcess) -> Path:
    """The file by which the key's holder takes it away."""
    return running.directory / "keys" / "acme-main.disabled"


def first(events: Iterator[KeyWatchEvent], wanted: Callable[[KeyWatchEvent], bool]) -> list[KeyWatchEvent]:
    """The events until the first that is wanted, with it. A test that never sees it is stopped by its time limit."""
    seen = []
    for event in events:
        seen.append(event)
        if wanted(event):
            return seen
    raise AssertionError(f"the watch ended: {seen}")


def changed_to(state: str) -> Callable[[KeyWatchEvent], bool]:
    return lambda event: event.change is not None and not event.change.replica and event.change.state == state


def status_of(state: str) -> Callable[[KeyWatchEvent], bool]:
    return lambda event: event.kind == "status" and event.keys[0].state == state


def test_a_watch_tells_the_present_then_every_change_then_that_it_is_alive(quick: ServerProcess) -> None:
    with Client(quick.address) as client, client.watch_key_status("acme") as events:
        snapshot = next(events)
        assert (snapshot.kind, snapshot.keys[-1].key) == ("snapshot", MAIN)
        assert not snapshot.changes_missed
        first(events, lambda event: event.kind == "heartbeat")
        taken_away(quick).touch()
        try:
            seen = first(events, changed_to("revoked"))
            assert seen[-1].change is not None
            assert seen[-1].change.before == "available"
            assert seen[-1].change.evidence == "probe"
            status = seen if any(map(status_of("revoked"), seen)) else first(events, status_of("revoked"))
            assert any(one.kind == "status" for one in status)
        finally:
            taken_away(quick).unlink()
        first(events, changed_to("available"))
        token = events.resume_token
    with Client(quick.address) as client:
        assert first(client.watch_key_status("acme", resume_token=token), lambda _: True)[-1].kind == "snapshot"


async def test_what_happened_meanwhile_comes_first_and_once(quick: ServerProcess) -> None:
    with Client(quick.address) as client:
        with client.watch_key_status("acme", "main") as events:
            token = next(events).resume_token
        with client.watch_key_status("acme", "main") as events:
            next(events)
            taken_away(quick).touch()
            first(events, changed_to("revoked"))
            taken_away(quick).unlink()
            first(events, changed_to("available"))
    async with AsyncClient(quick.address) as client, client.watch_key_status("acme", resume_token=token) as again:
        told = []
        async for event in again:
            if event.kind == "snapshot":
                assert not event.changes_missed
                break
            told.append(event)
    whole = [one.change.state for one in told if one.change and not one.change.replica]
    assert whole == ["revoked", "available"]
    async with AsyncClient(quick.address) as client:
        page = await client.key_state_changes("acme", "main", page_size=2)
        assert [one.state for one in page.changes][:1] == ["available"]
        older = await client.key_state_changes("acme", "main", page_size=2, page_token=page.next_page_token)
        assert older.changes[0].sequence < page.changes[-1].sequence


def test_what_the_tenant_takes_back_here_is_told_too(quick: ServerProcess) -> None:
    with (
        Client(quick.address) as client,
        AdminClient(quick.address) as admin,
        client.watch_key_status("acme") as events,
    ):
        next(events)
        made = admin.revoke("acme", RevocationScope(keys=["main"]), reason="a test")
        first(events, changed_to("revoked"))
        admin.restore("acme", made.id, reason="a test")
        first(events, changed_to("available"))


def test_a_token_that_is_none_and_a_tenant_that_is_none_are_told_at_once(quick: ServerProcess) -> None:
    with Client(quick.address) as client:
        with pytest.raises(errors.InvalidRequest):
            next(client.watch_key_status("acme", resume_token="yesterday"))
        with pytest.raises(errors.NotFound):
            next(client.watch_key_status("nobody"))
        with pytest.raises(errors.NotFound):
            next(client.watch_key_status("acme", "nothing"))
        missed = next(client.watch_key_status("acme", resume_token="s99999999"))
        assert (missed.kind, missed.changes_missed) == ("snapshot", True)
