"""AWS KMS under the contract: on our own fake, which does everything, and on two emulators, each where it is right."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.aws.store import AwsKmsKeyStore
from ownkey_server.keystores.base import KeyStore
from support.fake_kms import PROVIDER, FakeKms
from support.key_stores import CONTEXT, TIMEOUT, until
from support.tcp_gate import TcpGate

REGION = "eu-west-1"
DUMMY_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAOWNKEYTESTS00000",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret-of-anybody",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
_NO_CREATE = "keys in AWS are made by their holder, by AWS's own means"


@contextlib.contextmanager
def dummy_credentials() -> Iterator[None]:
    """Credentials that are nobody's, and no others."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in DUMMY_ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


def client(service: str, url: str, region: str = REGION, access_key: str | None = None, secret: str = "x") -> Any:
    """A client for the holder of keys."""
    given = {"aws_access_key_id": access_key, "aws_secret_access_key": secret} if access_key else {}
    return boto3.session.Session(**given).client(service, region_name=region, endpoint_url=url)


async def use(store: KeyStore, key: str) -> None:
    """Wrap something and open it: from then on the key has worked."""
    made = await store.generate_data_key(key, CONTEXT, TIMEOUT)
    await store.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)


async def until_named(kms: FakeKms) -> None:
    """Wait until STS was asked who uses keys: that goes on beside the first use."""

    async def asked() -> bool:
        return kms.counts["GetCallerIdentity"] > 0

    await until(asked)


class AwsSubject:
    """What the three have in common: keys by ARN, and a store that reaches them through a gate."""

    cannot: Mapping[str, str] = {"create": _NO_CREATE}
    key: str
    other_key: str

    def __init__(self, url: str, canary: str | None = None) -> None:
        self.options = AwsKmsOptions(endpoint_url=url, sts_endpoint_url=url, canary_key=canary)

    @property
    def missing(self) -> str:
        return self.key[:-12] + "0123456789ab"

    def open(self, name: str = "subject") -> AwsKmsKeyStore:
        return AwsKmsKeyStore(name, self.options)

    async def make_keys(self) -> None:
        raise NotImplementedError

    def revoke(self) -> None:
        raise NotImplementedError

    def restore(self) -> None:
        raise NotImplementedError

    def forbid_opening(self) -> None:
        raise NotImplementedError

    def secrets(self) -> list[str]:
        return [DUMMY_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]]


class FakeSubject(AwsSubject):
    """On the fake."""

    def __init__(self) -> None:
        self._kms = FakeKms().start()
        self._credentials = contextlib.ExitStack()
        self._credentials.enter_context(dummy_credentials())
        super().__init__(self._kms.url, canary=self._kms.create_key(account="999988887777"))

    async def make_keys(self) -> None:
        self.key, self.other_key = self._kms.create_key(REGION), self._kms.create_key(REGION)

    def revoke(self) -> None:
        self._kms.disable(self.key)

    def restore(self) -> None:
        self._kms.enable(self.key)

    def break_off(self) -> None:
        self._kms.cut_off()

    def mend(self) -> None:
        self._kms.mend()

    def forbid_opening(self) -> None:
        everything = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
        opening = {"Effect": "Deny", "Principal": {"AWS": PROVIDER}, "Action": "kms:Decrypt", "Resource": "*"}
        self._kms.set_policy(self.key, {"Statement": [everything, opening]})

    @contextlib.asynccontextmanager
    async def hang(self) -> AsyncIterator[None]:
        self._kms.hang()
        try:
            yield
        finally:
            self._kms.resume()

    def clean_up(self) -> None:
        self._credentials.close()
        self._kms.stop()


class _EmulatorSubject(AwsSubject):
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._gate = TcpGate(port).start()
        self._credentials = contextlib.ExitStack()
        self._credentials.enter_context(dummy_credentials())
        self._holder = client("kms", self._url)
        super().__init__(f"http://127.0.0.1:{self._gate.port}")

    async def make_keys(self) -> None:
        self.key, self.other_key = (self._holder.create_key()["KeyMetadata"]["Arn"] for _ in range(2))

    def revoke(self) -> None:
        self._holder.disable_key(KeyId=self.key)

    def restore(self) -> None:
        self._holder.enable_key(KeyId=self.key)

    def break_off(self) -> None:
        self._gate.cut_off()

    def mend(self) -> None:
        self._gate.mend()

    @contextlib.asynccontextmanager
    async def hang(self) -> AsyncIterator[None]:
        self._gate.hang()
        try:
            yield
        finally:
            self._gate.resume()

    def clean_up(self) -> None:
        self._holder.close()
        self._credentials.close()
        self._gate.stop()


class MotoSubject(_EmulatorSubject):
    """On moto: real contexts and integrity, and no key state."""

    cannot: Mapping[str, str] = {
        **AwsSubject.cannot,
        "revoke": "it serves keys that are disabled",
        "forbid_opening": "it ignores key policies",
        "wrong_key": "it denies what another key made, or a changed key id, where AWS calls it invalid",
    }


class MinistackSubject(_EmulatorSubject):
    """On ministack: key states, and ciphertexts without integrity."""

    cannot: Mapping[str, str] = {
        **AwsSubject.cannot,
        "forbid_opening": "it has key policies only with its own accounts",
        "wrong_key": "it opens another key's ciphertext to nonsense",
        "integrity": "it opens changed ciphertexts to nonsense",
    }


@contextlib.contextmanager
def moto_server() -> Iterator[int]:
    """Moto's port; one process can have one only."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


@contextlib.contextmanager
def ministack_server(state: Path, **environment: str) -> Iterator[int]:
    """Ministack's port; skips without it, and fails in CI."""
    program = Path(sys.executable).parent.parent / "emulators/bin/ministack"
    if not program.exists():
        reason = f"{program} not found: run make test"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "kms,sts,iam",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "STATE_DIR": str(state),
        **environment,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON"))}
    with (state / "log").open("wb") as log:
        process = subprocess.Popen([program], env=inherited | settings, stdout=log, stderr=log, cwd=state)
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_ministack/health") as answer,
        ):
            json.load(answer)
            return
        time.sleep(0.05)
    pytest.fail("ministack does not start")
