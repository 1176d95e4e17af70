"""Watching calls through a running server, by both clients: what is told, and what is told after an outage."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ownkey import AdminClient, AsyncClient, Client, errors
from ownkey.call_watch import AsyncCallWatch, CallWatch
from ownkey.models import CallWatchEvent, WatchedCall
from ownkey.v1.revocation_pb2 import RevocationScope
from support import server

PATIENCE = 30


def a_call(call_id: str, **facts: object) -> WatchedCall:
    return WatchedCall(**({"call_id": call_id, "callee": "+15550100", "stores": ("phone_recording",)} | facts))  # type: ignore[arg-type]


class Ended(Exception):
    """The iteration ended."""


async def next_of(watch: CallWatch | AsyncCallWatch) -> CallWatchEvent:
    async with asyncio.timeout(PATIENCE):
        if isinstance(watch, AsyncCallWatch):
            event = await anext(watch, None)
        else:
            event = await asyncio.to_thread(next, watch, None)
    if event is None:
        raise Ended
    return event


async def until(watch: CallWatch | AsyncCallWatch, wanted: Callable[[CallWatchEvent], bool]) -> list[CallWatchEvent]:
    """The events until the first that is wanted, with it."""
    seen = [await next_of(watch)]
    while not wanted(seen[-1]):
        seen.append(await next_of(watch))
    return seen


def told(events: list[CallWatchEvent]) -> list[tuple[str, str]]:
    return [(event.change.call_id, event.change.action) for event in events if event.change]


def a_change(event: CallWatchEvent) -> bool:
    return event.change is not None


def watching(calls: int) -> Callable[[CallWatchEvent], bool]:
    return lambda event: event.kind in ("connected", "heartbeat") and event.calls == calls


Opened = Callable[[str, Callable[[CallWatch | AsyncCallWatch], Awaitable[None]]], Awaitable[None]]


async def with_client(address: str, check: Callable[[CallWatch | AsyncCallWatch], Awaitable[None]]) -> None:
    with Client(address) as client, client.watch_calls("acme") as watch:
        await check(watch)


async def with_async_client(address: str, check: Callable[[CallWatch | AsyncCallWatch], Awaitable[None]]) -> None:
    async with AsyncClient(address) as client, client.watch_calls("acme") as watch:
        await check(watch)


both = pytest.mark.parametrize("opened", [with_client, with_async_client])


@both
async def test_a_gateway_hears_of_calls_that_lost_their_key_and_of_those_that_have_it_back(
    tmp_path: Path, opened: Opened
) -> None:
    async with server.in_process(tmp_path) as address:

        async def check(watch: CallWatch | AsyncCallWatch) -> None:
            watch.add(a_call("1"), a_call("none", stores=()), a_call("sos", callee="sip:911@pbx.example"))
            assert (await next_of(watch)).kind == "connected"
            await until(watch, watching(3))
            with AdminClient(address) as admin:
                taken = await asyncio.to_thread(admin.revoke, "acme", RevocationScope(keys=["main"]), reason="a test")
                (event,) = [one for one in await until(watch, a_change) if one.change]
                assert event.change is not None
                assert (event.change.call_id, event.change.action) == ("1", "end")
                assert (event.change.reason, event.change.rule) == ("key_revoked", "default")
                assert event.change.key == "tenants/acme/keys/main"
                watch.add(a_call("late"))
                assert told(await until(watch, a_change)) == [("late", "end")], "told of a call that comes too late"
                watch.ended("1")
                await until(watch, watching(3))
                await asyncio.to_thread(admin.restore, "acme", taken.id, reason="a test")
            assert told(await until(watch, a_change)) == [("late", "continue")], "an ended call is told nothing of"
            assert len(watch) == 3

        await opened(address, check)


@both
async def test_a_call_that_cannot_be_is_refused_at_once_and_the_others_are_watched(
    tmp_path: Path, opened: Opened
) -> None:
    async with server.in_process(tmp_path) as address:

        async def check(watch: CallWatch | AsyncCallWatch) -> None:
            for wrong in (
                a_call("", callee="1"),
                a_call("a b"),
                a_call("1", callee=""),
                a_call("1", direction="sideways"),
                a_call("1", stores=("nothing",)),
                a_call("1", user="x" * 257),
                a_call("1", site="\ud800"),
            ):
                with pytest.raises(errors.InvalidRequest):
                    watch.add(a_call("fine"), wrong)
            assert len(watch) == 0
            watch.add(a_call("1"), a_call("2", group="no-such-group"))
            with pytest.raises(errors.InvalidRequest, match=r"call '2'.*no-such-group"):
                await until(watch, watching(2))
            await until(watch, watching(2))

        await opened(address, check)


async def test_a_tenant_that_nobody_has_ends_the_iteration(tmp_path: Path) -> None:
    async with server.in_process(tmp_path) as address:
        with Client(address) as client, client.watch_calls("nobody") as watch, pytest.raises(errors.NotFound):
            await until(watch, lambda _: False)
        async with AsyncClient(address) as other, other.watch_calls("nobody") as same:
            with pytest.raises(errors.NotFound):
                await until(same, lambda _: False)


@both
async def test_whoever_closes_a_watch_ends_its_iteration(tmp_path: Path, opened: Opened) -> None:
    async with server.in_process(tmp_path) as address:

        async def check(watch: CallWatch | AsyncCallWatch) -> None:
            await until(watch, watching(0))
            waiting = asyncio.create_task(until(watch, lambda _: False))
            await asyncio.sleep(0)
            watch.close()
            with pytest.raises(Ended):
                await waiting

        await opened(address, check)


async def test_what_happens_while_the_server_is_dead_is_told_after_it_and_once(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{server.free_port()}"
    taken_away = tmp_path / "keys" / "acme-main.disabled"
    crowd = [a_call(f"call-{number}") for number in range(450)]
    kept = [*(call.call_id for call in crowd), "new"]

    async def all_told(watch: CallWatch | AsyncCallWatch, action: str) -> None:
        changes: list[tuple[str, str]] = []
        while len(changes) < len(kept):
            changes += told([await next_of(watch)])
        assert sorted(changes) == sorted((call_id, action) for call_id in kept)

    async with AsyncClient(listen) as client, client.watch_calls("acme") as one:
        with Client(listen) as other, other.watch_calls("acme") as another:
            watches: tuple[CallWatch | AsyncCallWatch, ...] = (one, another)
            with server.process(tmp_path, listen=listen) as running:
                for watch in watches:
                    watch.add(*crowd, a_call("gone"), a_call("none", stores=()))
                    assert told(await until(watch, watching(len(crowd) + 2))) == []
                os.kill(running.pid, signal.SIGKILL)
                for watch in watches:
                    lost = (await until(watch, lambda event: event.kind == "disconnected"))[-1]
                    assert lost.cause
                    assert lost.calls == len(crowd) + 2
            # Nobody is there to hear of any of this.
            taken_away.touch()
            for watch in watches:
                watch.ended("gone")
                watch.add(a_call("new"))
            with server.process(tmp_path, listen=listen) as running:
                for watch in watches:
                    await all_told(watch, "end")
                os.kill(running.pid, signal.SIGKILL)
            with server.process(tmp_path, listen=listen):
                for watch in watches:
                    again = await until(watch, watching(len(crowd) + 2))
                    again += await until(watch, lambda event: event.kind == "heartbeat")
                    assert {event.kind for event in again} == {"disconnected", "connected", "heartbeat"}
                taken_away.unlink()
                for watch in watches:
                    await all_told(watch, "continue")
