"""Profiles of token families: known by what modules say, read strictly, and honest about where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from pkcs11 import Mechanism
from pkcs11 import exceptions as p11

from ownkey_server.keystores.pkcs11.profile_reader import ProfileInvalid
from ownkey_server.keystores.pkcs11.profiles import (
    GENERIC,
    GcmIv,
    Identity,
    KeyWrapBy,
    Profile,
    built_in,
    load,
    recognize,
)
from ownkey_server.keystores.pkcs11.ways import Way

# What modules say of themselves: seen here (SoftHSM, NSS), in public sources of the module (YubiHSM), or in the code of
# others that knows the vendor.
SAID = {
    "softhsm": Identity("SoftHSM", "Implementation of PKCS11", "SoftHSM project", "SoftHSM v2"),
    "nss-softokn": Identity("Mozilla Foundation", "NSS Internal Crypto Services", "Mozilla Foundation", "NSS 3"),
    "yubihsm2": Identity("Yubico (www.yubico.com)", "YubiHSM PKCS#11 Library", "Yubico (www.yubico.com)", "YubiHSM"),
    "entrust-nshield": Identity("nCipher Corp. Ltd", "nCipher PKCS#11 12.60", "nCipher Corp. Ltd", ""),
    "generic": Identity("Example", "A module", "Example", "One"),
}
VALID = 'title = "Ours"\nstatus = "tried"\nsources = ["our laboratory"]\nnotes = []\n'


def own(folder: Path, text: str) -> Profile | None:
    path = folder / "ours.toml"
    path.write_text(VALID + text, encoding="utf-8")
    return load(str(path))


@pytest.mark.parametrize(("name", "identity"), SAID.items(), ids=SAID)
def test_a_token_is_known_by_what_it_says(name: str, identity: Identity) -> None:
    assert recognize(identity).name == name


def test_a_token_behind_another_module_is_known_by_what_the_token_says() -> None:
    behind_p11_kit = Identity("PKCS#11 Kit", "PKCS#11 Kit Proxy Module", "SoftHSM project", "SoftHSM v2")
    assert recognize(behind_p11_kit).name == "softhsm"


@pytest.mark.parametrize("identity", SAID.values(), ids=SAID)
def test_no_token_is_known_by_two(identity: Identity) -> None:
    known = [one.name for one in built_in().values() if any(rule.matches(identity) for rule in one.recognized)]
    assert len(known) <= 1


def test_every_profile_says_where_it_comes_from() -> None:
    for profile in built_in().values():
        assert all(source.startswith("https://") for source in profile.sources)
        assert profile.recognized or profile.name == GENERIC
    assert {one.name for one in built_in().values() if one.status == "tried"} == {"softhsm", "nss-softokn"}


def test_without_a_profile_nothing_is_left_out() -> None:
    generic = built_in()[GENERIC]
    assert generic.order == (Way.GCM, Way.KEY_WRAP, Way.KEY_WRAP_PAD)
    assert generic.suspects_bytes(p11.DeviceError())


def test_a_mechanism_is_the_first_of_its_names_that_the_token_has() -> None:
    softhsm = built_in()["softhsm"]
    assert softhsm.mechanism(Way.KEY_WRAP_PAD, frozenset({0x210A})) is Mechanism.AES_KEY_WRAP_PAD
    assert softhsm.mechanism(Way.KEY_WRAP_PAD, frozenset({0x210A, 0x210B})) is Mechanism.AES_KEY_WRAP_KWP
    assert softhsm.mechanism(Way.KEY_WRAP_PAD, frozenset()) is None


def test_a_vendors_mechanism_is_taken_by_the_binding() -> None:
    (mechanism,) = built_in()["aws-cloudhsm"].mechanisms[Way.KEY_WRAP]
    assert isinstance(mechanism, Mechanism)
    assert int(mechanism) == 0x80002109
    assert mechanism.name == "CKM_CLOUDHSM_AES_KEY_WRAP_NO_PAD"


def test_what_a_family_adds_to_the_standard_leaves_the_standard(tmp_path: Path) -> None:
    profile = own(tmp_path, '[errors]\ngone = ["CKR_DEVICE_ERROR"]\nbad_ciphertext = ["CKR_GENERAL_ERROR"]\n')
    assert profile is not None
    assert {"CKR_DEVICE_ERROR", "CKR_TOKEN_NOT_PRESENT"} <= profile.errors.gone
    assert profile.errors.bad_ciphertext == {"CKR_GENERAL_ERROR"}
    assert not profile.suspects_bytes(p11.DeviceError())


def test_a_profile_builds_on_another(tmp_path: Path) -> None:
    profile = own(tmp_path, 'like = "aws-cloudhsm"\n[key_wrap]\nby = "encrypt"\n')
    assert profile is not None
    assert profile.gcm_iv is GcmIv.TOKEN
    assert profile.key_wrap_by is KeyWrapBy.ENCRYPT
    assert (profile.title, profile.recognized) == ("Ours", ())


def test_a_vendors_return_value_has_a_name(tmp_path: Path) -> None:
    text = '[errors]\ngone = ["CKR_OURS_GONE"]\n[vendor.errors]\nCKR_OURS_GONE = 0x8000_0385\n'
    profile = own(tmp_path, text)
    assert profile is not None
    assert profile.answer_of(p11.PKCS11Error("Unmapped error code 0x80000385")) == "CKR_OURS_GONE"
    assert profile.answer_of(p11.PKCS11Error("Unmapped error code 0x80000386")) == "0x80000386"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (p11.GeneralError(), "CKR_GENERAL_ERROR"),
        (p11.SlotIDInvalid(), "CKR_SLOT_ID_INVALID"),
        (p11.TokenNotRecognised(), "CKR_TOKEN_NOT_RECOGNIZED"),
        (p11.NoSuchToken(), ""),
        (ValueError(), ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_exception_of_the_binding_has_the_standards_name(error: Exception, name: str) -> None:
    assert built_in()[GENERIC].answer_of(error) == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gcm]\niw = 1\n", r"gcm\.iw: there is no such key; there are iv"),
        ('[gcm]\niv = "theirs"\n', r"gcm\.iv: must be one of ours, token, and is 'theirs'"),
        ("[session]\nmax = -1\n", r"session\.max: must be >= 0, and is -1"),
        ("[session]\nmax = true\n", r"session\.max: must be >= 0, and is True"),
        ("gcm = 1\n", "gcm: must be a table"),
        ("[session]\nread_write = 1\n", r"session\.read_write: must be true or false, and is 1"),
        ("[surprise]\n", "surprise: there is no such key"),
        ('[mechanisms]\norder = ["aes-cbc"]\n', r"mechanisms\.order: 'aes-cbc' is no way to wrap"),
        ('[mechanisms]\norder = "aes-gcm"\n', r"mechanisms\.order: must be a list of texts"),
        ('[mechanisms]\naes-gcm = ["CKM_OURS"]\n', r"mechanisms\.aes-gcm: 'CKM_OURS' is no mechanism; .*\[vendor\]"),
        ("[mechanisms]\naes-gcm = []\n", r"mechanisms\.order: 'aes-gcm' has no mechanism"),
        ('[errors]\ngone = ["CKR_OURS"]\n', r"errors\.gone: 'CKR_OURS' is no return value of PKCS#11"),
        ('[errors]\ngone = ["*"]\n', r"errors\.gone: '\*' is no return value"),
        ('[errors]\ngone = "CKR_OK"\n', r"errors\.gone: must be a list of texts"),
        ('[vendor.mechanisms]\nCKM_OURS = "0x80"\n', r"vendor\.mechanisms\.CKM_OURS: must be >= 0, and is '0x80'"),
        ("[[recognized]]\n", r"recognized\[0\]\.: needs a pattern"),
        ('[[recognized]]\nmodel = "x"\n', r"recognized\[0\]\.model: there is no such key"),
        ('like = "softshm"\n', "like: there is no profile 'softshm'; there are aws-cloudhsm, "),
        ("[gcm\n", "is not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ProfileInvalid, match=rf"profile .*ours\.toml: {said}"):
        own(tmp_path, text)


def test_a_profile_must_say_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text('title = "Ours"\nstatus = "guessed"\n', encoding="utf-8")
    with pytest.raises(ProfileInvalid, match="status: must be one of tried, documented, and is 'guessed'"):
        load(str(tmp_path / "ours.toml"))


def test_a_name_that_is_none_lists_those_that_are_and_is_not_repeated() -> None:
    with pytest.raises(ProfileInvalid, match=r"there are auto, aws-cloudhsm, .*, or a file") as caught:
        load("hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_not_there_is_not_named_either() -> None:
    with pytest.raises(ProfileInvalid, match=r"the file of the profile cannot be read: No such file") as caught:
        load("/hunter2/x.toml")
    assert "hunter2" not in str(caught.value)


def test_no_family_is_taken_to_keep_to_trust_unless_that_was_tried_or_is_documented() -> None:
    honouring = {name for name, one in built_in().items() if one.honours_wrap_with_trusted}
    assert honouring == {"softhsm", "aws-cloudhsm"}
