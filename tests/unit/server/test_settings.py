from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from ownkey_server.settings import EmbeddedSettings, SettingsError, load, require_known_callers
from ownkey_server.storage.database import Database

TEMPLATE = resources.files("ownkey_server").joinpath("templates", "ownkey.toml").read_text(encoding="utf-8")


def write(folder: Path, text: str = TEMPLATE) -> Path:
    path = folder / "ownkey.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_template_says_what_the_defaults_are(tmp_path: Path) -> None:
    settings = load(write(tmp_path))
    bare = load(
        write(tmp_path, '[server]\ndevelopment = true\n[key_stores.embedded]\nkind = "embedded"\ndirectory = "keys"\n')
    )
    assert settings == bare


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    settings = load(write(tmp_path))
    assert settings.storage.tenants_file == tmp_path / "tenants.toml"
    assert settings.storage.url == f"sqlite:///{tmp_path}/ownkey.db"
    assert settings.audit.signing_key_file == tmp_path / "audit-signing.pem"
    store = settings.key_stores["embedded"]
    assert isinstance(store, EmbeddedSettings)
    assert store.directory == tmp_path / "keys"


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNKEY_SERVER__LISTEN", "127.0.0.1:0")
    monkeypatch.setenv("OWNKEY_KEYS__LEASE_SECONDS", "7")
    settings = load(write(tmp_path))
    assert settings.server.listen == "127.0.0.1:0"
    assert settings.keys.lease_seconds == 7


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:7400", "[::1]:7400", "localhost:0", "127.9.9.9:1", "unix:/run/ownkey.sock"]
)
def test_it_listens_where_only_this_machine_can_call(tmp_path: Path, listen: str) -> None:
    settings = load(write(tmp_path, TEMPLATE.replace("127.0.0.1:7400", listen)))
    assert settings.server.listen == listen


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"127.0.0.1:7400"', '"0.0.0.0:7400"', "server: development lets in whoever can connect"),
        ('"127.0.0.1:7400"', '"example.com:7400"', "server: development lets in whoever can connect"),
        ('"127.0.0.1:7400"', '"127.0.0.1"', "server.listen: must be HOST:PORT"),
        ('"127.0.0.1:7400"', '"127.0.0.1:70000"', "server.listen: must be HOST:PORT"),
        (
            "lease_seconds = 60",
            "lease_seconds = 6000",
            "keys.lease_seconds: must be at most 900 (got 6000)",
        ),
        (
            "lease_seconds",
            "leese_seconds",
            "keys.leese_seconds: there is no such setting; did you mean 'lease_seconds'?",
        ),
        (
            'kind = "embedded"',
            'kind = "embeded"',
            "key_stores.embedded: kind must be one of embedded, pkcs11, aws_kms; did you mean 'embedded'? (got",
        ),
        ('directory = "keys"', "", "key_stores.embedded.directory: is missing"),
        ('"127.0.0.1:7400"', '"::1:7400"', "server.listen: must be HOST:PORT"),
        ('"127.0.0.1:7400"', '"127.0.0.1:\u0667"', "server.listen: must be HOST:PORT"),
        ("lease_seconds = 60 ", "lease_seconds = inf ", "keys.lease_seconds: must be a finite number"),
        ("[server]", "server = 3\n[servr]", "server: must be a table"),
        ("[server]", "[server", "is not valid TOML"),
        ("lease_seconds = 60 ", "lease_seconds = true ", "keys.lease_seconds: must be a number (got true)"),
        ("lease_seconds = 60 ", 'lease_seconds = "60" ', "keys.lease_seconds: must be a number"),
        ("development = true", "development = 1", "server.development: must be true or false (got 1)"),
        ("[server]", "[limits]\nstreams = true\n[server]", "limits.streams: must be a number (got true)"),
        (
            'kind = "embedded"',
            'kind = "pkcs11"\nmodul = "x.so"',
            "key_stores.embedded.modul: there is no such setting; did you mean 'module'?",
        ),
    ],
)
def test_a_bad_setting_is_told_with_its_place(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in TEMPLATE
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, TEMPLATE.replace(old, new, 1)))
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("OWNKEY_SERVER__LISTN", "server.listn: there is no such setting"),
        ("OWNKEY_SERVR__LISTEN", "there is no section [servr]"),
    ],
)
def test_a_misspelt_variable_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, complaint: str
) -> None:
    monkeypatch.setenv(name, "127.0.0.1:1")
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path))
    assert complaint in str(caught.value)


def test_a_number_and_a_truth_in_the_environment_are_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNKEY_SERVER__REFLECTION", "false")
    monkeypatch.setenv("OWNKEY_LIMITS__STREAMS", "7")
    settings = load(write(tmp_path))
    assert (settings.server.reflection, settings.limits.streams) == (False, 7)
    monkeypatch.setenv("OWNKEY_LIMITS__STREAMS", "many")
    with pytest.raises(SettingsError, match=r"limits\.streams: must be a whole number"):
        load(write(tmp_path))


@pytest.mark.parametrize("text", ["", "[key_stores]\n"])
def test_a_file_without_a_key_store_says_what_it_lacks(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    assert str(caught.value) == f"{tmp_path}/ownkey.toml: the file has no [key_stores.NAME]; ownkey init writes one"


def test_every_line_of_several_mistakes_names_the_file(tmp_path: Path) -> None:
    text = TEMPLATE.replace("lease_seconds", "leese_seconds").replace("development = true", 'development = "yes"')
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{tmp_path}/ownkey.toml: ") for line in lines)


@pytest.mark.parametrize("kind", ["pkcs11", "aws_kms", "embedded"])
def test_numbers_of_every_table_below_a_name_are_numbers(tmp_path: Path, kind: str) -> None:
    text = TEMPLATE + f'\n[key_stores.other]\nkind = "{kind}"\ndirectory = "o"\nthreads = true\n'
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    # Only one kind has such a number; for the others the name is the mistake.
    number = "key_stores.other.threads: must be a number (got true)"
    assert (number in str(caught.value)) is (kind == "aws_kms")


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ownkey init"):
        load(tmp_path / "nowhere.toml")


def test_one_directory_is_one_key_store(tmp_path: Path) -> None:
    twice = TEMPLATE + '\n[key_stores.second]\nkind = "embedded"\ndirectory = "./keys/../keys"\n'
    with pytest.raises(SettingsError, match="'embedded' and 'second' are one and the same"):
        load(write(tmp_path, twice))


def test_a_variable_for_a_section_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNKEY_SERVER__LISTEN", "127.0.0.1:1")
    with pytest.raises(SettingsError, match="server: must be a table"):
        load(write(tmp_path, TEMPLATE.replace("[server]", "server = 3\n[keys_too]")))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ownkey:hunter2@db/ownkey",
        "postgresql://ownkey@db/ownkey?password=hunter2",
        "postgresql://ownkey@db/ownkey?sslpassword=hunter2",
    ],
)
def test_a_password_in_the_database_s_url_is_refused_and_told_nobody(tmp_path: Path, url: str) -> None:
    text = '[key_stores.embedded]\nkind = "embedded"\ndirectory = "keys"\n[storage]\nurl = "' + url + '"\n'
    with pytest.raises(SettingsError, match="must not hold a password") as caught:
        load(write(tmp_path, text))
    assert "hunter2" not in str(caught.value)


def test_where_the_database_is_is_told_without_its_options() -> None:
    database = Database("postgresql://ownkey@db.example/ownkey?passfile=/run/secrets/pgpass")
    assert database.place == "postgresql://ownkey@db.example/ownkey"


SIDECAR = """
[server]
listen = "unix:/run/ownkey/main.sock"
health_listen = "{health}"
[identity.certificates]
spiffe_trust_domains = ["example.org"]
[identity.sidecar]
unix_socket = true
[key_stores.embedded]
kind = "embedded"
directory = "keys"
"""


def test_a_health_socket_beside_a_socket_that_is_believed_is_refused(tmp_path: Path) -> None:
    require_known_callers(load(write(tmp_path, SIDECAR.format(health="127.0.0.1:7401"))))
    with pytest.raises(SettingsError, match=r"server\.health_listen: .* make it a loopback address"):
        require_known_callers(load(write(tmp_path, SIDECAR.format(health="unix:/run/ownkey/health.sock"))))


def test_keys_of_an_issuer_are_not_believed_for_longer_than_a_week_without_a_word(tmp_path: Path) -> None:
    text = (
        TEMPLATE
        + """
[identity.issuers.corp]
issuer = "https://idp.example.org"
audience = "ownkey"
jwks_url = "https://idp.example.org/keys"
outage_seconds = {seconds}
"""
    )
    assert load(write(tmp_path, text.format(seconds=7 * 86_400)))
    with pytest.raises(SettingsError, match="outage_seconds"):
        load(write(tmp_path, text.format(seconds=7 * 86_400 + 1)))


@pytest.mark.parametrize(
    ("named", "good"),
    [
        ('"remove_key"', False),
        ('"gate_off", "retention"', False),
        ('"grant_role"', True),
        ('"remove_key", "grant_role"', True),
        ("", True),
    ],
)
def test_a_second_person_is_nobody_whom_the_first_can_make(tmp_path: Path, named: str, good: bool) -> None:
    path = write(tmp_path, f"{TEMPLATE}\n[authorization]\nsecond_person = [{named}]\n")
    if good:
        assert len(load(path).authorization.second_person) == named.count('"') // 2
        return
    with pytest.raises(SettingsError, match=r"without grant_role: an operator alone could.*; add grant_role"):
        load(path)
