"""A key in AWS KMS and Amazon's own libraries: what ownkey protects opens without ownkey, and the other way round."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aws_encryption_sdk
import boto3
import botocore.session
import pytest
from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy
from botocore.exceptions import ClientError

import ownkey
from ownkey.container import HeaderReader
from ownkey.wrapped_key import WrappedKey
from support import moto_process, server
from support.server import ServerProcess

PAGE = Path(__file__).parents[2] / "docs" / "aws-onboarding.md"
ASSET = ownkey.Asset("acme", "phone_recording", "call-7")
TENANTS = """
[provider_key]
key_store = "embedded"
reference = "provider"

[[tenants]]
id = "acme"
enrolled_at = 2026-01-01T00:00:00Z

[[tenants.keys]]
id = "main"
key_store = "aws"
reference = "{arn}"

[tenants.policy]
default = "key:main"
"""


@dataclass(frozen=True)
class Site:
    """A tenant whose key is in AWS KMS, served by a running ownkey."""

    arn: str
    endpoint: str
    ownkey: ServerProcess

    @property
    def kms(self) -> Any:
        return boto3.client("kms", region_name="eu-west-1", endpoint_url=self.endpoint)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with moto_process.server() as endpoint, pytest.MonkeyPatch.context() as patched:
        for name, value in moto_process.environment(endpoint).items():
            patched.setenv(name, value)
        kms = boto3.client("kms", region_name="eu-west-1", endpoint_url=endpoint)
        arn = kms.create_key(Description="acme")["KeyMetadata"]["Arn"]
        store = f'\n[key_stores.aws]\nkind = "aws_kms"\nendpoint_url = "{endpoint}"\n'
        store += f'sts_endpoint_url = "{endpoint}"\nread_timeout_seconds = 10\n'
        store += "require_tenant_context = false\n"  # moto asks no key policy
        folder = tmp_path_factory.mktemp("site")
        with server.process(folder, tenants=TENANTS.format(arn=arn), extra=store) as running:
            yield Site(arn, endpoint, running)


@pytest.fixture
def client(site: Site) -> Iterator[ownkey.Client]:
    with ownkey.Client(site.ownkey.address, timeout=20) as opened:
        yield opened


def amazons_keys(site: Site) -> aws_encryption_sdk.StrictAwsKmsMasterKeyProvider:
    # Where the emulator is, its botocore session takes from AWS_ENDPOINT_URL.
    return aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(
        key_ids=[site.arn], botocore_session=botocore.session.Session()
    )


def amazons_client() -> aws_encryption_sdk.EncryptionSDKClient:
    return aws_encryption_sdk.EncryptionSDKClient(commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)


def protect(client: ownkey.Client, content: bytes) -> bytes:
    return b"".join(client.encrypt_stream([content], ASSET, extra_context={"site": "Köln"}))


@pytest.mark.parametrize("size", [0, 1, 700_001])
def test_amazons_library_and_the_customers_key_open_what_ownkey_protects(
    site: Site, client: ownkey.Client, size: int
) -> None:
    content = os.urandom(size)
    message = protect(client, content)
    opened, header = amazons_client().decrypt(source=message, key_provider=amazons_keys(site))
    assert opened == content
    reader = HeaderReader().feed(message)
    assert reader is not None
    assert header.encryption_context == reader.encryption_context
    hour = header.encryption_context["ownkey:hour"]
    assert header.encryption_context == {
        "ownkey:tenant": "acme",
        "ownkey:asset-class": "phone_recording",
        "ownkey:asset-id": "call-7",
        "ownkey:hour": hour,
        "site": "Köln",
    }
    [entry] = header.encrypted_data_keys
    assert (entry.key_provider.provider_id, entry.key_provider.key_info) == ("aws-kms", site.arn.encode())


def test_ownkey_opens_what_amazons_library_wrote_under_the_customers_key(site: Site, client: ownkey.Client) -> None:
    content = os.urandom(300_000)
    message, _ = amazons_client().encrypt(
        source=content,
        key_provider=amazons_keys(site),
        encryption_context={
            "ownkey:tenant": "acme",
            "ownkey:asset-class": "phone_recording",
            "ownkey:asset-id": "call-7",
            "by": "the customer",
        },
        algorithm=Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
        frame_length=4096,
    )
    assert b"".join(client.decrypt_stream([message], ASSET)) == content
    with pytest.raises(ownkey.errors.CiphertextInvalid):
        b"".join(client.decrypt_stream([message], ownkey.Asset("acme", "phone_recording", "call-8")))


def test_bare_kms_opens_a_wrapped_key_under_its_context_and_no_other(site: Site, client: ownkey.Client) -> None:
    made = client.generate_data_key(ASSET, with_plaintext=True)
    [entry] = WrappedKey.from_bytes(made.wrapped_key).encrypted_data_keys
    context = dict(made.encryption_context)
    opened = site.kms.decrypt(KeyId=site.arn, CiphertextBlob=entry.ciphertext, EncryptionContext=context)
    assert opened["Plaintext"] == made.plaintext
    other = {**context, "ownkey:asset-id": "call-8"}
    with pytest.raises(ClientError, match="InvalidCiphertextException"):
        site.kms.decrypt(KeyId=site.arn, CiphertextBlob=entry.ciphertext, EncryptionContext=other)


def test_the_pages_program_opens_a_recording_without_ownkey(site: Site, client: ownkey.Client, tmp_path: Path) -> None:
    """Runs the program that docs/aws-onboarding.md prints, word for word: no line of it is ours."""
    [program] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "import ownkey" not in program
    assert "from ownkey" not in program
    content = os.urandom(700_001)
    (tmp_path / "open_with_kms.py").write_text(program, encoding="utf-8")
    (tmp_path / "call.wav.ownkey").write_bytes(protect(client, content))
    done = subprocess.run(
        [sys.executable, "open_with_kms.py", site.arn, "call.wav.ownkey", "call.wav"],
        cwd=tmp_path,
        env=dict(moto_process.environment(site.endpoint)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "call.wav").read_bytes() == content
    assert "ownkey:asset-id = call-7" in done.stdout
