"""What of a channel is secret, at rest: encrypted under a data key of its own, which the provider's key wraps.

So nothing more has to be kept secret than there was before, every instance can open it, and whoever has the database
alone cannot. What was opened stays in memory for as long as the process delivers by it.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ownkey.container import ContainerError
from ownkey.wrapped_key import WrappedKey
from ownkey_server.domain.audit import SERVER, Action, AuditRecord, Result
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import CiphertextInvalid, OwnkeyError
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.directory import Directory
from ownkey_server.service.key_ring import KeyRing

CHANNEL = "ownkey:notification-channel"
_VERSION = 1
_NONCE = 12
_HEAD = struct.Struct(">BI")
_KEPT = 2000


class Sealer:
    """Encrypts and opens channels' secrets."""

    def __init__(self, ring: KeyRing, directory: Directory, audit: AuditLog, clock: Clock) -> None:
        self._ring = ring
        self._directory = directory
        self._audit = audit
        self._clock = clock
        self._opened: OrderedDict[tuple[str, bytes], SecretBytes] = OrderedDict()

    async def seal(self, channel: str, secret: bytes) -> bytes:
        """Encrypt a secret of a channel.

        Raises:
            KeyStoreError: The provider's key cannot be used.
        """
        key = self._directory.provider_key
        use = await self._ring.generate(key, {CHANNEL: channel}, None)
        plaintext = use.value.plaintext
        try:
            wrapped = WrappedKey(key.name, (use.value.wrapped,)).to_bytes()
            nonce = os.urandom(_NONCE)
            sealed = AESGCM(bytes(plaintext.reveal())).encrypt(nonce, secret, _bound(channel))
        finally:
            plaintext.wipe()
        return _HEAD.pack(_VERSION, len(wrapped)) + wrapped + nonce + sealed

    async def open(self, channel: str, tenant: str, sealed: bytes) -> SecretBytes:
        """A channel's secret again. Whoever asks does not wipe it: it is kept here.

        Raises:
            KeyStoreError: The provider's key cannot be used, or what is kept was changed.
        """
        known = self._opened.get((channel, sealed))
        if known is not None:
            self._opened.move_to_end((channel, sealed))
            return known
        try:
            secret = await self._open(channel, sealed)
        except OwnkeyError as error:
            self._note(channel, tenant, Result.REFUSED if error.refusal else Result.FAILED, error.reason)
            raise
        self._note(channel, tenant, Result.OK, "")
        self._opened[channel, sealed] = secret
        while len(self._opened) > _KEPT:
            self._opened.popitem(last=False)[1].wipe()
        return secret

    async def _open(self, channel: str, sealed: bytes) -> SecretBytes:
        key = self._directory.provider_key
        changed = CiphertextInvalid(key.primary.name, key.primary.reference, "the channel's secret was changed")
        try:
            version, length = _HEAD.unpack_from(sealed)
            at = _HEAD.size + length
            entry = WrappedKey.from_bytes(sealed[_HEAD.size : at]).encrypted_data_keys[0]
        except (struct.error, ContainerError, IndexError):
            raise changed from None
        if version != _VERSION:
            raise changed
        use = await self._ring.unwrap(key, entry, {CHANNEL: channel}, None, background=True)
        try:
            cipher = AESGCM(bytes(use.value.plaintext.reveal()))
            return SecretBytes(cipher.decrypt(sealed[at : at + _NONCE], sealed[at + _NONCE :], _bound(channel)))
        except (InvalidTag, ValueError):
            raise changed from None
        finally:
            use.value.plaintext.wipe()

    def _note(self, channel: str, tenant: str, result: Result, reason: str) -> None:
        key = self._directory.provider_key
        self._audit.note(
            AuditRecord(
                time=self._clock(),
                action=Action.OPEN_CHANNEL_SECRET,
                result=result,
                caller=SERVER,
                reason=reason,
                tenant=tenant,
                key=key.name,
                detail={"channel": channel},
            )
        )


def _bound(channel: str) -> bytes:
    return b"ownkey notification channel\x00" + channel.encode()
