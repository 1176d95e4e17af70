"""The main job from outside, as `make demo` runs it: with embedded keys, and with keys in SoftHSM."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from support.server import OWNKEY
from support.softhsm import PIN, SoftHsm

DEMO = Path(__file__).resolve().parents[2] / "tools" / "demo.py"
STEPS = [
    "server",
    "recording",
    "encrypted (stream)",
    "encrypted (local)",
    "decrypted (stream)",
    "decrypted (local)",
    "key status",
    "policy check",
    "call",
    "key disabled",
    "call",
    "decryption",
    "emergency call",
    "audit trail",
    "audit verified",
    "done",
]
# Tries everything by which a key could leave the token; run in a process of its own.
EXPORT = """
import sys, pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
module, token, pin, label = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    (key,) = session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: label})
    print(key[Attribute.SENSITIVE], key[Attribute.EXTRACTABLE], key[Attribute.NEVER_EXTRACTABLE])
    thief = session.generate_key(KeyType.AES, 256, template={Attribute.WRAP: True})
    attempts = {
        "read": lambda: key[Attribute.VALUE],
        "wrap": lambda: thief.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP),
        "allow": lambda: key.__setitem__(Attribute.EXTRACTABLE, True),
        "show": lambda: key.__setitem__(Attribute.SENSITIVE, False),
        "copy": lambda: key.copy({Attribute.EXTRACTABLE: True}),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
            print(name, "GIVEN AWAY")
        except pkcs11.exceptions.PKCS11Error as error:
            print(name, "refused")
"""


def run_demo(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(DEMO), *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def steps(lines: list[str]) -> list[str]:
    return [line[:24].strip() for line in lines]


def test_the_demo_shows_every_step_with_embedded_keys() -> None:
    lines = run_demo()
    assert steps(lines) == STEPS
    assert "SIP 403" in lines[10]
    assert "KEY_REVOKED" in lines[11]


def test_the_demo_takes_a_recording_of_one_s_own(tmp_path: Path) -> None:
    recording = tmp_path / "my call.wav"
    recording.write_bytes(os.urandom(300_001))
    lines = run_demo("--file", str(recording))
    assert "300,001 bytes" in lines[1]


@pytest.fixture
def hsm_settings(softhsm: SoftHsm, tmp_path: Path) -> Path:
    """Settings whose customer keys are in a token of this test's own, and the provider's in files."""
    token = tmp_path.name[-30:]
    softhsm.make_token(token)
    templates = resources.files("ownkey_server") / "templates"
    tenants = (templates / "tenants.toml").read_text(encoding="utf-8")
    head, separator, rest = tenants.partition("[[tenants]]")
    (tmp_path / "tenants.toml").write_text(
        head + separator + rest.replace('key_store = "embedded"', 'key_store = "hsm"'), encoding="utf-8"
    )
    settings = (templates / "ownkey.toml").read_text(encoding="utf-8")
    settings += (
        f'\n[key_stores.hsm]\nkind = "pkcs11"\nmodule = "{softhsm.module}"\ntoken_label = "{token}"\n'
        f'pin_file = "{softhsm.folder / f"{token}.pin"}"\n'
    )
    (tmp_path / "ownkey.toml").write_text(settings, encoding="utf-8")
    for key in ("acme-main", "acme-finance"):
        command = [OWNKEY, "keystore", "create", key, "--store", "hsm", "--config", str(tmp_path / "ownkey.toml")]
        subprocess.run(command, check=True, capture_output=True)
    return tmp_path


def test_the_demo_shows_every_step_with_keys_in_softhsm(softhsm: SoftHsm, hsm_settings: Path) -> None:
    delete = f"pkcs11-tool --module {softhsm.module} --token-label {hsm_settings.name[-30:]} --login --pin {PIN}"
    delete += " --delete-object --type secrkey --label acme-main"
    lines = run_demo("--config", str(hsm_settings), "--disable", delete)
    assert steps(lines) == STEPS
    assert "SIP 403" in lines[10]


def test_the_token_refuses_to_export_the_key_in_every_way(softhsm: SoftHsm, hsm_settings: Path) -> None:
    arguments = (str(softhsm.module), hsm_settings.name[-30:], PIN, "acme-main")
    output = softhsm.run_python(EXPORT, *arguments).splitlines()
    assert output[0] == "True False True"
    assert [line.split(" ", 1)[1] for line in output[1:]] == ["refused"] * 5
