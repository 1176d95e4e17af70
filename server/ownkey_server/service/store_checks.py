"""Whether key stores can be opened: told at the start, where somebody looks, and not when a key is first needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.keystores.base import Checkable, KeyStore

_log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0


async def found_wrong(stores: Mapping[str, Checkable]) -> dict[str, KeyStoreError | None]:
    """What is wrong with each of them; None for nothing. All are looked at at once."""

    async def look(store: Checkable) -> KeyStoreError | None:
        try:
            await store.check(TIMEOUT_SECONDS)
        except KeyStoreError as error:
            return error
        return None

    return dict(zip(stores, await asyncio.gather(*(look(one) for one in stores.values())), strict=True))


async def warn_of_unusable(stores: Mapping[str, KeyStore]) -> None:
    """Log each key store that cannot be opened. The server serves all the same: others can."""
    looked_at = {name: store for name, store in stores.items() if isinstance(store, Checkable)}
    for name, error in (await found_wrong(looked_at)).items():
        if error:
            _log.warning(
                "key store %r cannot be opened: %s; what needs it fails until it can (ownkey keystore check)",
                name,
                error.cause,
            )
