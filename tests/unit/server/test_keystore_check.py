"""``ownkey keystore check``, and what a server says at its start of a key store that cannot be opened."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ownkey.cli.main import Shared
from ownkey.cli.main import run as run_command
from ownkey_server import hardening, settings
from ownkey_server.composition.core import open_key_stores
from ownkey_server.keystores import catalog
from ownkey_server.service.store_checks import warn_of_unusable
from support.softhsm import SoftHsm

Run = Callable[..., tuple[int, Any]]
PIN = "2718281828"


@pytest.fixture
def folder(tmp_path: Path, softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> Path:
    # It would be this process that could not be looked into any more; tests/attacks/secrets does it to others.
    monkeypatch.setattr(hardening, "harden", lambda: None)
    monkeypatch.setattr(catalog, "Modules", lambda **_: softhsm.modules)  # a module has one owner in a process
    (tmp_path / "ownkey.toml").write_text('[key_stores.embedded]\nkind = "embedded"\ndirectory = "keys"\n')
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def invoke(*arguments: str, as_json: bool = True) -> tuple[int, Any]:
        shared = Shared()
        shared.as_json = as_json
        code = run_command(["keystore", *arguments, "--config", str(folder / "ownkey.toml")], shared)
        printed = capsys.readouterr()
        return code, json.loads(printed.out or printed.err) if as_json else printed.out

    return invoke


def add_token(folder: Path, softhsm: SoftHsm, label: str, **changes: str) -> None:
    section = {"module": str(softhsm.module), "token_label": label, "pin_file": "pin"} | changes
    with (folder / "ownkey.toml").open("a") as file:
        file.write('[key_stores.hsm]\nkind = "pkcs11"\n')
        file.writelines(f'{name} = "{value}"\n' for name, value in section.items())


def write_pin(folder: Path, pin: str = PIN) -> None:
    (folder / "pin").touch(mode=0o600)
    (folder / "pin").write_text(pin)


def test_stores_that_can_be_opened(folder: Path, run: Run, softhsm: SoftHsm) -> None:
    softhsm.make_token("check-good", PIN)
    write_pin(folder)
    add_token(folder, softhsm, "check-good")
    code, answer = run("check")
    assert code == 0
    assert answer == {
        "key_stores": [
            {"key_store": "embedded", "kind": "embedded", "checked": True, "cause": ""},
            {"key_store": "hsm", "kind": "pkcs11", "checked": True, "cause": ""},
        ]
    }
    assert run("check", "--store", "hsm", as_json=False) == (0, "hsm  can be opened\n")
    softhsm.delete_token("check-good")


def test_what_stands_in_the_way_is_told(folder: Path, run: Run, softhsm: SoftHsm) -> None:
    softhsm.make_token("check-bad", PIN)
    add_token(folder, softhsm, "check-bad")
    code, answer = run("check")
    assert code == 9
    causes = {one["key_store"]: one["cause"] for one in answer["key_stores"]}
    assert causes["embedded"] == ""
    assert f"file:{folder}/pin: cannot be read" in causes["hsm"]
    write_pin(folder, "1414213562")
    code, answer = run("check", "--store", "hsm")
    assert (code, "PIN" in answer["key_stores"][0]["cause"]) == (9, True)
    softhsm.delete_token("check-bad")
    code, answer = run("check", "--store", "hsm")
    assert (code, answer["key_stores"][0]["cause"]) == (5, "there is no token 'check-bad'")
    code, answer = run("create", "one", "--store", "hsm")
    assert (code, "ownkey hsm check --store hsm" in answer["hint"]) == (5, True)


def test_a_module_that_is_not_there(folder: Path, run: Run, softhsm: SoftHsm) -> None:
    write_pin(folder)
    add_token(folder, softhsm, "any", module=str(folder / "none.so"))
    code, text = run("check", as_json=False)
    assert code == 9
    assert "none.so" in text


def test_a_folder_that_was_there_and_a_passphrase_that_is_not(folder: Path, run: Run) -> None:
    assert run("check")[0] == 0  # no key was ever made: there need be no folder yet
    assert run("create", "one")[0] == 0
    (folder / "keys").rename(folder / "elsewhere")
    code, answer = run("check")
    assert (code, answer["key_stores"][0]["cause"]) == (5, f"{folder}/keys is not there: is its volume mounted?")
    (folder / "elsewhere").rename(folder / "keys")
    with (folder / "ownkey.toml").open("a") as file:
        file.write('passphrase = "file:passphrase"\n')
    (folder / "passphrase").touch(mode=0o600)
    (folder / "passphrase").write_text("three stones")
    assert run("seal")[0] == 0
    assert run("check")[0] == 0
    (folder / "passphrase").write_text("four stones")
    code, answer = run("check")
    assert (code, "the passphrase is wrong" in answer["key_stores"][0]["cause"]) == (9, True)


def test_a_store_that_the_settings_do_not_have(run: Run) -> None:
    code, answer = run("check", "--store", "hms")
    assert (code, answer["error"]) == (8, "the settings have no key store 'hms'; they have: embedded")


async def test_a_server_warns_of_each_store_that_cannot_be_opened(
    folder: Path, softhsm: SoftHsm, caplog: pytest.LogCaptureFixture
) -> None:
    add_token(folder, softhsm, "check-missing")
    write_pin(folder)
    stores = open_key_stores(settings.load(folder / "ownkey.toml"))
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ownkey_server.service.store_checks"):
        await warn_of_unusable(stores)
    [warning] = [one.getMessage() for one in caplog.records if one.name.endswith("store_checks")]
    assert warning.startswith(
        "key store 'hsm' cannot be opened: there is no token 'check-missing'; what needs it fails"
    )
    for store in stores.values():
        await store.close()
