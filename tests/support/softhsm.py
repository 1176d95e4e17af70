"""SoftHSM for tests: tokens in a folder of their own, worked on from other processes as their operator would.

SoftHSM reads its configuration once a process, so one folder serves a whole test session and holds every token.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ownkey_server.keystores.catalog import Modules

MODULE_PATHS = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
)
PIN = "471100"
SO_PIN = "08150815"

# Run in another process: what an operator's tool would do to a key.
_SET_RIGHTS = """
import sys, pkcs11
module, token, pin, label, *given = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    for key in list(session.get_objects({pkcs11.Attribute.LABEL: label})):
        for right in ("ENCRYPT", "DECRYPT", "WRAP", "UNWRAP"):
            key[pkcs11.Attribute[right]] = right in given
"""

_MAKE_KEY = """
import sys, pkcs11
from pkcs11 import Attribute, KeyType
module, token, pin, label, bits, *set_true = sys.argv[1:]
names = ("SENSITIVE", "EXTRACTABLE", "WRAP_WITH_TRUSTED", "ENCRYPT", "DECRYPT", "WRAP", "UNWRAP")
template = {Attribute[name]: name in set_true for name in names}
with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    session.generate_key(KeyType.AES, int(bits), label=label, store=True, template=template)
"""
_HOLD = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""
ALL_RIGHTS = ("ENCRYPT", "DECRYPT", "WRAP", "UNWRAP")


class SoftHsm:
    """A folder of tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = Path(next(path for path in MODULE_PATHS if Path(path).exists()))
        self.tokens = folder / "tokens"
        self.tokens.mkdir(parents=True)
        self.configuration = folder / "softhsm2.conf"
        self.configuration.write_text(
            f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
            "slots.removable = false\nslots.mechanisms = ALL\n",
            encoding="utf-8",
        )
        os.environ["SOFTHSM2_CONF"] = str(self.configuration)
        # The only owner of the module in this process: every test that loads it must ask here.
        self.modules = Modules(pause=0.0)
        self._folders: dict[str, Path] = {}

    def make_token(self, label: str, pin: str = PIN) -> Path:
        """Make a token; gives a file with its PIN."""
        before = set(self.tokens.iterdir())
        self._util("--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", pin)
        (self._folders[label],) = set(self.tokens.iterdir()) - before
        return self.write_pin(label, pin)

    def write_pin(self, label: str, pin: str = PIN) -> Path:
        """Write a PIN file."""
        path = self.folder / f"{label}.pin"
        path.touch(mode=0o600)
        path.write_text(pin + "\n", encoding="utf-8")
        return path

    def delete_token(self, label: str) -> None:
        """Delete a token and all that it holds."""
        command = ["softhsm2-util", "--delete-token", "--token", label]
        subprocess.run(command, check=False, capture_output=True, timeout=60)
        # The tool gives up half-way when a process that uses the token locks a file of it at that moment.
        folder = self._folders.pop(label)
        for _ in range(100):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                return
        raise AssertionError(f"{folder} cannot be deleted")

    def unplug(self, label: str) -> None:
        """Take a token out of its slot, with all that it holds."""
        folder = self._folders[label]
        folder.rename(self.folder / folder.name)

    def plug_in(self, label: str) -> None:
        """Put an unplugged token back; nothing happens to one that is in."""
        folder = self._folders[label]
        if not folder.exists():
            (self.folder / folder.name).rename(folder)

    def take_out(self, label: str) -> Path:
        """Take a token out for good, so that another of its label may come: what :meth:`put_in` puts back."""
        folder = self._folders.pop(label)
        return folder.rename(self.folder / folder.name)

    def put_in(self, label: str, token: Path) -> None:
        """Put a token in that was taken out."""
        self._folders[label] = token.rename(self.tokens / token.name)

    def keep_files(self, label: str) -> Path:
        """A copy of all that a token holds, out of its slot, as a backup."""
        return Path(shutil.copytree(self._folders[label], self.folder / f"{label}.backup"))

    def restore_files(self, label: str, kept: Path) -> None:
        """Put back what a token has lost since its copy was made, each file at once and whole."""
        for path in kept.iterdir():
            if not (self._folders[label] / path.name).exists():
                path.rename(self._folders[label] / path.name)
        shutil.rmtree(kept)

    @contextlib.contextmanager
    def holding(self, label: str) -> Iterator[None]:
        """While the block runs another process has a lock of the token, and whoever calls the token waits for it."""
        lock = str(self._folders[label] / "generation")
        with subprocess.Popen(
            [sys.executable, "-c", _HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdin is not None
            holder.stdout.readline()
            yield
            holder.stdin.close()

    def change_pin(self, label: str, old: str, new: str) -> None:
        """Change a token's user PIN."""
        self._tool("--token-label", label, "--login", "--pin", old, "--change-pin", "--new-pin", new)

    def make_key(self, token: str, label: str, *true: str, bits: int = 256) -> None:
        """Make an AES key with these attributes true: of those in ``_MAKE_KEY``."""
        self.run_python(_MAKE_KEY, str(self.module), token, PIN, label, str(bits), *true)

    def destroy_key(self, token: str, label: str) -> None:
        """Delete a key object, as its holder."""
        arguments = ("--login", "--pin", PIN, "--delete-object", "--type", "secrkey", "--label", label)
        self._tool("--token-label", token, *arguments)

    def withdraw_rights(self, token: str, label: str) -> None:
        """Take from a key the right to be used for anything."""
        self.set_rights(token, label)

    def set_rights(self, token: str, label: str, *rights: str) -> None:
        """Leave a key exactly these of ``ENCRYPT``, ``DECRYPT``, ``WRAP`` and ``UNWRAP``."""
        self.run_python(_SET_RIGHTS, str(self.module), token, PIN, label, *rights)

    def run_python(self, script: str, *arguments: str) -> str:
        """What a script prints that runs in a process of its own."""
        return _run(sys.executable, "-c", script, *arguments)

    def _util(self, *arguments: str) -> None:
        _run("softhsm2-util", *arguments)

    def _tool(self, *arguments: str) -> None:
        _run("pkcs11-tool", "--module", str(self.module), *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


def require_softhsm() -> None:
    """Skip without SoftHSM and OpenSC, and fail in CI: there, nothing that can be installed may be missing."""
    missing = [tool for tool in ("softhsm2-util", "pkcs11-tool") if not shutil.which(tool)]
    if missing:
        reason = f"{' and '.join(missing)} not found: install softhsm2 and opensc"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
