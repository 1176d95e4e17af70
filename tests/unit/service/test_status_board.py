from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ownkey_server.domain import errors
from ownkey_server.domain.key_history import EvidenceKind
from ownkey_server.domain.key_state import STATE_OF_ERROR, KeyEvidence, KeyState
from ownkey_server.domain.tenants import CustomerKey, Replica
from ownkey_server.service.status_board import StatusBoard

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
KEY = CustomerKey("key", (Replica("store", "reference"),))


def subclasses(kind: type[Exception]) -> set[type[Exception]]:
    return {kind} | {grandchild for child in kind.__subclasses__() for grandchild in subclasses(child)}


def test_every_error_of_a_key_store_has_its_say_about_the_state() -> None:
    ours = {one for one in subclasses(errors.KeyStoreError) if one.__module__ == errors.__name__}
    assert set(STATE_OF_ERROR) == ours - {errors.KeyStoreError}


@pytest.mark.parametrize("error", [errors.CiphertextInvalid, errors.KeyStoreThrottled])
@pytest.mark.parametrize("before", [None, KeyState.AVAILABLE, KeyState.REVOKED, KeyState.UNREACHABLE])
def test_a_forged_ciphertext_or_a_busy_moment_never_changes_a_state(
    error: type[errors.KeyStoreError], before: KeyState | None
) -> None:
    board = StatusBoard(timedelta(seconds=60))
    if before:
        board.saw("key", "store", before, "", NOW, began=board.moment)
    evidence = board.of(KEY, NOW)
    board.saw_error("key", error("store", "key", "because"), NOW + timedelta(seconds=1))
    assert board.of(KEY, NOW) == evidence


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (errors.KeyRevoked, KeyState.REVOKED),
        (errors.KeyUnreachable, KeyState.UNREACHABLE),
        (errors.KeyMisconfigured, KeyState.MISCONFIGURED),
        (errors.StoreMisconfigured, KeyState.MISCONFIGURED),
    ],
)
def test_an_outage_is_never_told_as_a_revocation_nor_the_reverse(
    error: type[errors.KeyStoreError], state: KeyState
) -> None:
    board = StatusBoard(timedelta(seconds=60))
    for kind in EvidenceKind.TRAFFIC, EvidenceKind.PROBE:  # an outage needs two
        board.saw_error("key", error("store", "key", "because"), NOW, kind)
    assert board.of(KEY, NOW) == KeyEvidence(state, "because", NOW, ours=error is errors.StoreMisconfigured)


def test_old_evidence_makes_a_state_unknown_and_says_what_it_was() -> None:
    board = StatusBoard(timedelta(seconds=60))
    board.saw("key", "store", KeyState.AVAILABLE, "", NOW, began=board.moment)
    assert board.of(KEY, NOW + timedelta(seconds=60)) == KeyEvidence(KeyState.AVAILABLE, "", NOW)
    evidence = board.of(KEY, NOW + timedelta(seconds=61))
    assert evidence is not None
    assert (evidence.state, evidence.observed_at) == (KeyState.UNKNOWN, NOW)
    assert "available" in evidence.cause


def test_every_change_of_state_is_logged_once_however_it_was_seen(caplog: pytest.LogCaptureFixture) -> None:
    board = StatusBoard(timedelta(seconds=60))
    with caplog.at_level("INFO"):
        board.saw("key", "store", KeyState.AVAILABLE, "", NOW, began=board.moment)
        board.saw("key", "store", KeyState.AVAILABLE, "", NOW, began=board.moment)
        for _ in range(3):
            board.saw_error("key", errors.KeyRevoked("store", "reference", "it was disabled"), NOW)
    assert [(one.levelname, one.message) for one in caplog.records] == [
        ("INFO", "key key is available in store"),
        ("WARNING", "key key is revoked in store: it was disabled"),
    ]


def test_a_use_that_began_before_a_revocation_was_seen_does_not_undo_it() -> None:
    board = StatusBoard(timedelta(seconds=60))
    began = board.moment
    board.saw("key", "store", KeyState.REVOKED, "disabled", NOW, began=began)
    board.saw("key", "store", KeyState.AVAILABLE, "", NOW, began=began)
    assert board.of(KEY, NOW) == KeyEvidence(KeyState.REVOKED, "disabled", NOW)
    assert board.was_revoked("key", "store")
    began = board.moment
    board.suspect("key", "store", NOW)  # once more, and what began between the two undoes neither
    board.saw("key", "store", KeyState.AVAILABLE, "", NOW, began=began)
    assert board.was_revoked("key", "store")
    board.saw("key", "store", KeyState.AVAILABLE, "", NOW, began=board.moment)
    assert not board.was_revoked("key", "store")
    assert board.of(KEY, NOW) == KeyEvidence(KeyState.AVAILABLE, "", NOW)
