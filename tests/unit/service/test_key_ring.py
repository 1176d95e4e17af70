from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from ownkey.container import EncryptedDataKey
from ownkey_server.domain import errors
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey
from ownkey_server.keystores.base import GeneratedDataKey, KeyDescription
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.status_board import StatusBoard

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
KEY = CustomerKey("tenants/acme/keys/main", "hsm", "acme-main")
BLOB = EncryptedDataKey("ownkey-pkcs11-kw", b"acme-main", bytes(72))


class Store:
    """A key store that fails to unwrap as a test says, and whose key is in the state that it says."""

    name = "hsm"

    def __init__(self, failure: type[errors.KeyStoreError], state: KeyState) -> None:
        self.failure = failure
        self.state = state
        self.timeouts: list[float] = []

    async def generate_data_key(self, reference: str, context: Mapping[str, str], timeout: float) -> GeneratedDataKey:
        self.timeouts.append(timeout)
        return GeneratedDataKey(SecretBytes(bytes(32)), BLOB)

    async def wrap(
        self, reference: str, data_key: SecretBytes, context: Mapping[str, str], timeout: float
    ) -> EncryptedDataKey:
        return BLOB

    async def unwrap(
        self, reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> SecretBytes:
        raise self.failure("hsm", reference, "as the test says")

    def recognizes(self, reference: str, wrapped: EncryptedDataKey) -> bool:
        return True

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        return KeyDescription(self.state, "" if self.state is KeyState.AVAILABLE else "described")

    async def close(self) -> None:
        pass


def ring(store: Store) -> tuple[KeyRing, StatusBoard]:
    board = StatusBoard(timedelta(seconds=60))
    board.saw(KEY.name, KeyState.AVAILABLE, "", NOW)
    return KeyRing({"hsm": store}, board, lambda: NOW, timedelta(seconds=5)), board


@pytest.mark.parametrize(
    "failure",
    [
        errors.KeyRevoked,
        errors.KeyMisconfigured,
        errors.OperationUnsupported,
        errors.CiphertextInvalid,
        errors.KeyStoreThrottled,
    ],
)
async def test_a_ciphertext_that_anybody_can_send_does_not_decide_a_key_s_state(
    failure: type[errors.KeyStoreError],
) -> None:
    keys, board = ring(Store(failure, KeyState.AVAILABLE))
    with pytest.raises(failure):
        await keys.unwrap(KEY, BLOB, {}, None)
    evidence = board.of(KEY.name, NOW)
    assert evidence is not None
    assert evidence.state is KeyState.AVAILABLE


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (errors.KeyRevoked, KeyState.REVOKED),
        (errors.KeyMisconfigured, KeyState.MISCONFIGURED),
        (errors.KeyUnreachable, KeyState.UNREACHABLE),
    ],
)
async def test_a_key_that_does_not_work_is_told_at_its_first_failed_use(
    failure: type[errors.KeyStoreError], state: KeyState
) -> None:
    keys, board = ring(Store(failure, state))
    with pytest.raises(failure):
        await keys.unwrap(KEY, BLOB, {}, None)
    evidence = board.of(KEY.name, NOW)
    assert evidence is not None
    assert evidence.state is state


@pytest.mark.parametrize(("remaining", "expected"), [(None, 5.0), (2.0, 2.0), (9.0, 5.0), (-1.0, 0.0)])
async def test_a_caller_s_shorter_deadline_counts(remaining: float | None, expected: float) -> None:
    store = Store(errors.KeyRevoked, KeyState.AVAILABLE)
    keys, _ = ring(store)
    await keys.generate(KEY, {}, remaining)
    assert store.timeouts == [expected]
