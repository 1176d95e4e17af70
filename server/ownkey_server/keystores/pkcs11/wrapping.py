"""Wrapping 32 bytes under a key in a token, in one of three ways: what the bytes are is public (docs/key-stores.md).

How a token is asked for it is the profile's: what it calls the mechanism, who makes an IV, which functions it takes.
"""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import EncryptedDataInvalid

from ownkey.container import EncryptedDataKey, raw_aes_provider_info
from ownkey.container.raw_aes import IV_LENGTH, TAG_LENGTH
from ownkey_server.keystores.base import DATA_KEY_LENGTH
from ownkey_server.keystores.pkcs11.profiles import GcmIv, KeyWrapBy, Profile
from ownkey_server.keystores.pkcs11.ways import LENGTH_OF, PROVIDER_ID_OF, SECRET_LENGTH, Way


class TokenUnsuitable(Exception):
    """The token does not do what the way is. The message says what it did instead, and what helps."""


# CK_GCM_PARAMS, which the binding has for our own IVs alone: IV, its bytes, its bits, AAD, its bytes, the tag's bits.
_GCM_PARAMETERS = struct.Struct("@PLLPLL")
_Iv = ctypes.c_char * IV_LENGTH


def rights(way: Way, profile: Profile) -> tuple[Attribute, Attribute]:
    """Which two rights of a key the way takes."""
    if way is Way.GCM or profile.key_wrap_by is KeyWrapBy.ENCRYPT:
        return Attribute.ENCRYPT, Attribute.DECRYPT
    return Attribute.WRAP, Attribute.UNWRAP


class Wrapping:
    """A way to wrap, in a token of a family.

    Args:
        way: Which.
        mechanism: What the token calls it.
        profile: The family.
        session: The session, for the secrets that key wrap by objects takes.
        random: Random bytes of the token.
    """

    def __init__(
        self, way: Way, mechanism: Mechanism, profile: Profile, session: Any, random: Callable[[int], bytes]
    ) -> None:
        self.way = way
        self._mechanism = mechanism
        self._profile = profile
        self._session = session
        self._random = random

    def wrap(self, kek: Any, reference: str, data_key: bytes | bytearray, aad: bytes) -> EncryptedDataKey:
        """Wrap a data key (32 bytes), bound to the serialized context.

        Raises:
            TokenUnsuitable: What came of it is nothing that could be opened again.
        """
        if self.way is Way.GCM:
            iv, wrapped = self._encrypt_gcm(kek, data_key, aad)
            info = raw_aes_provider_info(reference, iv)
        else:
            wrapped = self._key_wrap(kek, bytes(data_key) + hashlib.sha256(aad).digest())
            info = reference.encode()
        provider_id = PROVIDER_ID_OF[self.way]
        length = LENGTH_OF[provider_id]
        if len(wrapped) != length:
            raise TokenUnsuitable(
                f"by {self._mechanism.name} the token makes {len(wrapped)} bytes and not {length}, which nobody could"
                f" open: set another mechanism, or the profile of the token (now {self._profile.name})"
            )
        return EncryptedDataKey(provider_id, info, wrapped)

    def unwrap(self, kek: Any, wrapped: EncryptedDataKey, aad: bytes) -> bytearray:
        """The data key again.

        Raises:
            EncryptedDataInvalid: It was opened, and the context is another; tokens raise this and other things for
                anything else that is wrong with the bytes.
        """
        if self.way is Way.GCM:
            parameters, *_kept = _gcm_parameters(wrapped.provider_info[-IV_LENGTH:], aad)
            opened = kek.decrypt(wrapped.ciphertext, mechanism=self._mechanism, mechanism_param=parameters)
            return bytearray(opened)
        both = self._key_unwrap(kek, wrapped.ciphertext)
        right = hmac.compare_digest(both[DATA_KEY_LENGTH:], hashlib.sha256(aad).digest())
        if not right or len(both) != SECRET_LENGTH:
            raise EncryptedDataInvalid
        return both[:DATA_KEY_LENGTH]

    def _encrypt_gcm(self, kek: Any, data_key: bytes | bytearray, aad: bytes) -> tuple[bytes, bytes]:
        ours = self._profile.gcm_iv is GcmIv.OURS
        parameters, iv, _kept = _gcm_parameters(self._random(IV_LENGTH) if ours else bytes(IV_LENGTH), aad)
        wrapped = kek.encrypt(bytes(data_key), mechanism=self._mechanism, mechanism_param=parameters)
        if not (ours or any(iv.raw)):
            # A second one would break the key.
            raise TokenUnsuitable(
                f"the token has written no IV of its own, as by its profile ({self._profile.name}) it does"
            )
        return iv.raw, bytes(wrapped)

    def _key_wrap(self, kek: Any, secret: bytes) -> bytes:
        if self._profile.key_wrap_by is KeyWrapBy.ENCRYPT:
            return bytes(kek.encrypt(secret, mechanism=self._mechanism))
        template = {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
            Attribute.VALUE: secret,
            Attribute.TOKEN: False,
            Attribute.SENSITIVE: False,
            Attribute.EXTRACTABLE: True,
        }
        passenger = self._session.create_object(template)
        try:
            return bytes(kek.wrap_key(passenger, mechanism=self._mechanism))
        finally:
            passenger.destroy()

    def _key_unwrap(self, kek: Any, wrapped: bytes) -> bytearray:
        if self._profile.key_wrap_by is KeyWrapBy.ENCRYPT:
            return bytearray(kek.decrypt(wrapped, mechanism=self._mechanism))
        template: dict[Attribute, Any] = {
            Attribute.TOKEN: False,
            Attribute.SENSITIVE: False,
            Attribute.EXTRACTABLE: True,
        }
        if self._profile.unwrap_wants_length:
            template[Attribute.VALUE_LEN] = SECRET_LENGTH
        passenger = kek.unwrap_key(
            ObjectClass.SECRET_KEY, KeyType.GENERIC_SECRET, wrapped, mechanism=self._mechanism, template=template
        )
        try:
            return bytearray(passenger[Attribute.VALUE])
        finally:
            passenger.destroy()


def _gcm_parameters(iv: bytes, aad: bytes) -> tuple[bytes, Any, Any]:
    """The parameters as the token reads them, and what they point to and must be kept until it has: IV and AAD."""
    iv_buffer, aad_buffer = _Iv.from_buffer_copy(iv), ctypes.create_string_buffer(aad, len(aad))
    iv_at, aad_at = ctypes.addressof(iv_buffer), ctypes.addressof(aad_buffer)
    parameters = _GCM_PARAMETERS.pack(iv_at, IV_LENGTH, IV_LENGTH * 8, aad_at, len(aad), TAG_LENGTH * 8)
    return parameters, iv_buffer, aad_buffer
