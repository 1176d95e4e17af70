"""An ownkey server whose tenants have their keys in AWS KMS: the fake one of the tests, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from harness import CLIENT_CORE, HERE, NOTHING, STOP_SECONDS, OwnkeyServer, ownkey_server, pinned

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "dummy",
    "AWS_SECRET_ACCESS_KEY": "dummy",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
TENANT = """
[[tenants]]
id = "{tenant}"
enrolled_at = 2026-01-01T00:00:00Z
keys = [{{ id = "main", key_store = "aws", reference = "{arn}" }}]
policy = {{ default = "key:main" }}
"""
PROVIDER = '[provider_key]\nkey_store = "embedded"\nreference = "provider"\n'


@dataclass(frozen=True)
class Kms:
    """The fake.

    Attributes:
        url: Its endpoint.
    """

    url: str

    def client(self, region: str) -> Any:
        """A client of a region, as boto3 makes it by default."""
        return boto3.session.Session(
            aws_access_key_id="dummy", aws_secret_access_key="dummy", region_name=region
        ).client("kms", endpoint_url=self.url)

    def new_key(self, region: str) -> str:
        """The ARN of a new key."""
        return str(self.client(region).create_key()["KeyMetadata"]["Arn"])


@contextmanager
def fake_kms(latency: float = 0.0) -> Iterator[Kms]:
    """A fake of AWS KMS that takes so many seconds for each answer."""
    command = [sys.executable, "-m", "support.fake_kms", "--latency", str(latency)]
    with pinned(CLIENT_CORE):
        process = subprocess.Popen(command, cwd=HERE.parent / "tests", stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Kms(process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
        process.stdout.close()


@contextmanager
def kms_server(
    keys: Mapping[str, str],
    endpoints: Mapping[str, str],
    settings: Mapping[str, str] = NOTHING,
    prepared: Callable[[Path], None] = lambda _: None,
) -> Iterator[OwnkeyServer]:
    """A server that reaches these endpoints, by region, for the keys of these tenants.

    `settings` are further variables of its environment, and `prepared` gets its folder when that is ready.
    """
    urls = ", ".join(f'{region} = "{url}"' for region, url in endpoints.items())

    def prepare(folder: Path) -> None:
        with (folder / "ownkey.toml").open("a", encoding="utf-8") as settings:
            settings.write(f'\n[key_stores.aws]\nkind = "aws_kms"\nendpoint_urls = {{ {urls} }}\n')
            settings.write("require_tenant_context = false\n")  # the fake's keys let everybody in
        tenants = "".join(TENANT.format(tenant=tenant, arn=arn) for tenant, arn in keys.items())
        (folder / "tenants.toml").write_text(PROVIDER + tenants, encoding="utf-8")
        prepared(folder)

    with ownkey_server(settings={**CREDENTIALS, **settings}, prepare=prepare) as server:
        yield server
