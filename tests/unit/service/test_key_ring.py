from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from ownkey.container import EncryptedDataKey
from ownkey_server.domain import errors
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey, KeyLifecycle, Replica
from ownkey_server.keystores.base import GeneratedDataKey, KeyDescription, UnwrappedDataKey, WrappedDataKey
from ownkey_server.service.key_budgets import KeyBudgets
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.status_board import StatusBoard

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
KEY = CustomerKey("tenants/acme/keys/main", (Replica("hsm", "acme-main"),))
BLOB = EncryptedDataKey("ownkey-pkcs11-kw", b"acme-main", bytes(72))


class Store:
    """A key store that fails to unwrap as a test says, and whose key is in the state that it says."""

    counts_wraps = True

    def __init__(
        self, failure: type[errors.KeyStoreError] | None, state: KeyState, name: str = "hsm", *, wraps: bool = True
    ) -> None:
        self.failure = failure
        self.state = state
        self.name = name
        self.wraps = wraps
        self.timeouts: list[float] = []
        self.described = 0

    async def generate_data_key(self, reference: str, context: Mapping[str, str], timeout: float) -> GeneratedDataKey:
        self.timeouts.append(timeout)
        if self.failure and not self.wraps:
            raise self.failure(self.name, reference, "as the test says")
        return GeneratedDataKey(SecretBytes(bytes(32)), BLOB)

    async def wrap(
        self, reference: str, data_key: SecretBytes, context: Mapping[str, str], timeout: float
    ) -> WrappedDataKey:
        return WrappedDataKey(BLOB)

    async def unwrap(
        self, reference: str, wrapped: EncryptedDataKey, context: Mapping[str, str], timeout: float
    ) -> UnwrappedDataKey:
        self.timeouts.append(timeout)
        if self.failure:
            raise self.failure(self.name, reference, "as the test says")
        return UnwrappedDataKey(SecretBytes(bytes(32)))

    def recognizes(self, reference: str, wrapped: EncryptedDataKey) -> bool:
        return True

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        self.described += 1
        return KeyDescription(self.state, "" if self.state is KeyState.AVAILABLE else "described")

    async def close(self) -> None:
        pass


def ring(store: Store) -> tuple[KeyRing, StatusBoard]:
    board = StatusBoard(timedelta(seconds=60))
    board.saw(KEY.name, "hsm", KeyState.AVAILABLE, "", NOW, began=board.moment)
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
    evidence = board.of(KEY, NOW)
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
    await looked_into()
    evidence = board.of(KEY, NOW)
    assert evidence is not None
    assert evidence.state is state


@pytest.mark.parametrize(("remaining", "expected"), [(None, 5.0), (2.0, 2.0), (9.0, 5.0), (-1.0, 0.0)])
async def test_a_caller_s_shorter_deadline_counts(remaining: float | None, expected: float) -> None:
    store = Store(errors.KeyRevoked, KeyState.AVAILABLE)
    keys, _ = ring(store)
    await keys.generate(KEY, {}, remaining)
    assert store.timeouts == [expected]


async def looked_into() -> None:
    """What one failed call has shown is asked about meanwhile."""
    for _ in range(5):
        await asyncio.sleep(0)


CLUSTER = CustomerKey("tenants/acme/keys/main", (Replica("one", "acme-main"), Replica("two", "acme-main")))


def cluster(one: Store, two: Store) -> tuple[KeyRing, StatusBoard]:
    board = StatusBoard(timedelta(seconds=60))
    return KeyRing({"one": one, "two": two}, board, lambda: NOW, timedelta(seconds=5)), board


@pytest.mark.parametrize("outage", [errors.KeyUnreachable, errors.KeyStoreThrottled, errors.KeyMisconfigured])
async def test_the_next_replica_serves_while_one_is_out_of_order(outage: type[errors.KeyStoreError]) -> None:
    one = Store(outage, KeyState.UNREACHABLE, "one", wraps=False)
    two = Store(None, KeyState.AVAILABLE, "two")
    keys, board = cluster(one, two)
    assert (await keys.generate(CLUSTER, {}, None)).replica == "two"
    assert (await keys.unwrap(CLUSTER, BLOB, {}, None)).replica == "two"
    await asyncio.sleep(0)  # what a denial is about is asked meanwhile
    evidence = board.of(CLUSTER, NOW)
    assert evidence is not None
    expected = KeyState.AVAILABLE if outage is errors.KeyStoreThrottled else KeyState.DEGRADED
    assert (evidence.state, evidence.state.usable) == (expected, True)


async def test_nobody_goes_around_a_revocation() -> None:
    one, two = Store(errors.KeyRevoked, KeyState.REVOKED, "one", wraps=False), Store(None, KeyState.AVAILABLE, "two")
    keys, board = cluster(one, two)
    for use in (keys.generate(CLUSTER, {}, None), keys.unwrap(CLUSTER, BLOB, {}, None)):
        with pytest.raises(errors.KeyRevoked):
            await use
    assert two.timeouts == []
    evidence = board.of(CLUSTER, NOW)
    assert evidence is not None
    assert evidence.state is KeyState.REVOKED


async def test_when_no_replica_serves_the_first_one_s_error_is_told() -> None:
    one = Store(errors.KeyUnreachable, KeyState.UNREACHABLE, "one", wraps=False)
    two = Store(errors.KeyMisconfigured, KeyState.MISCONFIGURED, "two", wraps=False)
    keys, board = cluster(one, two)
    with pytest.raises(errors.KeyUnreachable) as caught:
        await keys.generate(CLUSTER, {}, None)
    assert caught.value.replica == "one"
    await looked_into()
    evidence = board.of(CLUSTER, NOW)
    assert evidence is not None
    assert evidence.state is KeyState.UNREACHABLE


@pytest.mark.parametrize("lifecycle", [KeyLifecycle.ENROLLED, KeyLifecycle.RETIRED])
async def test_a_key_that_is_not_active_wraps_nothing(lifecycle: KeyLifecycle) -> None:
    store = Store(None, KeyState.AVAILABLE)
    keys, _ = ring(store)
    with pytest.raises(errors.KeyMisconfigured, match=f"it is {lifecycle}, and wraps nothing"):
        await keys.generate(CustomerKey(KEY.name, KEY.replicas, lifecycle), {}, None)
    assert store.timeouts == []


async def test_a_replica_in_a_store_that_the_settings_lack_is_misconfigured_and_the_next_serves() -> None:
    board = StatusBoard(timedelta(seconds=60))
    keys = KeyRing({"two": Store(None, KeyState.AVAILABLE, "two")}, board, lambda: NOW, timedelta(seconds=5))
    assert (await keys.generate(CLUSTER, {}, None)).replica == "two"
    await keys.probe(CLUSTER)
    evidence = board.of(CLUSTER, NOW)
    assert evidence is not None
    assert evidence.state is KeyState.DEGRADED
    assert "one is misconfigured" in evidence.cause


@pytest.mark.parametrize("failure", [errors.KeyRevoked, errors.KeyMisconfigured, errors.OperationUnsupported])
async def test_a_key_taken_away_for_one_class_alone_is_not_told_as_taken_away(
    failure: type[errors.KeyStoreError],
) -> None:
    keys, board = ring(Store(failure, KeyState.AVAILABLE, wraps=False))
    with pytest.raises(failure):
        await keys.generate(KEY, {"ownkey:asset-class": "phone_mms"}, None)
    evidence = board.of(KEY, NOW)
    assert evidence is not None
    assert evidence.state is KeyState.AVAILABLE


async def test_a_storm_of_denials_costs_one_look_at_the_key() -> None:
    store = Store(errors.KeyRevoked, KeyState.REVOKED, wraps=False)
    keys, board = ring(store)
    uses = await asyncio.gather(*(keys.generate(KEY, {}, None) for _ in range(200)), return_exceptions=True)
    assert {type(one) for one in uses} == {errors.KeyRevoked}
    assert store.described == 1
    evidence = board.of(KEY, NOW)
    assert evidence is not None
    assert evidence.state is KeyState.REVOKED
    await keys.close()


class Scoped(Store):
    """A key store that says in whose name, and how urgently, it was asked."""

    def __init__(self) -> None:
        super().__init__(None, KeyState.AVAILABLE)
        self.asked: list[tuple[str, bool]] = []

    def for_tenant(self, tenant: str, *, background: bool = False) -> Store:
        self.asked.append((tenant, background))
        return self


@pytest.mark.parametrize("background", [False, True])
async def test_what_nobody_waits_for_reaches_the_key_store_as_that(background: bool) -> None:
    store = Scoped()
    keys, _ = ring(store)
    await keys.generate(KEY, {}, None, background=background)
    await keys.unwrap(KEY, BLOB, {}, None, background=background)
    assert store.asked == [("acme", background)] * 2


async def test_a_probe_is_background_work_and_a_look_after_a_denial_is_not() -> None:
    store = Scoped()
    keys, _ = ring(store)
    await keys.probe(KEY)
    assert store.asked == [("acme", True)]
    store.failure = errors.KeyRevoked
    with pytest.raises(errors.KeyRevoked):
        await keys.unwrap(KEY, BLOB, {}, None)
    await keys.close()
    assert store.asked[1:] == [("acme", False)] * 2


class Noting(Store):
    note = ""

    async def describe(self, reference: str, timeout: float) -> KeyDescription:
        return KeyDescription(self.state, note=self.note)


async def test_what_a_holder_should_know_is_kept_until_a_probe_says_otherwise() -> None:
    store = Noting(None, KeyState.AVAILABLE)
    keys, board = ring(store)
    store.note = "it ends on Friday"
    await keys.probe(KEY)
    await keys.generate(KEY, {}, None)
    assert board.note_of(KEY.name, "hsm") == "it ends on Friday"
    store.note, store.state = "", KeyState.UNKNOWN
    await keys.probe(KEY)
    assert board.note_of(KEY.name, "hsm") == "it ends on Friday"
    store.state = KeyState.AVAILABLE
    await keys.probe(KEY)
    assert board.note_of(KEY.name, "hsm") == ""


@pytest.mark.parametrize("counts", [True, False])
async def test_only_keys_that_wrap_under_themselves_are_counted(counts: bool) -> None:
    store = Store(None, KeyState.AVAILABLE)
    store.counts_wraps = counts
    reserved: list[str] = []

    def reserve(name: str, block: int, limit: int) -> int:
        reserved.append(name)
        return block

    with ThreadPoolExecutor(1) as executor:
        board = StatusBoard(timedelta(seconds=60))
        budgets = KeyBudgets(reserve, executor)
        keys = KeyRing({"hsm": store}, board, lambda: NOW, timedelta(seconds=5), budgets)
        await keys.generate(KEY, {}, None)
        await keys.probe(KEY)
    assert reserved == ([KEY.name, f"probes of {KEY.name}"] if counts else [])
