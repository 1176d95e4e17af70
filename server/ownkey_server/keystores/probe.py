"""What all key stores do alike: describe a key by using it both ways, and refuse what could never be opened again.

A description that only wraps would miss a right to unwrap that was withdrawn.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from ownkey_server.domain.errors import CiphertextInvalid, KeyStoreError, StoreMisconfigured
from ownkey_server.domain.key_state import STATE_OF_ERROR, KeyState
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.keystores.base import DATA_KEY_LENGTH, KeyDescription, KeyStore

PROBE_CONTEXT = {"ownkey:probe": "describe"}


async def use_both_ways(
    store: KeyStore, reference: str, timeout: float, context: Mapping[str, str] = PROBE_CONTEXT
) -> KeyDescription:
    """Wrap and unwrap throw-away bytes under ``context``, and say what happened.

    ``UNKNOWN`` means that the store was too busy to try.
    """
    deadline = time.monotonic() + timeout
    try:
        made = await store.generate_data_key(reference, context, timeout)
        opened = await store.unwrap(reference, made.wrapped, context, max(0.0, deadline - time.monotonic()))
    except CiphertextInvalid:
        return KeyDescription(KeyState.MISCONFIGURED, "it does not open what it has just wrapped")
    except KeyStoreError as error:
        state = STATE_OF_ERROR[type(error)] or KeyState.UNKNOWN
        return KeyDescription(state, error.cause, ours=isinstance(error, StoreMisconfigured))
    if opened.plaintext.reveal() != made.plaintext.reveal():
        return KeyDescription(KeyState.MISCONFIGURED, "it opens what it has just wrapped to other bytes")
    return KeyDescription(KeyState.AVAILABLE)


def require_data_key(data_key: SecretBytes) -> None:
    """Refuse to wrap what is not a data key: no key store would open it again.

    Raises:
        ValueError: It has not 32 bytes.
    """
    if len(data_key) != DATA_KEY_LENGTH:
        raise ValueError(f"a data key has {DATA_KEY_LENGTH} bytes, not {len(data_key)}")
