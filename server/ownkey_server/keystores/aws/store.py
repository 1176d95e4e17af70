"""Customer keys in AWS KMS, of every origin, in the customer's account or ours; named by ARN alone.

What is wrapped is KMS's own blob under the key's ARN and the encryption context: Amazon's KMS keyring opens it with the
customer's credentials alone. Each tenant is served by credentials, and within bounds, of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    OperationUnsupported,
    StoreMisconfigured,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import place_name
from ownkey_server.keystores.aws import denials, regions
from ownkey_server.keystores.aws.access import Access
from ownkey_server.keystores.aws.arn import ArnInvalid, KeyArn
from ownkey_server.keystores.aws.calls import Calls, Order
from ownkey_server.keystores.aws.canaries import canaries
from ownkey_server.keystores.aws.history import History
from ownkey_server.keystores.aws.judge import Judge
from ownkey_server.keystores.aws.material import Materials
from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.aws.shares import Shares, TenantShare
from ownkey_server.keystores.base import (
    DATA_KEY_LENGTH,
    GeneratedDataKey,
    KeyDescription,
    KeyStore,
    UnwrappedDataKey,
    WrappedDataKey,
)
from ownkey_server.keystores.budget import RateBudget
from ownkey_server.keystores.bulkhead import Closed, NoAnswer, NoPlace, Threads
from ownkey_server.keystores.first_uses import FirstUses, FirstUsesHere
from ownkey_server.keystores.probe import PROBE_CONTEXT, require_data_key, use_both_ways

_log = logging.getLogger(__name__)

T = TypeVar("T")

PROVIDER_ID = "aws-kms"
TENANT_PAIR = "ownkey:tenant"
# What the API takes as a ciphertext; anything longer is none of KMS's.
_MOST_CIPHERTEXT = 6144
_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Parts:
    """What all tenants' views of a store have together."""

    name: str
    options: AwsKmsOptions
    threads: Threads
    shares: Shares
    calls: Calls
    materials: Materials


class AwsKmsKeyStore:
    """AWS KMS as it serves the provider; :meth:`for_tenant` gives it as it serves a tenant.

    Args:
        name: The store's name in the settings.
        options: How KMS is reached.
        uses: Which keys have ever worked; None for what this process sees alone.
        clock: The time of day, in seconds, by which imported material and sessions of roles end.
        monotonic: The time of a clock that is never set, by which tenants' rates fill.
    """

    def __init__(
        self,
        name: str,
        options: AwsKmsOptions,
        uses: FirstUses | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        regions.load()
        _warn_of_regions_without_canary(name, options)
        self._access = Access(options, clock)
        threads = Threads(options.threads, f"kms-{name}")
        patience = min(_PATIENCE_SECONDS, options.read_timeout)

        def share() -> TenantShare:
            rate = RateBudget(options.calls_per_second, monotonic)
            return TenantShare(threads, options.concurrency, rate, patience)

        materials = Materials(clock)
        access = self._access
        history = History(name, uses or FirstUsesHere(), access.principal, access.role_identity, access.later)
        judge = Judge(canaries(options, access), materials, history)
        self._parts = _Parts(name, options, threads, Shares(share), Calls(self._access, judge), materials)
        self._provider = _TenantStore(self._parts, "", background=False)

    @property
    def name(self) -> str:
        """The store's name in the settings."""
        return self._parts.name

    @property
    def counts_wraps(self) -> bool:
        """Whether a key may wrap only so often: KMS encrypts each time under a key that it derives afresh."""
        return False

    @property
    def wants_proof_of_tenant(self) -> bool:
        """Whether the key's policy alone says whose it is: a role is assumed by a name that is the tenant's own."""
        return self._parts.options.role_name is None and self._parts.options.require_tenant_context

    def is_refusal_of_key(self, error: KeyStoreError) -> bool:
        """Whether KMS denied a use, by no policy of our own side that it names."""
        return denials.by_key(error)

    def for_tenant(self, tenant: str, *, background: bool = False) -> KeyStore:
        """The store as it serves one tenant."""
        return _TenantStore(self._parts, tenant, background=background)

    async def generate_data_key(self, reference: str, context: Mapping[str, str], timeout: float) -> GeneratedDataKey:
        """Make 32 random bytes in KMS, wrapped there, as the provider."""
        return await self._provider.generate_data_key(reference, context, timeout)

    async def wrap(
        self, reference: str, data_key: SecretBytes, context: Mapping[str, str], timeout: float
    ) -> WrappedDataKey:
        """Wrap a data key, as the provider."""
        return await self._provider.wrap(reference, data_key, context, timeout)

    async def unwrap(
        self, reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> UnwrappedDataKey:
        """The data key again, as the provider."""
        return await self._provider.unwrap(reference, wrapped, context, timeout)

    async def rewrap(
        self,
        source_reference: str,
        wrapped: EncryptedDataKey,
        source_context: Mapping[str, str],
        target_reference: str,
        target_context: Mapping[str, str],
        timeout: float,
    ) -> WrappedDataKey:
        """Move a wrapped data key to another key within KMS, as the provider."""
        return await self._provider.rewrap(
            source_reference, wrapped, source_context, target_reference, target_context, timeout
        )

    def complaint(self, reference: str) -> str:
        """Why no key that this store may use is called so: by no ARN, or in another region; empty when one may be."""
        try:
            return regions.complaint(KeyArn.parse(reference), self._parts.options.regions)
        except ArnInvalid as error:
            return str(error)

    def recognizes(self, reference: str, wrapped: EncryptedDataKey) -> bool:
        """Whether the entry names this key, or a related one of the same multi-Region key."""
        return recognizes(reference, wrapped)

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        """Use the key both ways on throw-away bytes, as the provider."""
        return await self._provider.describe(reference, timeout)

    async def close(self) -> None:
        """Begin nothing more; those who wait are told so. What is under way ends by itself."""
        self._parts.threads.close()
        await asyncio.to_thread(self._access.close)


class _TenantStore:
    """The store as it serves one tenant."""

    def __init__(self, parts: _Parts, tenant: str, *, background: bool) -> None:
        self._parts = parts
        self._tenant = tenant
        self._background = background

    @property
    def name(self) -> str:
        return self._parts.name

    @property
    def counts_wraps(self) -> bool:
        return False

    async def generate_data_key(self, reference: str, context: Mapping[str, str], timeout: float) -> GeneratedDataKey:
        order = self._order(reference)

        def work(kms: Any) -> GeneratedDataKey:
            answer = kms.generate_data_key(KeyId=reference, KeySpec="AES_256", EncryptionContext=dict(context))
            wrapped = EncryptedDataKey(PROVIDER_ID, reference.encode(), answer["CiphertextBlob"])
            return GeneratedDataKey(SecretBytes(answer.pop("Plaintext")), wrapped, _request_id(answer))

        made = await self._call(order, timeout, work, _wipe)
        if len(made.plaintext) != DATA_KEY_LENGTH:
            made.plaintext.wipe()
            raise KeyUnreachable(order.place, reference, "AWS KMS made a data key of another length")
        return made

    async def wrap(
        self, reference: str, data_key: SecretBytes, context: Mapping[str, str], timeout: float
    ) -> WrappedDataKey:
        require_data_key(data_key)

        def work(kms: Any) -> WrappedDataKey:
            answer = kms.encrypt(KeyId=reference, Plaintext=bytes(data_key.reveal()), EncryptionContext=dict(context))
            entry = EncryptedDataKey(PROVIDER_ID, reference.encode(), answer["CiphertextBlob"])
            return WrappedDataKey(entry, _request_id(answer))

        return await self._call(self._order(reference), timeout, work)

    async def unwrap(
        self, reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> UnwrappedDataKey:
        order = self._order(reference)
        self._require_its(order, wrapped)

        def work(kms: Any) -> UnwrappedDataKey:
            answer = kms.decrypt(KeyId=reference, CiphertextBlob=wrapped.ciphertext, EncryptionContext=dict(context))
            return UnwrappedDataKey(SecretBytes(answer.pop("Plaintext")), _request_id(answer))

        opened = await self._call(replace(order, opens=True), timeout, work, _wipe)
        if len(opened.plaintext) != DATA_KEY_LENGTH:
            opened.plaintext.wipe()
            raise _not_its(order)
        return opened

    async def rewrap(
        self,
        source_reference: str,
        wrapped: EncryptedDataKey,
        source_context: Mapping[str, str],
        target_reference: str,
        target_context: Mapping[str, str],
        timeout: float,
    ) -> WrappedDataKey:
        order = self._order(source_reference)
        target = self._order(target_reference)
        if (target.key.partition, target.key.region) != (order.key.partition, order.key.region):
            raise OperationUnsupported(target.place, target_reference, "it is in another region than the source")
        if self._parts.options.role_name is not None and target.key.account != order.key.account:
            raise OperationUnsupported(target.place, target_reference, "it is in another account than the source")
        self._require_its(order, wrapped)

        def work(kms: Any) -> WrappedDataKey:
            answer = kms.re_encrypt(
                CiphertextBlob=wrapped.ciphertext,
                SourceKeyId=source_reference,
                SourceEncryptionContext=dict(source_context),
                DestinationKeyId=target_reference,
                DestinationEncryptionContext=dict(target_context),
            )
            moved = EncryptedDataKey(PROVIDER_ID, target_reference.encode(), answer["CiphertextBlob"])
            return WrappedDataKey(moved, _request_id(answer))

        def about(message: str) -> KeyArn:
            return target.key if target_reference in message else order.key

        return await self._call(replace(order, about=about, opens=True), timeout, work)

    def recognizes(self, reference: str, wrapped: EncryptedDataKey) -> bool:
        return recognizes(reference, wrapped)

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        deadline = time.monotonic() + timeout
        # The customer's key policy may let us in for the tenant's own context alone.
        context = {**PROBE_CONTEXT, **({TENANT_PAIR: self._tenant} if self._tenant else {})}
        found = await use_both_ways(self, reference, timeout, context)
        if found.state is not KeyState.AVAILABLE:
            return found
        order, materials = self._order(reference), self._parts.materials
        if materials.is_due(order.key):
            await self._look_at_material(order, deadline - time.monotonic())
        return replace(found, note=materials.note(order.key), expires_at=materials.ends(order.key))

    async def close(self) -> None:
        pass

    async def _look_at_material(self, order: Order, timeout: float) -> None:
        def work(kms: Any) -> Mapping[str, Any]:
            described: Mapping[str, Any] = kms.describe_key(KeyId=str(order.key))["KeyMetadata"]
            return described

        try:
            described: Mapping[str, Any] | None = await self._call(order, timeout, work, counted=False)
        except (KeyStoreThrottled, KeyUnreachable):
            return  # asked again when the key is looked at again
        except KeyStoreError:
            described = None  # a key policy need not allow it
        self._parts.materials.saw(order.key, described)

    def _order(self, reference: str) -> Order:
        place = place_name(self.name, reference)
        try:
            key = KeyArn.parse(reference)
        except ArnInvalid as error:
            raise KeyMisconfigured(place, reference, str(error)) from None
        complaint = regions.complaint(key, self._parts.options.regions)
        if complaint:
            raise StoreMisconfigured(place, reference, complaint)
        return Order(place, self._tenant, key, self._background)

    def _require_its(self, order: Order, wrapped: EncryptedDataKey) -> None:
        if not recognizes(str(order.key), wrapped) or not 1 <= len(wrapped.ciphertext) <= _MOST_CIPHERTEXT:
            raise _not_its(order)

    async def _call(
        self,
        order: Order,
        timeout: float,
        work: Callable[[Any], T],
        discard: Callable[[T], None] | None = None,
        *,
        counted: bool = True,
    ) -> T:
        share = self._parts.shares.get(self._tenant)
        region = share.region(order.key.region)
        place, reference = order.place, str(order.key)
        if counted and not share.rate.take(background=self._background):
            cause = "the tenant may make no more calls of AWS KMS at the moment"
            raise KeyStoreThrottled(place, reference, cause, ours=True)

        def in_thread(deadline: float) -> T:
            return self._parts.calls.make(order, share, region, deadline, work)

        try:
            return await region.bulkhead.run(in_thread, timeout, background=self._background, discard=discard)
        except Closed:
            raise KeyUnreachable(place, reference, "the key store is closed") from None
        except NoPlace:
            if region.pulse.unwell:
                raise KeyUnreachable(place, reference, "AWS KMS does not answer the calls under way") from None
            raise KeyStoreThrottled(place, reference, "as many calls as may be are under way", ours=True) from None
        except NoAnswer:
            if region.pulse.unwell:
                raise KeyUnreachable(place, reference, "AWS KMS did not answer in time") from None
            cause = f"no answer within the {timeout:.3g} s of the caller"
            raise KeyStoreThrottled(place, reference, cause, ours=True) from None


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


def _warn_of_regions_without_canary(name: str, options: AwsKmsOptions) -> None:
    proven = {KeyArn.parse(arn).region for arn in options.all_canary_keys}
    missing = sorted(set(options.regions) - proven)
    if proven and missing:
        words = "key store %s has no canary key in %s: no denied use of a key counts as a revocation there"
        _log.warning(words, name, ", ".join(missing))


def _not_its(order: Order) -> CiphertextInvalid:
    return CiphertextInvalid(order.place, str(order.key), "the wrapped key was not made by this key")


def _request_id(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ResponseMetadata", {}).get("RequestId", ""))


def _wipe(late: GeneratedDataKey | UnwrappedDataKey) -> None:
    late.plaintext.wipe()
    # Its caller's record was written without an id: the key was used all the same, and this is how to find that use.
    _log.info("an answer of AWS KMS came too late, and its data key was wiped: request id %s", late.request_id)
