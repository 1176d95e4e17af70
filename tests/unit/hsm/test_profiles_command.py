"""``ownkey hsm profiles``: every family, one of them, and its file to begin one's own with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ownkey.cli.main import Shared, run
from ownkey_server.keystores.pkcs11.profiles import built_in, load


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    shared = Shared()
    shared.as_json = "--json" in arguments
    code = run(["hsm", "profiles", *arguments], shared)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_every_profile_is_listed_with_whether_it_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys)
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert lines.keys() == built_in().keys()
    assert " tried " in lines["nss-softokn"]
    assert " documented " in lines["thales-luna"]


def test_one_is_shown_with_its_sources_and_what_to_fear_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, "nss-softokn")
    assert "https://github.com/nss-dev/nss" in out
    assert "YES: not for production" in out
    _, told, _ = ran(capsys, "aws-cloudhsm", "--json")
    facts = json.loads(told)
    assert facts["IV of AES-GCM"] == "made by the token"
    assert "aes-key-wrap: CKM_CLOUDHSM_AES_KEY_WRAP_NO_PAD (0x80002109)" in facts["wraps by"]


@pytest.mark.parametrize("name", sorted(built_in()))
def test_what_is_printed_to_begin_with_is_a_profile(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    _, out, _ = ran(capsys, name, "--toml")
    (tmp_path / "ours.toml").write_text(out, encoding="utf-8")
    ours, theirs = load(str(tmp_path / "ours.toml")), built_in()[name]
    assert ours is not None
    assert (ours.mechanisms, ours.errors, ours.gcm_iv) == (theirs.mechanisms, theirs.errors, theirs.gcm_iv)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("thales",), "there is no profile of this name; there are auto, aws-cloudhsm, "),
        (("auto",), "auto is no profile"),
        (("--toml",), "give its NAME"),
        (("nowhere.toml",), "the file of the profile cannot be read"),
    ],
)
def test_what_is_no_profile_is_told(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    code, _, err = ran(capsys, *arguments)
    assert code == 2
    assert said in err
