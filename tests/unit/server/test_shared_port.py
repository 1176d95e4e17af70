from __future__ import annotations

import socket

import pytest

from ownkey_server import shared_port


def listener(address: str, *, shared: bool) -> socket.socket:
    host, _, port = address.rpartition(":")
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    try:
        made.bind((host, int(port)))
        made.listen()
    except OSError:
        made.close()
        raise
    return made


def test_a_held_port_is_for_those_who_share_it() -> None:
    with shared_port.held("127.0.0.1:0") as address:
        assert not address.endswith(":0")
        with listener(address, shared=True), listener(address, shared=True):
            pass
        with pytest.raises(OSError, match="in use"):
            listener(address, shared=False)
    with listener(address, shared=False):
        pass


def test_it_listens_to_nothing() -> None:
    with shared_port.held("127.0.0.1:0") as address:
        host, _, port = address.rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_that_somebody_listens_to_is_refused_however_he_does(shared: bool) -> None:
    with shared_port.held("127.0.0.1:0") as address:
        pass
    with (
        listener(address, shared=shared),
        pytest.raises(OSError, match=f"cannot listen on {address}: is the port taken"),
        shared_port.held(address),
    ):
        pytest.fail("it took a port of somebody else's")


def test_a_port_that_is_held_is_refused() -> None:
    with (
        shared_port.held("127.0.0.1:0") as address,
        pytest.raises(OSError, match="is the port taken"),
        shared_port.held(address),
    ):
        pytest.fail("two hold one port")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_host_stays_as_it_was_written(host: str) -> None:
    with shared_port.held(f"{host}:0") as address:
        assert address.startswith(f"{host}:")


def test_an_address_of_the_sixth_version_can_be_held() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        with pytest.raises(OSError, match="no such address"), shared_port.held("[::1]:0"):
            pass
        return
    with shared_port.held("[::1]:0") as address:
        assert address.startswith("[::1]:")
