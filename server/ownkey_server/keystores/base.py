"""The interface of a key store. No implementation stands here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.secret_bytes import SecretBytes

DATA_KEY_LENGTH = 32


@dataclass(frozen=True, slots=True)
class GeneratedDataKey:
    """A fresh data key, once in clear and once wrapped.

    Attributes:
        request_id: The store's own id of the operation, by which its holder's log has it; empty where it gives none.
    """

    plaintext: SecretBytes
    wrapped: EncryptedDataKey
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class UnwrappedDataKey:
    """A data key in clear again; ``request_id`` as in :class:`GeneratedDataKey`."""

    plaintext: SecretBytes
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class WrappedDataKey:
    """A data key wrapped; ``request_id`` as in :class:`GeneratedDataKey`."""

    entry: EncryptedDataKey
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """What a key store found when it used the key both ways just now.

    Attributes:
        state: ``UNKNOWN`` only when the store was too busy to try.
        cause: Why it is not available; empty when it is.
        note: What its holder should know of it all the same, such as a date on which it ends.
        ours: Whether our own credentials or settings alone are why it is not available.
        expires_at: When the key's material ends, if it does and that is known (UTC).
    """

    state: KeyState
    cause: str = ""
    note: str = ""
    ours: bool = False
    expires_at: datetime | None = None


class KeyStore(Protocol):
    """Holds customer keys and uses them; a key never leaves it.

    ``reference`` names a key inside the store (a file's name, a token object's label, an ARN). ``context`` is the
    encryption context, bound to the wrapped key as additional authenticated data. ``timeout`` is in seconds; a store
    that has not answered by then raises :class:`KeyUnreachable`, or :class:`KeyStoreThrottled` when the call was never
    started or nothing says that the store is unwell (``ours``, for the store has said nothing); the outcome of the
    operation in the store is then unknown.

    Every method raises only subclasses of :class:`ownkey_server.domain.errors.KeyStoreError`; a vendor's exception
    is chained as the cause. ``tests/contract/`` holds what every implementation must do.
    """

    @property
    def name(self) -> str:
        """The store's name in the settings; the replica's name in status and errors."""
        ...

    @property
    def counts_wraps(self) -> bool:
        """Whether a key may wrap only so often, as one must that wraps each time under itself with a random nonce."""
        ...

    async def generate_data_key(self, reference: str, context: Mapping[str, str], timeout: float) -> GeneratedDataKey:
        """Make 32 random bytes and wrap them, in the store where it can."""
        ...

    async def wrap(
        self, reference: str, data_key: SecretBytes, context: Mapping[str, str], timeout: float
    ) -> WrappedDataKey:
        """Wrap a data key that the caller has.

        Raises:
            ValueError: It has not 32 bytes.
        """
        ...

    async def unwrap(
        self, reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> UnwrappedDataKey:
        """The data key again; :class:`CiphertextInvalid` unless key, context and bytes are those of the wrap."""
        ...

    def recognizes(self, reference: str, wrapped: EncryptedDataKey) -> bool:
        """Whether the entry names exactly this key of this kind of store, judged by its provider fields alone."""
        ...

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        """Use the key both ways on throw-away bytes and say what happened. Never raises for the key's state."""
        ...

    async def close(self) -> None:
        """Let go of threads, sessions and handles. Idempotent; later calls raise :class:`KeyUnreachable`."""
        ...


@runtime_checkable
class TenantScoped(Protocol):
    """A key store that uses keys in each tenant's name: by credentials, and within bounds, of the tenant's own."""

    def for_tenant(self, tenant: str, *, background: bool = False) -> KeyStore:
        """The store as it serves one tenant; the provider when ``tenant`` is empty.

        Args:
            tenant: In whose name keys are used.
            background: Whether nobody waits for what is asked, so that it comes after all that somebody waits for.
        """
        ...


@runtime_checkable
class TenantProving(Protocol):
    """A key store whose keys can say whose they are: by refusing every context but their tenant's."""

    @property
    def wants_proof_of_tenant(self) -> bool:
        """Whether a key must do so to be enrolled, for nothing else says it."""
        ...

    def is_refusal_of_key(self, error: KeyStoreError) -> bool:
        """Whether an error of this store is that the key denied the call, as far as anybody can tell.

        Not so are an outage, a key that is gone, and what our own credentials, or a policy of our own side, may not do.
        """
        ...


@runtime_checkable
class Naming(Protocol):
    """A key store that can tell, without asking anybody, that there can be no key of a name in it."""

    def complaint(self, reference: str) -> str:
        """Why there can be none; empty when there can."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A key store that knows a key again which it has used, and uses no other by its name."""

    def forget(self, reference: str) -> None:
        """Let the key of that name be another from now on: whoever enrols it has just looked which one it is."""
        ...


@runtime_checkable
class ReWrapper(Protocol):
    """A key store that moves a wrapped data key from one of its keys to another, in clear nowhere else."""

    async def rewrap(
        self,
        source_reference: str,
        wrapped: EncryptedDataKey,
        source_context: Mapping[str, str],
        target_reference: str,
        target_context: Mapping[str, str],
        timeout: float,
    ) -> WrappedDataKey:
        """The data key, wrapped by the target key under its context.

        Raises:
            OperationUnsupported: The store cannot do it with these two keys: unwrap and wrap instead.
            KeyStoreError: Of the key that is at fault, as for :meth:`KeyStore.unwrap` and :meth:`KeyStore.wrap`.
        """
        ...


@runtime_checkable
class Checkable(Protocol):
    """A key store that can tell, without using a key, whether it can be opened."""

    async def check(self, timeout: float) -> None:
        """Open it as a use of a key would. For an operator who looks at it, before anybody needs a key.

        Raises:
            KeyStoreError: It cannot be opened; ``key`` is empty.
        """
        ...


@runtime_checkable
class KeyMaker(KeyStore, Protocol):
    """A key store in which keys can be made from here, by its holder."""

    async def create(self, reference: str) -> None:
        """Make a 256-bit AES key that never leaves the store. None is ever overwritten.

        Raises:
            KeyStoreError: It cannot be made, or there is one of that name.
        """
        ...
