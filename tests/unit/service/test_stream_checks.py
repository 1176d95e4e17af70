"""Streams re-authorize: one question for a key and interval, an end in bounded time, and no outage is a revocation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from ownkey_server.domain.assets import Asset, AssetClass, AssetOrigin
from ownkey_server.domain.errors import KeyRevoked, KeyUnreachable, OwnkeyError
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.policy import Effect, Outcome, Policy
from ownkey_server.domain.tenants import CustomerKey, KeyLifecycle, Replica, Tenant
from ownkey_server.service.media import StreamLease
from ownkey_server.service.open_streams import OpenStream, OpenStreams
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.service.stream_checks import StreamCheckOptions, StreamChecks
from support.services import KnownTenants, directory_of

START = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
KEY = CustomerKey("tenants/acme/keys/main", (Replica("hsm", "acme-main"),), KeyLifecycle.ACTIVE)
OTHER = CustomerKey("tenants/acme/keys/other", (Replica("hsm", "acme-other"),), KeyLifecycle.ACTIVE)
PROVIDER = CustomerKey("provider/keys/main", (Replica("hsm", "provider"),), KeyLifecycle.ACTIVE)
GRACE = 20


class Scene:
    """Streams over a key store that shows what a test wants, on clocks that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.shows = KeyState.AVAILABLE
        self.asked: list[tuple[float, str]] = []
        self.ends: dict[int, OwnkeyError] = {}
        self.board = StatusBoard(timedelta(seconds=60))

    def clock(self) -> datetime:
        return START + timedelta(seconds=self.now)

    async def probe(self, key: CustomerKey) -> None:
        self.asked.append((self.now, key.id))
        self.see(key, self.shows)

    def see(self, key: CustomerKey, state: KeyState) -> None:
        self.board.saw(
            key.name,
            "hsm",
            state,
            "" if state is KeyState.AVAILABLE else str(state),
            self.clock(),
            began=self.board.moment,
        )

    def lease(self, checks: StreamChecks, key: CustomerKey, seconds: float = 60.0) -> StreamLease:
        async def ask() -> object:
            if self.shows is KeyState.UNREACHABLE:
                raise KeyUnreachable("hsm", key.primary.reference, "it does not answer")
            raise AssertionError("asked although the key is there")

        return StreamLease(
            self.clock() + timedelta(seconds=seconds),
            ask,  # type: ignore[arg-type]
            self.clock,
            lambda: self.now,
            goes_on=lambda: checks.goes_on(key),
            check=lambda: checks.check(key),
            check_bytes=checks.check_bytes,
        )


@contextlib.asynccontextmanager
async def running(
    scene: Scene, streams: dict[CustomerKey, int]
) -> AsyncIterator[tuple[StreamChecks, list[StreamLease]]]:
    policy = Policy((), Outcome(Effect.ALLOW, "main"), outage_grace=GRACE)
    tenant = Tenant("acme", START, {"main": KEY, "other": OTHER}, policy)
    with ThreadPoolExecutor(1) as executor:
        directory = await directory_of(KnownTenants({"acme": tenant}, PROVIDER), executor)
        await directory.tenant("acme")
        under_way = OpenStreams(directory, scene.clock)
        scene.board.on_revocation(under_way.key_taken)
        options = StreamCheckOptions(seconds=10, mib=1, lease=60)
        checks = StreamChecks(under_way, directory, scene.board, scene.probe, scene.clock, options, lambda: scene.now)
        leases = []
        async with contextlib.AsyncExitStack() as stack:
            for key, count in streams.items():
                for _ in range(count):
                    asset = Asset("acme", AssetClass.PHONE_RECORDING, f"call-{len(leases)}", AssetOrigin.CREATED)
                    lease = scene.lease(checks, key)
                    number = len(leases)
                    leases.append(lease)

                    def end(error: OwnkeyError, number: int = number) -> None:
                        scene.ends.setdefault(number, error)

                    await stack.enter_async_context(
                        under_way.under_way(OpenStream(asset, key, {}, writes=True, end=end, lease=lease))
                    )
            yield checks, leases


async def pass_time(scene: Scene, checks: StreamChecks, until: float) -> None:
    """Second by second, with a look in each, and all that it begins."""
    while scene.now < until:
        scene.now += 1
        checks.look()
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_key_is_asked_after_once_an_interval_however_many_streams_there_are() -> None:
    scene = Scene()
    scene.see(KEY, KeyState.AVAILABLE)
    scene.see(OTHER, KeyState.AVAILABLE)
    async with running(scene, {KEY: 50, OTHER: 3}) as (checks, _):
        await pass_time(scene, checks, 50)
        assert [name for _, name in scene.asked].count("main") == 5
        assert [name for _, name in scene.asked].count("other") == 5
    assert not scene.ends


async def test_what_traffic_shows_is_not_asked_for() -> None:
    scene = Scene()
    async with running(scene, {KEY: 2}) as (checks, _):
        for second in range(50):
            scene.see(KEY, KeyState.AVAILABLE)
            await pass_time(scene, checks, second + 1)
    assert not scene.asked


async def test_a_revocation_ends_every_stream_of_the_key_within_the_interval_and_no_other() -> None:
    scene = Scene()
    scene.see(KEY, KeyState.AVAILABLE)
    scene.see(OTHER, KeyState.AVAILABLE)
    async with running(scene, {KEY: 5, OTHER: 1}) as (checks, _):
        await pass_time(scene, checks, 12)
        last = max(at for at, name in scene.asked if name == "main")
        probe = scene.probe

        async def revoked(key: CustomerKey) -> None:
            scene.shows = KeyState.REVOKED if key is KEY else KeyState.AVAILABLE
            await probe(key)

        checks._probe = revoked
        await pass_time(scene, checks, last + 10)
    assert set(scene.ends) == set(range(5))
    assert {type(one) for one in scene.ends.values()} == {KeyRevoked}


async def test_in_an_outage_streams_end_a_lease_and_the_grace_after_the_last_evidence_and_not_before() -> None:
    scene = Scene()
    async with running(scene, {KEY: 2}) as (checks, _):
        scene.see(KEY, KeyState.AVAILABLE)
        await pass_time(scene, checks, 40)
        last = max(at for at, _ in scene.asked)
        scene.shows = KeyState.UNREACHABLE
        await pass_time(scene, checks, last + 60 + GRACE - 1)
        assert not scene.ends
        await pass_time(scene, checks, last + 60 + GRACE + 2)
    assert {type(one) for one in scene.ends.values()} == {KeyUnreachable}
    assert set(scene.ends) == {0, 1}


async def test_an_outage_after_a_denial_bridges_nothing() -> None:
    scene = Scene()
    async with running(scene, {KEY: 1}) as (checks, _):
        scene.see(KEY, KeyState.AVAILABLE)
        scene.board.suspect(KEY.name, "hsm", scene.clock())
        scene.shows = KeyState.UNREACHABLE
        scene.see(KEY, KeyState.UNREACHABLE)
        await pass_time(scene, checks, 61)
    assert type(scene.ends[0]) is KeyUnreachable


async def test_much_content_has_the_key_asked_after_at_most_once_a_second() -> None:
    scene = Scene()
    async with running(scene, {KEY: 2}) as (_, leases):
        scene.see(KEY, KeyState.AVAILABLE)
        for _ in range(40):
            for lease in leases:
                await lease.require(400_000)
        assert len(scene.asked) == 1
        scene.now += 1
        scene.shows = KeyState.REVOKED
        with pytest.raises(KeyRevoked):
            await leases[0].require(2_000_000)
    assert len(scene.asked) == 2
