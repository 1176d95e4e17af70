"""Two tokens that hold the same key, a server that uses both, and steady load on it while something happens to one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from ownkey.v1 import key_service_pb2, key_service_pb2_grpc, key_state_pb2
from support import server
from support.crooked_module import crooked
from support.rpc import asset
from support.server import ServerProcess
from support.softhsm import PIN, SoftHsm

KEY = "acme-main"
FIRST, SECOND = "token-a", "token-b"
CONNECTIONS = 10
TENANTS = f"""
provider_key = {{ key_store = "embedded", reference = "provider" }}

[[tenants]]
id = "acme"
enrolled_at = 2020-01-01T00:00:00Z

[[tenants.keys]]
id = "main"
key_store = "{FIRST}"
reference = "{KEY}"
replicas = [{{ key_store = "{SECOND}", reference = "{KEY}" }}]

[tenants.policy]
default = "key:main"
"""
# What loads the same key into a token: as a ceremony does, but in clear, for it is worth nothing.
_LOAD_KEY = """
import sys, pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
module, token, pin, label, value = sys.argv[1:]
template = {
    Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, Attribute.LABEL: label,
    Attribute.VALUE: bytes.fromhex(value), Attribute.TOKEN: True, Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False, Attribute.ENCRYPT: True, Attribute.DECRYPT: True,
    Attribute.WRAP: True, Attribute.UNWRAP: True,
}
with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    session.create_object(template)
"""


def load_key(softhsm: SoftHsm, token: str, value: bytes, pin: str = PIN) -> None:
    """Put the key with these bytes into a token."""
    softhsm.run_python(_LOAD_KEY, str(softhsm.module), token, pin, KEY, value.hex())


def settings_of(softhsm: SoftHsm, *, more: str = "", first_module: Path | None = None) -> str:
    """The two key stores, for a settings file; the first by another module, where one is given."""
    return "".join(
        f"""
[key_stores.{name}]
kind = "pkcs11"
module = "{(first_module if name == FIRST else None) or softhsm.module}"
token_label = "{name}"
pin = "file:{softhsm.folder / name}.pin"
{more}
"""
        for name in (FIRST, SECOND)
    )


@contextlib.contextmanager
def pair(folder: Path, softhsm: SoftHsm, *, more: str = "") -> Iterator[ServerProcess]:
    """A server with two tokens of the same key; ``more`` goes into the section of each key store."""
    value = os.urandom(32)
    for token in (FIRST, SECOND):
        softhsm.make_token(token)
        load_key(softhsm, token, value)
    extra = settings_of(softhsm, more=more, first_module=crooked(softhsm, "by-file"))
    with server.process(folder, tenants=TENANTS, extra=extra) as running:
        yield running
    for token in (FIRST, SECOND):
        softhsm.delete_token(token)


@dataclass(slots=True)
class Load:
    """Calls at a steady rate, and what became of them.

    Attributes:
        served: Seconds that each served call took.
        failed: What each failed call said, and when (monotonic).
        wrong: How many gave another data key than was wrapped.
    """

    served: list[float] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)
    wrong: int = 0

    @property
    def share(self) -> float:
        """Served calls of all."""
        return len(self.served) / max(1, len(self.served) + len(self.failed))

    def __str__(self) -> str:
        return f"{len(self.served)} served, {len(self.failed)} failed: {sorted({one for _, one in self.failed})[:5]}"


@contextlib.contextmanager
def steady_load(address: str, rate: float, deadline: float = 2.0) -> Iterator[Load]:
    """GenerateDataKey and Unwrap by turns, as many a second, whether answers come or not, until the block ends."""
    load, stop, begun = Load(), threading.Event(), threading.Event()

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            # As many services would come; one connection carries so many calls at once.
            options = (("grpc.use_local_subchannel_pool", 1),)
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(address, options)) for _ in range(CONNECTIONS)
            ]
            stubs = [key_service_pb2_grpc.KeyServiceStub(channel) for channel in channels]
            made = await stubs[0].GenerateDataKey(
                key_service_pb2.GenerateDataKeyRequest(asset=asset(), with_plaintext=True), timeout=20
            )
            tasks: set[asyncio.Task[None]] = set()
            began, number = time.monotonic(), 0
            begun.set()
            while not stop.is_set():
                task = asyncio.create_task(one(stubs[number % CONNECTIONS], made, number))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            await asyncio.gather(*tasks)

    async def one(
        stub: key_service_pb2_grpc.KeyServiceStub, made: key_service_pb2.GenerateDataKeyResponse, number: int
    ) -> None:
        at = time.monotonic()
        try:
            if number % 2:
                opened = await stub.Unwrap(
                    key_service_pb2.UnwrapRequest(
                        asset=asset(), wrapped_key=made.wrapped_key, encryption_context=made.encryption_context
                    ),
                    timeout=deadline,
                )
                load.wrong += opened.plaintext != made.plaintext
            else:
                await stub.GenerateDataKey(
                    key_service_pb2.GenerateDataKeyRequest(asset=asset(), with_plaintext=True), timeout=deadline
                )
        except grpc.aio.AioRpcError as error:
            load.failed.append((at, f"{error.code().name}: {error.details()}"))
        else:
            load.served.append(time.monotonic() - at)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert begun.wait(30)
        yield load
    finally:
        stop.set()
        thread.join()


def replica_states(address: str) -> dict[str, tuple[str, str]]:
    """The state of each token, and its cause, as KeyStatus tells."""
    with grpc.insecure_channel(address) as channel:
        stub = key_service_pb2_grpc.KeyServiceStub(channel)
        (key,) = stub.KeyStatus(key_service_pb2.KeyStatusRequest(tenant="acme"), timeout=10).keys
    return {
        one.replica: (key_state_pb2.KeyState.Name(one.state).removeprefix("KEY_STATE_"), one.cause)
        for one in key.replicas
    }


def seconds_until(condition: Callable[[], bool], within: float = 30.0) -> float:
    """How long it takes until the condition holds; fails when it does not."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, "it did not come about"
        time.sleep(0.02)
    return time.monotonic() - began
