"""Local mode: the lease is honoured, and what is written is what the service writes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ownkey import Asset, Client, errors, local
from ownkey.files import write_file
from ownkey.models import ASSET_CLASSES
from support import server
from support.server import ServerProcess

ASSET = Asset("acme", "phone_recording", "call-1")
MIB = 1024 * 1024
CONTENT = bytes(range(256)) * 4096 * 3


class Clock:
    """The time, which a test can put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server.process(tmp_path / "server") as running:
        yield running


@pytest.fixture
def client(own_server: ServerProcess) -> Iterator[Client]:
    with Client(own_server.address, timeout=20) as opened:
        yield opened


def in_pieces(data: bytes, after_first: Callable[[], None]) -> Iterator[bytes]:
    for start in range(0, len(data), MIB):
        yield data[start : start + MIB]
        if start == 0:
            after_first()


Work = Callable[[Client, Iterator[bytes], Clock], Iterator[bytes]]
WORKS: dict[str, Work] = {
    "encrypt": lambda client, source, clock: local.LocalEncryption(client, source, ASSET, now=clock),
    "decrypt": lambda client, source, clock: local.LocalDecryption(client, source, ASSET, now=clock),
}


@pytest.mark.parametrize("work", WORKS)
def test_a_key_taken_away_stops_what_is_under_way_when_its_lease_ends(
    own_server: ServerProcess, client: Client, tmp_path: Path, work: str
) -> None:
    given = CONTENT if work == "encrypt" else b"".join(client.encrypt_stream([CONTENT], ASSET))
    clock = Clock()

    def revoke() -> None:
        own_server.disable()
        clock.ahead = timedelta(days=1)

    released: list[int] = []

    def noted(pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            released.append(len(piece))
            yield piece

    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(errors.KeyRevoked):
        write_file(noted(WORKS[work](client, in_pieces(given, revoke), clock)), folder / "never")
    assert list(folder.iterdir()) == []
    # What came before the lease ended, and a header; nothing of what came after.
    assert 0 < sum(released) < MIB + 65_536


@pytest.mark.parametrize("work", WORKS)
def test_a_lease_that_is_given_anew_lets_work_go_on(client: Client, work: str) -> None:
    sealed = b"".join(client.encrypt_stream([CONTENT], ASSET))
    clock = Clock()
    done = b"".join(
        WORKS[work](
            client,
            in_pieces(CONTENT if work == "encrypt" else sealed, lambda: setattr(clock, "ahead", timedelta(days=1))),
            clock,
        )
    )
    assert (done if work == "decrypt" else b"".join(client.decrypt_stream([done], ASSET))) == CONTENT


def test_a_lease_that_nobody_can_give_anew_is_an_outage_and_no_revocation(tmp_path: Path) -> None:
    clock = Clock()
    with contextlib.ExitStack() as service:
        running = service.enter_context(server.process(tmp_path / "server"))
        with Client(running.address, timeout=2) as client:
            work = local.LocalEncryption(client, in_pieces(CONTENT, lambda: None), ASSET, now=clock)
            assert next(work) + next(work)
            service.close()
            clock.ahead = timedelta(days=1)
            with pytest.raises(errors.ServiceUnavailable):
                list(work)


def test_a_range_asks_again_too(own_server: ServerProcess, client: Client) -> None:
    sealed = b"".join(client.encrypt_stream([CONTENT], ASSET))
    clock = Clock()
    pieces = local.decrypt_range(client, io.BytesIO(sealed), len(sealed), ASSET, 0, now=clock)
    assert CONTENT.startswith(next(pieces))
    own_server.disable()
    clock.ahead = timedelta(days=1)
    with pytest.raises(errors.KeyRevoked):
        list(pieces)


def test_frames_are_as_long_as_the_service_makes_them(ownkey_server: ServerProcess) -> None:
    with Client(ownkey_server.address) as client:
        lengths = {}
        for name in set(ASSET_CLASSES) - {"phone_mms"}:  # which the example policy denies
            asset = Asset("acme", name, "1")
            with client.encrypt_stream([b"x"], asset) as stream:
                lengths[name] = stream.info.frame_length
            assert local.LocalEncryption(client, [b"x"], asset).info.frame_length == lengths[name], name
        assert {lengths["live_media"], lengths["team_chat"], lengths["phone_recording"]} == {16_384, 65_536, 262_144}


@pytest.mark.parametrize("length", [-1, 1, 3, 2048, 5000, 1 << 23])
def test_a_wrong_frame_length_is_the_caller_s_mistake_in_both_modes(ownkey_server: ServerProcess, length: int) -> None:
    with Client(ownkey_server.address) as client:
        with pytest.raises(errors.InvalidRequest):
            b"".join(client.encrypt_stream([b"x"], ASSET, frame_length=length))
        with pytest.raises(errors.InvalidRequest):
            local.LocalEncryption(client, [b"x"], ASSET, frame_length=length)


@pytest.mark.parametrize(("offset", "length"), [(1001, None), (1001, 5), (-1, 5), (0, -1), (0, 0)])
def test_a_wrong_range_is_the_caller_s_mistake_in_both_modes(
    ownkey_server: ServerProcess, offset: int, length: int | None
) -> None:
    with Client(ownkey_server.address) as client:
        sealed = b"".join(client.encrypt_stream([bytes(1000)], ASSET))
        with pytest.raises(errors.InvalidRequest):
            b"".join(client.decrypt_range(io.BytesIO(sealed), len(sealed), ASSET, offset, length))
        with pytest.raises(errors.InvalidRequest):
            b"".join(local.decrypt_range(client, io.BytesIO(sealed), len(sealed), ASSET, offset, length))
