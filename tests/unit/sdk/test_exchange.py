"""What a client accepts before anything is sent."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from ownkey import Asset, AsyncClient, Client, _exchange, _stream, errors
from ownkey.models import ASSET_CLASSES
from ownkey.v1 import asset_pb2, key_service_pb2

ASSET = Asset("acme", "phone_recording", "call-1")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:7400", "127.8.9.1:1", "localhost:65535", "[::1]:7400", "unix:/run/ownkey.sock", "unix:ownkey.sock"],
)
def test_this_machine_needs_no_credentials(address: str) -> None:
    _exchange.require_local(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "7400",
        "127.0.0.1",
        "10.0.0.1:7400",
        "0.0.0.0:7400",
        "[::]:7400",
        "[::ffff:10.0.0.1]:7400",
        "127.0.0.1.example.com:7400",
        "localhost.example:7400",
        "dns:///127.0.0.1:7400",
        "ipv4:10.0.0.1:7400",
        "ipv4:127.0.0.1:7400,10.0.0.1:7400",
        "127.0.0.1:7400,10.0.0.1:7400",
        "unix-abstract:ownkey",
        "unix:",
        "unix:///",
        "UNIX:x",
        "127.0.0.1:7400\n",
        "2130706433:7400",
        "127.1:7400",
    ],
)
def test_any_other_address_is_refused(address: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        _exchange.require_local(address)


@pytest.mark.parametrize("port", ["0", "65536", "72936", "99999"])
async def test_a_port_is_never_taken_modulo(port: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="no port from 1 to 65,535"):
        Client(f"127.0.0.1:{port}")
    with pytest.raises(errors.InvalidRequest, match="no port from 1 to 65,535"):
        AsyncClient(f"127.0.0.1:{port}")


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf])
async def test_every_call_ends_some_time(timeout: float) -> None:
    with pytest.raises(errors.InvalidRequest, match="positive number of seconds"):
        Client(timeout=timeout)
    with pytest.raises(errors.InvalidRequest, match="positive number of seconds"):
        AsyncClient(timeout=timeout)


def test_every_class_of_the_contract_has_its_public_name() -> None:
    assert len(ASSET_CLASSES) == len(asset_pb2.AssetClass.keys()) - 1
    for name in ASSET_CLASSES:
        assert _exchange.asset_message(Asset("acme", name, "1")).asset_class == ASSET_CLASSES[name]


@pytest.mark.parametrize(
    ("asset", "says"),
    [
        (Asset("acme", "fax", "1"), "there are: meeting_recording"),
        (Asset("acme", "", "1"), "there are: meeting_recording"),
        (Asset("acme", "phone_recording", "1", origin="found"), "there are: created, uploaded"),
        (Asset("acme", "phone_recording", "1", create_time=datetime(2026, 1, 1)), "needs a time zone"),
        (Asset("acme", "phone_recording", "\udcff"), "no UTF-8 form"),
        (Asset("\udcff", "phone_recording", "1"), "no UTF-8 form"),
        (
            Asset("acme", "phone_recording", "1", create_time=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))),
            "cannot be sent",
        ),
    ],
)
def test_a_wrong_fact_is_told_with_what_would_be_right(asset: Asset, says: str) -> None:
    for build in (
        lambda: _exchange.check_policy(asset, ""),
        lambda: _exchange.generate_data_key(asset, None, False, ""),
        lambda: _exchange.unwrap(asset, b"x", {}, ""),
        lambda: _stream.encrypt_start(asset, None, 0, ""),
        lambda: _stream.decrypt_start(asset, None, None, 0, ""),
    ):
        with pytest.raises(errors.InvalidRequest, match=says):
            build()


def test_a_value_that_no_message_can_hold_is_the_caller_s_mistake() -> None:
    broken = (
        lambda: _exchange.generate_data_key(ASSET, {"a": "\udcff"}, False, ""),
        lambda: _exchange.key_status("\udcff", "", ""),
        lambda: _stream.encrypt_start(ASSET, None, -1, ""),
        lambda: _stream.decrypt_start(ASSET, None, (1 << 70, 0), 1, ""),
        lambda: _stream.decrypt_start(ASSET, None, None, 1 << 70, ""),
    )
    for build in broken:
        with pytest.raises(errors.InvalidRequest):
            build()


def test_a_time_keeps_its_moment_whatever_its_zone() -> None:
    moment = datetime(2026, 11, 23, 16, tzinfo=UTC)
    elsewhere = moment.astimezone(timezone(timedelta(hours=-7)))
    message = _exchange.asset_message(Asset("acme", "phone_recording", "1", create_time=elsewhere))
    assert message.create_time.ToDatetime(UTC) == moment


def test_no_data_key_shows_itself() -> None:
    answer = key_service_pb2.GenerateDataKeyResponse(plaintext=b"secret" * 5 + b"!!", wrapped_key=b"wrapped")
    key = _exchange.generate_data_key(ASSET, None, True, "").parse(answer)
    assert key.plaintext == b"secret" * 5 + b"!!"
    assert "secret" not in f"{key!r} {key!s}"
