"""``ownkey keystore``: sealing, and secrets that are typed or come from elsewhere than the settings say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ownkey.cli.main import Shared
from ownkey_server import hardening
from ownkey_server.commands.server import keystore
from ownkey_server.keystores import catalog
from ownkey_server.keystores.embedded.sealing import SEALED_KEY_LENGTH
from support.softhsm import SoftHsm

PASSPHRASE = "three stones"
Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ownkey.toml").write_text('[key_stores.embedded]\nkind = "embedded"\ndirectory = "keys"\n')
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    # It would be this process that could not be looked into any more; tests/attacks/secrets does it to others.
    monkeypatch.setattr(hardening, "harden", lambda: None)

    def invoke(*arguments: str, typed: str = "") -> Result:
        shared = Shared()
        shared.as_json = True
        command = [*arguments, "--config", str(folder / "ownkey.toml")]
        result = CliRunner().invoke(keystore, command, obj=shared, input=typed)
        assert PASSPHRASE not in result.output
        return result

    return invoke


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted((folder / "keys").glob("*.key"))}


def test_a_passphrase_that_makes_a_seal_is_typed_twice_and_later_once(folder: Path, run: Run) -> None:
    assert run("create", "one").exit_code == 0
    slip = run("seal", "--secret", "prompt", typed=f"{PASSPHRASE}\nthree stoned\n")
    assert slip.exit_code == 2  # they differ, and nobody is there to type it again
    assert sizes(folder) == {"one.key": 32}
    sealed = run("seal", "--secret", "prompt", typed=f"{PASSPHRASE}\n{PASSPHRASE}\n")
    assert json.loads(sealed.stdout) == {"sealed": ["one"], "already_sealed": 0, "key_store": "embedded"}
    assert run("create", "two", "--secret", "prompt", typed=f"{PASSPHRASE}\n").exit_code == 0
    assert sizes(folder) == {"one.key": SEALED_KEY_LENGTH, "two.key": SEALED_KEY_LENGTH}
    wrong = run("unseal", "--secret", "prompt", typed="four stones\n")
    assert wrong.exit_code == 9
    assert "the passphrase is wrong" in wrong.output
    unsealed = run("unseal", "--secret", "prompt", typed=f"{PASSPHRASE}\n")
    assert json.loads(unsealed.stdout)["unsealed"] == ["one", "two"]
    assert sizes(folder) == {"one.key": 32, "two.key": 32}


def test_without_a_passphrase_it_says_where_to_set_one(run: Run) -> None:
    assert run("create", "one").exit_code == 0
    for verb in ("seal", "unseal"):
        result = run(verb)
        assert result.exit_code == 9
        assert "key store 'embedded': set passphrase in [key_stores.embedded] first" in result.output


def test_a_key_that_is_not_there_or_is_already_has_an_exit_code_of_its_own(folder: Path, run: Run) -> None:
    for verb in ("disable", "enable"):
        missing = run(verb, "nope")
        assert (missing.exit_code, "there is no such key in" in missing.output) == (8, True)
    assert run("create", "one").exit_code == 0
    again = run("create", "one")
    assert (again.exit_code, "there is a key of this name already" in again.output) == (10, True)
    unknown = run("create", "one", "--store", "hms")
    assert (unknown.exit_code, "no key store 'hms'; they have: embedded" in unknown.output) == (8, True)
    (folder / "ownkey.toml").write_text("[key_stores.embedded]\n")
    mistake = run("create", "two")
    assert (mistake.exit_code, "kind is missing" in mistake.output) == (2, True)


def test_a_key_in_aws_is_disabled_with_the_tools_of_aws(folder: Path, run: Run) -> None:
    (folder / "ownkey.toml").write_text('[key_stores.aws]\nkind = "aws_kms"\n')
    for verb in ("disable", "enable"):
        result = run(verb, "one", "--store", "aws")
        assert (result.exit_code, "use the tools of AWS" in result.output) == (2, True)


def test_a_passphrase_that_is_not_there_is_what_is_told(folder: Path, run: Run) -> None:
    with (folder / "ownkey.toml").open("a") as file:
        file.write('passphrase = "file:passphrase"\n')
    (folder / "keys").mkdir()
    missing = run("seal")
    assert missing.exit_code == 9
    assert f"its passphrase cannot be had: file:{folder}/passphrase: cannot be read: No such file" in missing.output


def test_what_is_no_reference_is_not_repeated(run: Run) -> None:
    result = run("create", "one", "--secret", PASSPHRASE)
    assert result.exit_code == 2
    assert "--secret must say where the secret is" in result.output


def test_a_token_s_pin_may_be_typed(folder: Path, run: Run, softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "Modules", lambda **_: softhsm.modules)  # a module has one owner in a process
    softhsm.make_token("typed-pin", "2718281828")
    with (folder / "ownkey.toml").open("a") as file:
        file.write(
            f'[key_stores.hsm]\nkind = "pkcs11"\nmodule = "{softhsm.module}"\ntoken_label = "typed-pin"\n'
            'pin = "credential:hsm-pin"\n'
        )
    command = ("create", "acme", "--store", "hsm")
    assert "LoadCredential=hsm-pin:PATH" in run(*command).output
    assert run(*command, "--secret", "prompt", typed="2718281828\n").exit_code == 0
    again = run(*command)
    assert again.exit_code == 9  # its PIN is where the settings say again, which is nowhere
    taken = run(*command, "--secret", "prompt", typed="2718281828\n")
    assert (taken.exit_code, "there is a key of this label already" in taken.output) == (10, True)
    wrong = run("create", "other", "--store", "hsm", "--secret", "prompt", typed="2718281829\n")
    assert (wrong.exit_code, "PIN" in wrong.output) == (9, True), wrong.output
    assert run("seal", "--store", "hsm").exit_code == 2
    softhsm.delete_token("typed-pin")
