"""What a token's answers mean, in the light of what was seen before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from pkcs11 import exceptions as p11

from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    OperationUnsupported,
)
from ownkey_server.keystores.pkcs11.answers import Answers
from ownkey_server.keystores.pkcs11.module import LoadedModule, ModuleMissing
from ownkey_server.keystores.pkcs11.profiles import GENERIC, built_in
from ownkey_server.keystores.pkcs11.tokens import (
    KeyUnfit,
    LoginSpent,
    MechanismUnusable,
    NoKey,
    Pkcs11Token,
    RightsMissing,
)
from ownkey_server.keystores.pkcs11.ways import GCM_PROVIDER_ID, KEY_WRAP_PROVIDER_ID

KEY = "acme-main"


class World:
    """A token that has a serial number, a module that has a generation, and the answers read in their light."""

    def __init__(self) -> None:
        self.token = SimpleNamespace(serial=b"first", profile=built_in()[GENERIC])
        self.module = SimpleNamespace(generation=0, rests_for=0.0)
        self.now = 1000.0
        token, module = cast("Pkcs11Token", self.token), cast("LoadedModule", self.module)
        self.answers = Answers("hsm", "acme", token, module, lambda: self.now)

    def look_anew(self, seconds_later: float = 1.0) -> None:
        self.module.generation += 1
        self.now += seconds_later

    def meaning(self, error: Exception, doubtful: str = "") -> type[KeyStoreError]:
        return type(self.answers.meaning(KEY, error, doubtful))


@pytest.fixture
def fresh() -> World:
    return World()


@pytest.fixture
def worked(fresh: World) -> World:
    fresh.answers.note_success(KEY, GCM_PROVIDER_ID)
    return fresh


def test_a_key_that_never_worked_is_misconfigured_not_revoked(fresh: World) -> None:
    assert fresh.meaning(NoKey()) is KeyMisconfigured
    assert fresh.meaning(RightsMissing("none")) is KeyMisconfigured


def test_a_key_is_gone_only_when_it_is_missing_before_and_after_a_look_anew(worked: World) -> None:
    assert worked.meaning(NoKey()) is KeyStoreThrottled
    worked.now += 1.0
    assert worked.meaning(NoKey()) is KeyStoreThrottled
    worked.look_anew()
    assert worked.meaning(NoKey()) is KeyRevoked


def test_a_token_in_the_midst_of_being_deleted_is_not_a_revocation(worked: World) -> None:
    worked.answers.note_failure(KEY, NoKey())
    worked.look_anew(seconds_later=0.01)
    assert worked.meaning(NoKey()) is KeyStoreThrottled


def test_a_key_seen_again_must_be_missed_twice_anew(worked: World) -> None:
    worked.answers.note_failure(KEY, NoKey())
    worked.look_anew()
    worked.answers.note_success(KEY, GCM_PROVIDER_ID)
    assert worked.meaning(NoKey()) is KeyStoreThrottled


def test_it_is_told_how_long_a_missing_key_must_be_missing(worked: World) -> None:
    assert worked.answers.unsettled(KEY) == 0
    worked.answers.note_failure(KEY, NoKey())
    worked.look_anew(seconds_later=0.2)
    assert worked.answers.unsettled(KEY) == pytest.approx(0.3)
    worked.now += 0.3
    assert worked.answers.unsettled(KEY) == 0
    assert worked.meaning(NoKey()) is KeyRevoked


def test_a_missing_key_waits_for_the_module_to_start_anew(worked: World) -> None:
    worked.answers.note_failure(KEY, NoKey())
    worked.module.rests_for = 0.9
    assert worked.answers.unsettled(KEY) == pytest.approx(0.9)
    worked.look_anew(seconds_later=0.1)
    assert worked.answers.unsettled(KEY) == pytest.approx(0.4)


def test_nothing_is_waited_for_of_a_key_that_is_there_again_or_never_was(worked: World, fresh: World) -> None:
    worked.answers.note_failure(KEY, NoKey())
    worked.answers.note_success(KEY, GCM_PROVIDER_ID)
    assert worked.answers.unsettled(KEY) == 0
    never = World()
    never.answers.note_failure(KEY, NoKey())
    assert never.answers.unsettled(KEY) == 0


def test_another_failure_is_not_a_first_miss(worked: World) -> None:
    worked.answers.note_failure(KEY, p11.GeneralError())
    worked.look_anew()
    assert worked.meaning(NoKey()) is KeyStoreThrottled


def test_a_token_initialized_anew_is_not_a_revocation(worked: World) -> None:
    worked.answers.note_failure(KEY, NoKey())
    worked.look_anew()
    worked.token.serial = b"second"
    assert worked.meaning(NoKey()) is KeyMisconfigured
    assert worked.meaning(RightsMissing("none")) is KeyMisconfigured


def test_rights_withdrawn_are_a_revocation(worked: World) -> None:
    assert worked.meaning(RightsMissing("none")) is KeyRevoked


def test_a_way_that_the_key_has_gone_and_may_not_go_any_more_is_revoked(worked: World) -> None:
    assert worked.meaning(MechanismUnusable("no"), GCM_PROVIDER_ID) is KeyRevoked


def test_a_way_that_the_key_never_went_is_only_an_invalid_ciphertext(worked: World, fresh: World) -> None:
    assert worked.meaning(MechanismUnusable("no"), KEY_WRAP_PROVIDER_ID) is CiphertextInvalid
    assert World().meaning(MechanismUnusable("no"), GCM_PROVIDER_ID) is CiphertextInvalid


@pytest.mark.parametrize(
    "error",
    [
        p11.NoSuchToken(),
        p11.TokenNotPresent(),
        p11.TokenNotRecognised(),
        p11.DeviceRemoved(),
        p11.SlotIDInvalid(),
        p11.GeneralError(),
        p11.DeviceError(),
        p11.SessionHandleInvalid(),
        p11.FunctionFailed(),
        p11.PKCS11Error(),
        p11.SessionCount(),
        p11.ObjectHandleInvalid(),
        RuntimeError("?"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_outage_is_never_reported_as_revocation(worked: World, error: Exception) -> None:
    worked.look_anew()
    assert worked.meaning(error) is KeyUnreachable
    assert World().meaning(error) is KeyUnreachable


@pytest.mark.parametrize(
    "error",
    [
        p11.PinIncorrect(),
        p11.PinLocked(),
        p11.PinExpired(),
        p11.UserPinNotInitialized(),
        LoginSpent("no PIN"),
        KeyUnfit("CKA_EXTRACTABLE is true"),
        ModuleMissing("no module"),
        p11.MultipleTokensReturned(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_at_fault_here_is_misconfigured_and_disturbs_no_other_token(worked: World, error: Exception) -> None:
    assert worked.meaning(error) is KeyMisconfigured
    assert worked.answers.is_certain(KEY, error)


def test_what_a_token_cannot_do_is_unsupported(worked: World) -> None:
    assert worked.meaning(p11.MechanismInvalid()) is OperationUnsupported


def test_a_key_that_never_worked_does_not_make_the_module_start_anew(fresh: World) -> None:
    assert fresh.answers.is_certain(KEY, NoKey())


def test_a_key_that_worked_does(worked: World) -> None:
    assert not worked.answers.is_certain(KEY, NoKey())
    assert not worked.answers.is_certain(KEY, p11.GeneralError())


def test_the_error_names_store_and_key_and_repeats_no_vendor_text(worked: World) -> None:
    error = worked.answers.meaning(KEY, p11.GeneralError("secret vendor text"))
    assert (error.replica, error.key) == ("hsm", KEY)
    assert "vendor" not in str(error)
