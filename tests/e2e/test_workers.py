"""Several server processes on one port: they share the calls, are replaced when they die, and end together."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ownkey import Asset, Client
from support import server
from support.server import OWNKEY, ServerProcess, wait_until

TWO = ("--workers", "2")
CHANNELS = 40  # that all go to the same one of two workers happens once in 2 ** 39 times


@contextlib.contextmanager
def two_workers(folder: Path) -> Iterator[ServerProcess]:
    with server.process(folder, TWO) as running:
        yield running


def log_of(running: ServerProcess) -> str:
    return (running.directory / "server.log").read_text(encoding="utf-8")


def pids(running: ServerProcess) -> list[int]:
    """Of all workers that ever served, in the order in which they did."""
    return [int(pid) for pid in re.findall(r"is ready \(pid (\d+)\)", log_of(running))]


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # where nobody reaps orphans, a dead one stays as a zombie


@contextlib.contextmanager
def a_connection_of_its_own(address: str) -> Iterator[health_pb2_grpc.HealthStub]:
    with grpc.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def serves(address: str) -> bool:
    with a_connection_of_its_own(address) as stub:
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def is_free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True


def refused(folder: Path, *arguments: str) -> str:
    """What `ownkey serve` says when it does not start."""
    config = server.write_settings(folder)
    done = subprocess.run(
        [OWNKEY, "serve", "--config", str(config), *arguments], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_both_workers_get_connections(tmp_path: Path) -> None:
    with two_workers(tmp_path) as running, contextlib.ExitStack() as stack:
        ended: list[int] = []

        def watch(number: int, stub: health_pb2_grpc.HealthStub, begun: threading.Barrier) -> None:
            answers = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(answers).status == health_pb2.HealthCheckResponse.SERVING
            begun.wait(20)
            with contextlib.suppress(grpc.RpcError):
                next(answers)
            ended.append(number)

        begun = threading.Barrier(CHANNELS + 1)
        for number in range(CHANNELS):
            stub = stack.enter_context(a_connection_of_its_own(running.address))
            thread = threading.Thread(target=watch, args=(number, stub, begun))
            thread.start()
            stack.callback(thread.join, 20)
        begun.wait(20)
        # Who loses the connection when one worker dies, was with it.
        first, second = pids(running)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: f"(pid {first}) was ended by SIGKILL" in log_of(running), "its death is noticed")
        wait_until(lambda: bool(ended), "a connection breaks")
        assert len(ended) < CHANNELS
        os.kill(second, signal.SIGKILL)
        wait_until(lambda: len(ended) == CHANNELS, "all connections break")


def test_each_log_line_of_a_worker_has_its_number_and_first_keys_are_made_once(tmp_path: Path) -> None:
    with two_workers(tmp_path) as running:
        log = log_of(running)
    for number in (1, 2):
        assert re.search(rf"\[worker {number}\] ownkey_server.main: serving from sqlite:\S+ sharing", log)
    assert log.count("made key 'acme-main'") == 1
    assert log.count(" on 127.0.0.1:") == 1, "tools must not find the address before all workers serve"


def test_calls_go_on_when_a_worker_is_killed_and_it_is_replaced(tmp_path: Path) -> None:
    with two_workers(tmp_path) as running:
        before = pids(running)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: f"(pid {before[0]}) was ended by SIGKILL" in log_of(running), "its death is noticed")
        for _ in range(CHANNELS):
            assert serves(running.address)
        wait_until(lambda: len(pids(running)) == 3, "another worker serves")
        assert pids(running)[2] not in before
        assert is_running(pids(running)[2])
        # The new one alone.
        os.kill(before[1], signal.SIGKILL)
        wait_until(lambda: f"(pid {before[1]}) was ended by SIGKILL" in log_of(running), "its death is noticed")
        assert serves(running.address)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_end_on_a_signal_once_the_calls_under_way_have(tmp_path: Path, number: signal.Signals) -> None:
    asset = Asset("acme", "phone_recording", "call-1")
    with two_workers(tmp_path) as running, Client(running.address) as client:
        workers = pids(running)
        assert all(os.getsid(pid) == pid for pid in workers), "a terminal's Ctrl-C must not reach them past the parent"
        go_on = threading.Event()

        def content() -> Iterator[bytes]:
            yield b"x" * 300_000
            assert go_on.wait(20)
            yield b"y" * 300_000

        stream = client.encrypt_stream(content(), asset)
        assert stream.info.key
        os.kill(running.pid, number)
        wait_until(lambda: log_of(running).count("draining") == 2, "both workers drain")
        go_on.set()
        sealed = b"".join(stream)
        assert len(sealed) > 600_000
        assert running.wait() == 0
        assert not any(is_running(pid) for pid in workers)
        assert is_free(running.address)
        assert "another starts" not in log_of(running)


def test_workers_whose_parent_was_killed_end_by_themselves(tmp_path: Path) -> None:
    with two_workers(tmp_path) as running:
        workers = pids(running)
        assert all(is_running(pid) for pid in workers)
        os.kill(running.pid, signal.SIGKILL)
        wait_until(lambda: not any(is_running(pid) for pid in workers), "the workers end")
        assert is_free(running.address)
        assert log_of(running).count("the supervisor has gone") == 2


def test_a_unix_socket_cannot_be_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"unix:{tmp_path}/ownkey.sock"
    monkeypatch.setenv("OWNKEY_SERVER__LISTEN", path)
    said = refused(tmp_path / "refused", *TWO)
    assert f"several workers cannot share {path}: set server.listen to HOST:PORT, or leave --workers at 1" in said
    assert not (tmp_path / "refused" / "keys").exists(), "it must be refused before anything is made"


@pytest.mark.parametrize("first", [(), TWO], ids=["one", "two workers"])
@pytest.mark.parametrize("second", [(), TWO], ids=["one", "two workers"])
def test_a_port_that_another_ownkey_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    with server.process(tmp_path / "first", first) as running:
        monkeypatch.setenv("OWNKEY_SERVER__LISTEN", running.address)
        said = refused(tmp_path / "second", *second)
        assert f"cannot listen on {running.address}: is the port taken?" in said
        assert serves(running.address)


def test_the_port_can_be_had_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with two_workers(tmp_path) as running:
        assert serves(running.address)
        monkeypatch.setenv("OWNKEY_SERVER__LISTEN", running.address)
    with two_workers(tmp_path) as again:
        assert again.address == running.address
        assert serves(again.address)
