"""What can go wrong, in the words of this product. ``rpc/errors.py`` alone turns these into gRPC statuses.

::

    OwnkeyError
    ├── InvalidRequest             the caller must change the request
    ├── TenantNotFound
    ├── KeyNotFound                no such key, or none of this tenant's keys made this ciphertext
    ├── PolicyDenied               the tenant's policy says no
    ├── AssetMismatch              the ciphertext is another asset's than the one named
    └── KeyStoreError              a customer key could not be used
        ├── KeyRevoked             a deliberate act of the key's holder
        ├── KeyUnreachable         an outage: nobody decided anything
        ├── KeyStoreThrottled      too busy at the moment
        ├── KeyMisconfigured       it never worked, or our own permission is at fault
        ├── CiphertextInvalid      not made by this key under this context, or changed since
        └── OperationUnsupported   this key store or token cannot do that
"""

from __future__ import annotations


class OwnkeyError(Exception):
    """Root of all errors that a caller may see. The message never holds a secret."""


class InvalidRequest(OwnkeyError):
    """A value of the request is wrong.

    Attributes:
        field: Path of the field in the request message, such as ``asset.asset_id``; empty for the message as a whole.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}" if field else description)
        self.field = field
        self.description = description


class TenantNotFound(OwnkeyError):
    """No tenant of that id is known here."""

    def __init__(self, tenant: str) -> None:
        super().__init__(f"tenant {tenant!r} is not known to this server")
        self.tenant = tenant


class KeyNotFound(OwnkeyError):
    """The tenant has no such key, or no key of the tenant made the given ciphertext."""

    def __init__(self, tenant: str, what: str) -> None:
        super().__init__(f"tenant {tenant!r}: {what}")
        self.tenant = tenant


class PolicyDenied(OwnkeyError):
    """The tenant's policy denies this asset.

    Attributes:
        rule: Name of the rule that decided.
    """

    def __init__(self, tenant: str, rule: str, explanation: str) -> None:
        super().__init__(f"policy of tenant {tenant!r} denies this asset: {explanation}")
        self.tenant = tenant
        self.rule = rule


class AssetMismatch(OwnkeyError):
    """The ciphertext belongs to another asset than the one that the request names."""

    def __init__(self, tenant: str, pair: str) -> None:
        super().__init__(f"this is not the asset that the request names: the pair {pair!r} of its context differs")
        self.tenant = tenant
        self.pair = pair


class KeyStoreError(OwnkeyError):
    """A customer key could not be used.

    Args:
        replica: Name of the key store concerned, as in the settings.
        key: The key's reference in that store (a label, a file name, an ARN).
        cause: What was observed, in a few words, without secrets and without vendor text.
    """

    def __init__(self, replica: str, key: str, cause: str) -> None:
        super().__init__(f"key store {replica!r}, key {key!r}: {cause}")
        self.replica = replica
        self.key = key
        self.cause = cause


class KeyRevoked(KeyStoreError):
    """The holder of the key took it away: disabled it, destroyed it, or withdrew the right to use it."""


class KeyUnreachable(KeyStoreError):
    """The key store does not answer, or its token is absent. Nobody decided anything."""


class KeyStoreThrottled(KeyStoreError):
    """The key store works but is too busy to take this call now."""


class KeyMisconfigured(KeyStoreError):
    """The key never worked, or our own credentials or permissions are at fault."""


class CiphertextInvalid(KeyStoreError):
    """Wrong key, wrong context or changed bytes: one answer for all three, so that it is no oracle.

    It says nothing about the key's state: a forged ciphertext is not an outage.
    """


class OperationUnsupported(KeyStoreError):
    """The key store or token cannot do what was asked, whatever its state."""
