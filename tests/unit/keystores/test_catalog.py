from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ownkey_server.domain.errors import KeyMisconfigured
from ownkey_server.keystores.catalog import EmbeddedOptions, Modules, Pkcs11Options, open_key_store
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.secret_sources import SecretReference

TOKEN = Pkcs11Options(Path("/nowhere/module.so"), "acme", SecretReference.file(Path("/nowhere/pin")))


def test_options_of_a_kind_open_a_store_of_that_kind(tmp_path: Path) -> None:
    store = open_key_store("keys", EmbeddedOptions(tmp_path), Modules())
    assert isinstance(store, EmbeddedKeyStore)
    assert store.name == "keys"


def test_a_module_has_one_owner_by_whatever_path_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "module.so").touch()
    (tmp_path / "link.so").symlink_to("module.so")
    modules = Modules()
    owner = modules.thread(tmp_path / "module.so")
    assert modules.thread(tmp_path / "link.so") is owner
    assert modules.thread(tmp_path / ".." / tmp_path.name / "module.so") is owner
    owner.end()


async def test_a_module_that_is_not_there_is_misconfigured(tmp_path: Path) -> None:
    modules = Modules()
    store = open_key_store("hsm", TOKEN, modules)
    with pytest.raises(KeyMisconfigured, match=r"/nowhere/module\.so cannot be loaded"):
        await store.generate_data_key("acme-main", {}, 10.0)
    with pytest.raises(KeyMisconfigured, match="cannot be loaded"):
        await store.create("acme-main")
    await store.close()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(KeyMisconfigured, match=r"pip install 'ownkey\[server\]'"):
        open_key_store("hsm", TOKEN, Modules())
