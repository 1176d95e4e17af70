"""Proof that a key works, and that keys in several tokens are the same: each opens what the others wrapped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ownkey.container import EncryptedDataKey
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.keystores.pkcs11.ways import WAY_OF
from ownkey_server.keystores.pkcs11.wrapping import rights

if TYPE_CHECKING:
    from ownkey_server.hsm.bench import Bench

_AAD = b"ownkey: proof of a key"
# What the entry calls the key: pending ones are tried too.
_REFERENCE = "proof"


@dataclass(frozen=True, slots=True)
class WrapProbe:
    """Wrap throw-away bytes under a key, by the label that it has now, as the key store would."""

    label: str
    probe: bytes = field(repr=False)

    def run(self, bench: Bench) -> EncryptedDataKey:
        """Wrap them."""
        key = bench.key(self.label)
        for way in bench.profile.order:
            if way in bench.ways and all(key[right] for right in rights(way, bench.profile)):
                return bench.ways[way].wrap(key, _REFERENCE, self.probe, _AAD)
        raise HsmError("the key may not both wrap and open", Trouble.UNFIT)


@dataclass(frozen=True, slots=True)
class OpenProbe:
    """Open what a key with this label wrapped, here or in another token."""

    label: str
    wrapped: EncryptedDataKey

    def run(self, bench: Bench) -> bytes:
        """Open it."""
        key, way = bench.key(self.label), WAY_OF[self.wrapped.provider_id]
        if way not in bench.ways or not key[rights(way, bench.profile)[1]]:
            raise HsmError(f"token and key do not both open by {way.value}", Trouble.UNFIT)
        return bytes(bench.ways[way].unwrap(key, self.wrapped, _AAD))
