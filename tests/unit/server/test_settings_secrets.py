"""Settings refer to secrets. What is written in place of a reference, by mistake, is in no error and no printout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from ownkey_server.keystores.catalog import EmbeddedOptions, Pkcs11Options
from ownkey_server.secret_sources import SecretReference
from ownkey_server.settings import Settings, SettingsError, key_store_options, load, secret_references

HSM: dict[str, Any] = {"kind": "pkcs11", "module": "/m.so", "token_label": "t"}
KEYS: dict[str, Any] = {"kind": "embedded", "directory": "keys"}
POSTGRESQL = {"url": "postgresql://ownkey@db.example/ownkey"}
# Where a secret may be written by mistake, and the document around it.
FIELDS: dict[str, Any] = {
    "pin": lambda value: {"key_stores": {"hsm": HSM | {"pin": value}}},
    "pin_file": lambda value: {"key_stores": {"hsm": HSM | {"pin_file": value}}},
    "pin beside pin_file": lambda value: {"key_stores": {"hsm": HSM | {"pin": value, "pin_file": "pin"}}},
    "passphrase": lambda value: {"key_stores": {"keys": KEYS | {"passphrase": value}}},
    "a passphrase for a token": lambda value: {"key_stores": {"hsm": HSM | {"pin_file": "pin", "passphrase": value}}},
    "password": lambda value: {"key_stores": {"keys": KEYS}, "storage": POSTGRESQL | {"password": value}},
    "password of SQLite": lambda value: {"key_stores": {"keys": KEYS}, "storage": {"password": value}},
    "storage": lambda value: {"key_stores": {"keys": KEYS}, "storage": value},
    "a misspelt name": lambda value: {"key_stores": {"keys": KEYS | {"passfrase": value}}},
}
SECRETS = st.text(min_size=6, max_size=80).map(lambda text: f"s3cr3t-{text}")
VALUES = st.one_of(
    SECRETS,
    SECRETS.map(lambda secret: [secret]),
    SECRETS.map(lambda secret: {"value": secret}),
    st.integers(min_value=10**9, max_value=2**63 - 1),
    st.floats(min_value=1e9, max_value=1e12),
)


def write(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "ownkey.toml"
    path.write_bytes(tomli_w.dumps(document).encode())
    return path


def secret_in(value: Any) -> str:
    """The text of a value that must not be seen."""
    while isinstance(value, list | dict):
        value = value[0] if isinstance(value, list) else value["value"]
    return str(value)


@pytest.mark.parametrize("field", FIELDS)
@given(value=VALUES)
def test_a_secret_in_place_of_its_reference_is_in_no_error(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any
) -> None:
    path = write(tmp_path_factory.getbasetemp(), FIELDS[field](value))
    told = ""
    try:
        load(path)
    except SettingsError as error:
        told = f"{error} {error.__cause__!r}"
    assert told or field == "pin_file"  # any text is a path
    assert secret_in(value) not in told
    assert repr(secret_in(value))[1:-1] not in told


@pytest.mark.parametrize("field", ["pin", "passphrase", "password"])
@given(secret=st.text(alphabet="abcdefXYZ0123456789 =#[]{}\"'\\.-", min_size=6).map(lambda text: f"s3cr3t{text}"))
def test_not_even_one_that_is_not_valid_toml(tmp_path_factory: pytest.TempPathFactory, field: str, secret: str) -> None:
    path = tmp_path_factory.getbasetemp() / "ownkey.toml"
    path.write_text(f"[key_stores.hsm]\n{field} = {secret}\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert secret not in str(caught.value)


@given(secret=st.text(alphabet=st.characters(codec="ascii", min_codepoint=32), min_size=6).map("s3cr3t-{}".format))
def test_nor_one_from_the_environment(tmp_path_factory: pytest.TempPathFactory, secret: str) -> None:
    path = write(tmp_path_factory.getbasetemp(), FIELDS["storage"](POSTGRESQL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OWNKEY_STORAGE__PASSWORD", secret)
        with pytest.raises(SettingsError, match="must say where the secret is") as caught:
            load(path)
    assert secret not in str(caught.value)


def test_a_reference_is_kept_as_such_and_counted_from_the_settings_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWNKEY_TEST_PASSPHRASE", "s3cr3t-stones")
    document = {
        "key_stores": {
            "hsm": HSM | {"pin": "file:secrets/pin"},
            "hsm2": HSM | {"token_label": "u", "pin": "credential:hsm-pin"},
            "old": HSM | {"token_label": "v", "pin_file": "pin"},
            "keys": KEYS | {"passphrase": "env:OWNKEY_TEST_PASSPHRASE"},
        },
        "storage": POSTGRESQL | {"password": "file:/run/secrets/db"},
    }
    settings = load(write(tmp_path, document))
    found = [str(reference) for reference in secret_references(settings)]
    assert found == [
        "file:/run/secrets/db",
        f"file:{tmp_path}/secrets/pin",
        "credential:hsm-pin",
        "env:OWNKEY_TEST_PASSPHRASE",
    ]
    options = {name: key_store_options(section) for name, section in settings.key_stores.items()}
    assert isinstance(options["old"], Pkcs11Options)
    assert options["old"].pin == SecretReference.file(tmp_path / "pin")
    assert isinstance(options["keys"], EmbeddedOptions)
    assert options["keys"].passphrase is not None
    assert options["keys"].passphrase.read().reveal() == b"s3cr3t-stones"
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json(), repr(options)):
        assert "s3cr3t" not in shown
        assert "env:OWNKEY_TEST_PASSPHRASE" in shown


@pytest.mark.parametrize("pins", [{}, {"pin": "env:PIN", "pin_file": "pin"}], ids=["none", "both"])
def test_a_token_has_one_pin(tmp_path: Path, pins: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"key_stores.hsm: needs one of pin, such as .* and pin_file"):
        load(write(tmp_path, {"key_stores": {"hsm": HSM | pins}}))


def test_a_server_cannot_be_made_to_ask_somebody(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"key_stores.hsm.pin: must say where the secret is"):
        load(write(tmp_path, FIELDS["pin"]("prompt")))


def test_sqlite_has_no_password(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="storage: password: SQLite has none"):
        load(write(tmp_path, FIELDS["password of SQLite"]("env:PASSWORD")))


def test_no_secret_is_a_default() -> None:
    assert list(secret_references(Settings.model_construct(key_stores={}))) == []
