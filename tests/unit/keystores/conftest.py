"""A fake of AWS KMS, and stores on it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.aws.store import AwsKmsKeyStore
from ownkey_server.keystores.first_uses import FirstUses
from support.aws_subjects import dummy_credentials
from support.fake_kms import FakeKms

OpenAws = Callable[..., AwsKmsKeyStore]


@pytest.fixture
def kms() -> Iterator[FakeKms]:
    """A fake of AWS KMS of this test's own."""
    with dummy_credentials(), FakeKms() as fake:
        yield fake


@pytest.fixture
async def open_aws(kms: FakeKms) -> AsyncIterator[OpenAws]:
    """Opens stores on the fake, with what options a test wants."""
    opened: list[AwsKmsKeyStore] = []

    def open_store(
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        uses: FirstUses | None = None,
        **options: object,
    ) -> AwsKmsKeyStore:
        given = AwsKmsOptions(**{"endpoint_url": kms.url, "sts_endpoint_url": kms.url, **options})  # type: ignore[arg-type]
        opened.append(AwsKmsKeyStore("aws", given, uses, clock, monotonic))
        return opened[-1]

    yield open_store
    for store in opened:
        await store.close()
