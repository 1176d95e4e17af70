"""Customer keys in AWS KMS, of every origin, in the customer's account or ours; named by ARN alone.

What is wrapped is KMS's own blob under the key's ARN and the encryption context: Amazon's KMS keyring opens it with the
customer's credentials alone. Each tenant is served by credentials, and within bounds, of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.errors import CiphertextInvalid, KeyMisconfigured, KeyStoreThrottled, KeyUnreachable
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import place_name
from ownkey_server.keystores.aws_arn import ArnInvalid, KeyArn
from ownkey_server.keystores.aws_clients import Clients
from ownkey_server.keystores.aws_errors import meaning
from ownkey_server.keystores.aws_options import AwsKmsOptions
from ownkey_server.keystores.base import DATA_KEY_LENGTH, GeneratedDataKey, KeyDescription, KeyStore, UnwrappedDataKey
from ownkey_server.keystores.bulkhead import Bulkhead, NoAnswer, NoPlace, Threads
from ownkey_server.keystores.probe import PROBE_CONTEXT, require_data_key, use_both_ways

T = TypeVar("T")

PROVIDER_ID = "aws-kms"
TENANT_PAIR = "ownkey:tenant"


class AwsKmsKeyStore:
    """AWS KMS as it serves one tenant; :meth:`for_tenant` gives another's.

    Args:
        name: The store's name in the settings.
        options: How KMS is reached.
    """

    def __init__(self, name: str, options: AwsKmsOptions, clients: Clients | None = None) -> None:
        self._name = name
        self._options = options
        self._clients = clients or Clients(options)
        self._threads = Threads(options.threads, f"kms-{name}")
        self._tenants: dict[tuple[str, bool], KeyStore] = {}

    @property
    def name(self) -> str:
        """The store's name in the settings."""
        return self._name

    def for_tenant(self, tenant: str, *, background: bool = False) -> KeyStore:
        """The store as it serves one tenant."""
        found = self._tenants.get((tenant, background))
        if found is None:
            bulkhead = Bulkhead(self._threads, self._options.concurrency)
            found = self._tenants[tenant, background] = _TenantStore(
                self._name, tenant, self._clients, bulkhead, background=background
            )
        return found

    async def generate_data_key(self, reference: str, context: Mapping[str, str], timeout: float) -> GeneratedDataKey:
        """Make 32 random bytes in KMS, wrapped there, as the provider."""
        return await self.for_tenant("").generate_data_key(reference, context, timeout)

    async def wrap(
        self, reference: str, data_key: SecretBytes, context: Mapping[str, str], timeout: float
    ) -> EncryptedDataKey:
        """Wrap a data key, as the provider."""
        return await self.for_tenant("").wrap(reference, data_key, context, timeout)

    async def unwrap(
        self, reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> UnwrappedDataKey:
        """The data key again, as the provider."""
        return await self.for_tenant("").unwrap(reference, wrapped, context, timeout)

    def recognizes(self, reference: str, wrapped: EncryptedDataKey) -> bool:
        """Whether the entry names this key, or a related one of the same multi-Region key."""
        return recognizes(reference, wrapped)

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        """Use the key both ways on throw-away bytes, as the provider."""
        return await self.for_tenant("").describe(reference, timeout)

    async def close(self) -> None:
        """Begin nothing more."""
        self._threads.close()


class _TenantStore:
    """The store as it serves one tenant."""

    def __init__(self, name: str, tenant: str, clients: Clients, bulkhead: Bulkhead, *, background: bool) -> None:
        self._name = name
        self._tenant = tenant
        self._clients = clients
        self._bulkhead = bulkhead
        self._background = background

    @property
    def name(self) -> str:
        return self._name

    async def generate_data_key(self, reference: str, context: Mapping[str, str], timeout: float) -> GeneratedDataKey:
        arn = self._arn(reference)

        def work(kms: Any) -> GeneratedDataKey:
            answer = kms.generate_data_key(KeyId=reference, KeySpec="AES_256", EncryptionContext=dict(context))
            wrapped = EncryptedDataKey(PROVIDER_ID, reference.encode(), answer["CiphertextBlob"])
            return GeneratedDataKey(SecretBytes(answer["Plaintext"]), wrapped, _request_id(answer))

        return await self._call(arn, timeout, work)

    async def wrap(
        self, reference: str, data_key: SecretBytes, context: Mapping[str, str], timeout: float
    ) -> EncryptedDataKey:
        require_data_key(data_key)
        arn = self._arn(reference)

        def work(kms: Any) -> EncryptedDataKey:
            answer = kms.encrypt(KeyId=reference, Plaintext=bytes(data_key.reveal()), EncryptionContext=dict(context))
            return EncryptedDataKey(PROVIDER_ID, reference.encode(), answer["CiphertextBlob"])

        return await self._call(arn, timeout, work)

    async def unwrap(
        self, reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> UnwrappedDataKey:
        arn = self._arn(reference)
        if not recognizes(reference, wrapped):
            raise self._not_its(arn)

        def work(kms: Any) -> UnwrappedDataKey:
            answer = kms.decrypt(KeyId=reference, CiphertextBlob=wrapped.ciphertext, EncryptionContext=dict(context))
            return UnwrappedDataKey(SecretBytes(answer["Plaintext"]), _request_id(answer))

        opened = await self._call(arn, timeout, work)
        if len(opened.plaintext) != DATA_KEY_LENGTH:
            raise self._not_its(arn)
        return opened

    def recognizes(self, reference: str, wrapped: EncryptedDataKey) -> bool:
        return recognizes(reference, wrapped)

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        # The customer's key policy may let us in for the tenant's own context alone.
        context = {**PROBE_CONTEXT, **({TENANT_PAIR: self._tenant} if self._tenant else {})}
        return await use_both_ways(self, reference, timeout, context)

    async def close(self) -> None:
        pass

    def _arn(self, reference: str) -> KeyArn:
        try:
            return KeyArn.parse(reference)
        except ArnInvalid as error:
            raise KeyMisconfigured(place_name(self._name, reference), reference, str(error)) from None

    def _not_its(self, arn: KeyArn) -> CiphertextInvalid:
        return CiphertextInvalid(f"{self._name}/{arn.region}", str(arn), "the wrapped key was not made by this key")

    async def _call(self, arn: KeyArn, timeout: float, work: Callable[[Any], T]) -> T:
        replica, reference = f"{self._name}/{arn.region}", str(arn)

        def in_thread(deadline: float) -> T:
            kms = self._clients.kms(arn.region)
            if time.monotonic() >= deadline:
                raise KeyStoreThrottled(replica, reference, "no time was left to ask")
            return work(kms)

        try:
            return await self._bulkhead.run(in_thread, timeout, background=self._background)
        except NoPlace:
            raise KeyStoreThrottled(replica, reference, "as many calls as may be are under way") from None
        except NoAnswer:
            raise KeyUnreachable(replica, reference, "AWS KMS did not answer in time") from None
        except (ClientError, BotoCoreError) as error:
            raise meaning(replica, reference, error) from error


def recognizes(reference: str, wrapped: EncryptedDataKey) -> bool:
    """Whether a wrapped key names a key, or a related one of the same multi-Region key."""
    if wrapped.provider_id != PROVIDER_ID:
        return False
    if wrapped.provider_info == reference.encode():
        return True
    try:
        return KeyArn.parse(wrapped.provider_info.decode()).is_same_key(KeyArn.parse(reference))
    except (ArnInvalid, UnicodeDecodeError):
        return False


def _request_id(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ResponseMetadata", {}).get("RequestId", ""))
