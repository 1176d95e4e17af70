"""What surrounds the SDK and the command line may be hostile: proxies, services, requests, signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from ownkey import Asset, AsyncClient, Client, errors, local
from ownkey.v1 import call_pb2, key_service_pb2, key_service_pb2_grpc
from support.server import OWNKEY, ServerProcess

ASSET = Asset("acme", "phone_recording", "call-1")
PROXY_VARIABLES = ("grpc_proxy", "http_proxy", "https_proxy")


@contextmanager
def recording_proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A listener that notes whatever comes; gives its address and the notes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        seen: list[bytes] = []

        def accept() -> None:
            try:
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        seen.append(connection.recv(1000))
            except OSError:
                return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


async def test_no_proxy_of_the_environment_sees_a_key(
    ownkey_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recording_proxy() as (address, seen):
        for variable in PROXY_VARIABLES:
            monkeypatch.setenv(variable, address)
        monkeypatch.setenv("no_proxy", "")
        with Client(ownkey_server.address) as client:
            assert client.generate_data_key(ASSET, with_plaintext=True).plaintext
        async with AsyncClient(ownkey_server.address) as other:
            assert (await other.generate_data_key(ASSET, with_plaintext=True)).plaintext
        assert seen == []


class Hostile(key_service_pb2_grpc.KeyServiceServicer):
    """A service that answers as a test says."""

    def __init__(self, answer: Callable[[object], object]) -> None:
        self._answer = answer

    def GenerateDataKey(self, request: object, context: object) -> object:
        return self._answer(request)

    def AuthorizeCall(self, request: object, context: object) -> object:
        return self._answer(request)


@contextmanager
def hostile(answer: Callable[[object], object]) -> Iterator[Client]:
    service = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    key_service_pb2_grpc.add_KeyServiceServicer_to_server(Hostile(answer), service)  # type: ignore[arg-type]
    port = service.add_insecure_port("127.0.0.1:0")
    service.start()
    try:
        with Client(f"127.0.0.1:{port}") as client:
            yield client
    finally:
        service.stop(None).wait()


def data_key(**changes: object) -> key_service_pb2.GenerateDataKeyResponse:
    context = {"ownkey:tenant": "acme", "ownkey:asset-class": "phone_recording", "ownkey:asset-id": "call-1"}
    made = {
        "key": "k",
        "plaintext": bytes(32),
        "wrapped_key": b"\x01\x00\x00\x00\x01\x00\x01x\x00\x01y\x00\x01z",
        "encryption_context": context | {"purpose": "x"},
        "decision": key_service_pb2.POLICY_DECISION_ALLOW,
    }
    answer = key_service_pb2.GenerateDataKeyResponse(**(made | changes))  # type: ignore[arg-type]
    answer.lease_expire_time.FromDatetime(datetime(2099, 1, 1, tzinfo=UTC))
    return answer


def test_local_encryption_writes_what_an_honest_service_says() -> None:
    with hostile(lambda _: data_key()) as client:
        assert b"".join(local.LocalEncryption(client, [b"x"], ASSET, extra_context={"purpose": "x"}))


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"ownkey:tenant": "evil", "ownkey:asset-class": "phone_recording", "ownkey:asset-id": "call-1", "purpose": "x"},
        {"ownkey:tenant": "acme", "ownkey:asset-class": "phone_recording", "ownkey:asset-id": "other", "purpose": "x"},
        {"ownkey:tenant": "acme", "ownkey:asset-class": "phone_recording", "ownkey:asset-id": "call-1"},
    ],
)
def test_local_encryption_takes_no_other_asset_s_context_from_a_service(context: dict[str, str]) -> None:
    answer = data_key()
    answer.ClearField("encryption_context")
    answer.encryption_context.update(context)
    with hostile(lambda _: answer) as client, pytest.raises(errors.CiphertextInvalid):
        local.LocalEncryption(client, [b"x"], ASSET, extra_context={"purpose": "x"})


@pytest.mark.parametrize("change", [{"plaintext": b""}, {"plaintext": bytes(16)}, {"wrapped_key": b"junk"}])
def test_a_data_key_that_cannot_be_one_is_the_service_s_failure(change: dict[str, object]) -> None:
    with hostile(lambda _: data_key(**change)) as client, pytest.raises(errors.ServiceFailed):
        local.LocalEncryption(client, [b"x"], ASSET)


REFUSAL = call_pb2.AuthorizeCallResponse(decision=call_pb2.CALL_DECISION_REFUSE, sip_status=503)
NONSENSE = call_pb2.AuthorizeCallResponse(decision=99)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [REFUSAL, NONSENSE])
def test_no_answer_of_a_service_keeps_an_emergency_call_from_connecting(
    answer: call_pb2.AuthorizeCallResponse,
) -> None:
    with hostile(lambda _: answer) as client:
        assert client.authorize_call("acme", "c", "911").allowed


def test_a_service_that_hangs_holds_an_emergency_call_up_for_half_a_second() -> None:
    release = threading.Event()

    def hang(_: object) -> object:
        release.wait(20)
        return REFUSAL

    with hostile(hang) as client:
        try:
            assert client.authorize_call("acme", "c", "911").emergency
            assert not release.is_set()
        finally:
            release.set()


BROKEN: dict[str, dict[str, object]] = {
    "a caller that is no text": {"caller": '"M\udcfcller"'},
    "no list of what is stored": {"stores": None},
    "an unknown class": {"stores": ("bogus",)},
    "an unknown direction": {"direction": "sideways"},
    "a number as an id": {"user": 7},
}


@pytest.mark.parametrize("how", BROKEN)
async def test_no_mistake_in_a_request_keeps_an_emergency_call_from_connecting(
    ownkey_server: ServerProcess, how: str
) -> None:
    with Client(ownkey_server.address) as client:
        assert client.authorize_call("acme", "c", "911", **BROKEN[how]).emergency  # type: ignore[arg-type]
    assert client.authorize_call("acme", "c", "911").emergency  # closed
    async with AsyncClient(ownkey_server.address) as other:
        assert (await other.authorize_call("acme", "c", "911", **BROKEN[how])).emergency  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--direction", "sideways"),
        ("--stores", "bogus"),
        ("--address", "10.9.9.9:1"),
        ("--address", "127.0.0.1:1"),
        ("--caller", b"M\xfcller"),
        ("--tenant", "No Such Tenant"),
        (),
    ],
)
def test_no_mistake_on_the_command_line_keeps_an_emergency_call_from_connecting(
    ownkey_server: ServerProcess, arguments: tuple[str | bytes, ...]
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OWNKEY_")}
    environment["OWNKEY_ADDRESS"] = ownkey_server.address
    command = [OWNKEY, "call", "--callee", "tel:911", *arguments]
    done = subprocess.run(command, capture_output=True, env=environment, check=False, timeout=60)
    assert (done.returncode, b"emergency" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_a_closed_terminal_leaves_no_plaintext(ownkey_server: ServerProcess, tmp_path: Path, number: int) -> None:
    with Client(ownkey_server.address) as client:
        sealed = b"".join(client.encrypt_stream([bytes(3_000_000)], ASSET))
    command = [OWNKEY, "decrypt", "-", "-o", "never.wav", "--tenant", "acme", "--address", ownkey_server.address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path) as running:
        assert running.stdin is not None
        running.stdin.write(sealed[:2_000_000])
        running.stdin.flush()
        tick = threading.Event()
        for _ in range(1000):
            if any(path.stat().st_size for path in tmp_path.iterdir()):
                break
            tick.wait(0.02)
        running.send_signal(number)
        assert running.wait(timeout=30) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_a_forged_name_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    from ownkey.container import EncryptedDataKey, Encryptor

    context = {"ownkey:asset-id": "\x1b]0;pwn\x07\x1b[2J\nmessage id  FAKE"}
    entries = [
        EncryptedDataKey("\x1b[31m", b"y", b"z"),
        EncryptedDataKey("aws-kms", b"\x1b[2J\nmessage id  FAKE\xff", b"z"),
    ]
    made = Encryptor(bytes(32), encryption_context=context, encrypted_data_keys=entries)
    (tmp_path / "x.ownkey").write_bytes(made.header.to_bytes() + made.finish())
    done = subprocess.run([OWNKEY, "inspect", "x.ownkey"], capture_output=True, cwd=tmp_path, check=True, timeout=60)
    assert b"\x1b" not in done.stdout
    assert done.stdout.count(b"\nmessage id") == 0


def test_an_empty_volume_at_start_makes_no_new_keys(tmp_path: Path) -> None:
    from support import server

    with server.process(tmp_path):
        pass
    keys = tmp_path / "keys"
    for key in keys.iterdir():
        key.unlink()
    with server.process(tmp_path) as running, Client(running.address) as client:
        # A volume that is not mounted looks like this: an outage, and no key that never was right.
        with pytest.raises(errors.KeyUnreachable):
            client.generate_data_key(ASSET)
        assert list(keys.iterdir()) == []
