"""The profile of a token and the arguments of its module, as settings: what cannot be used is told at the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from ownkey_server.keystores.catalog import Pkcs11Options
from ownkey_server.settings import Pkcs11Settings, Settings, SettingsError, key_store_options, load

STORE = 'kind = "pkcs11"\nmodule = "m.so"\npin = "file:pin"\n'


def loaded(tmp_path: Path, *sections: str) -> Settings:
    path = tmp_path / "ownkey.toml"
    text = "".join(
        f'[key_stores.hsm{number}]\n{STORE}token_label = "t{number}"\n{section}\n'
        for number, section in enumerate(sections)
    )
    path.write_text(text, encoding="utf-8")
    return load(path)


def options(settings: Settings) -> Pkcs11Options:
    (store,) = settings.key_stores.values()
    assert isinstance(store, Pkcs11Settings)
    found = key_store_options(store)
    assert isinstance(found, Pkcs11Options)
    return found


def test_the_token_is_recognized_unless_the_settings_name_its_profile(tmp_path: Path) -> None:
    assert options(loaded(tmp_path, "")).profile == "auto"
    assert options(loaded(tmp_path, 'profile = "thales-luna"')).profile == "thales-luna"


def test_a_file_of_ones_own_starts_at_the_settings(tmp_path: Path) -> None:
    text = 'title = "Ours"\nstatus = "tried"\nsources = ["here"]\nnotes = []\n'
    (tmp_path / "ours.toml").write_text(text, encoding="utf-8")
    assert options(loaded(tmp_path, 'profile = "ours.toml"')).profile == str(tmp_path / "ours.toml")


def test_what_is_wrong_with_a_profile_is_told_at_the_start_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text("[gcm]\niw = 12\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"key_stores\.hsm0\.profile: profile .*ours\.toml: "):
        loaded(tmp_path, 'profile = "ours.toml"')
    with pytest.raises(
        SettingsError, match=r"key_stores\.hsm0\.profile: there is no profile of this name; there are auto, "
    ):
        loaded(tmp_path, 'profile = "thales"')
    with pytest.raises(SettingsError, match=r"key_stores\.hsm0\.profile: the file of the profile cannot be read"):
        loaded(tmp_path, 'profile = "theirs.toml"')


def test_arguments_of_a_module_are_handed_on(tmp_path: Path) -> None:
    assert options(loaded(tmp_path, "")).module_arguments is None
    assert options(loaded(tmp_path, 'module_arguments = "where=here"')).module_arguments == "where=here"


def test_keys_that_can_be_exported_are_not_used_unless_that_is_said(tmp_path: Path) -> None:
    assert options(loaded(tmp_path, "")).exportable_keys is False
    assert options(loaded(tmp_path, "exportable_keys = true")).exportable_keys is True


@pytest.mark.parametrize("text", ["", "a\\u0000b"])
def test_arguments_that_no_module_could_read_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"key_stores\.hsm0\.module_arguments"):
        loaded(tmp_path, f'module_arguments = "{text}"')


def test_one_module_in_one_process_has_one_set_of_arguments(tmp_path: Path) -> None:
    here, there = ('module_arguments = "here"\n', 'module_arguments = "there"\n')
    assert len(loaded(tmp_path, here, there).key_stores) == 2
    on_a_thread = 'isolation = "thread"\n'
    assert len(loaded(tmp_path, here + on_a_thread, here + on_a_thread).key_stores) == 2
    with pytest.raises(SettingsError, match="'hsm0' and 'hsm1' have one module on a thread, and different module_arg"):
        loaded(tmp_path, here + on_a_thread, there + on_a_thread)
