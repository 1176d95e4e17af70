"""NSS's software token for tests: a database of its own for each, worked on from other processes as its operator would.

NSS must be told where its database is when it is initialized, and has one in a process: key stores on it have the
module in a process of their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ownkey_server.keystores.catalog import Modules, Pkcs11Options
from ownkey_server.secret_sources import SecretReference

MODULE_PATHS = (
    "/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
    "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",
    "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
    "/usr/lib/aarch64-linux-gnu/nss/libsoftokn3.so",
    "/usr/lib64/libsoftokn3.so",
)
LABEL = "NSS Certificate DB"
PIN = "four-score-and-seven"

# What an operator's tool would do, in a process of its own.
_OPEN = """
import sys
from pathlib import Path
import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from ownkey_server.keystores.pkcs11.library import load
module, arguments, label, pin, *rest = sys.argv[1:]
token = next(slot.get_token() for slot in load(Path(module), arguments).get_slots() if slot.get_token().label == label)
session = token.open(rw=True, user_pin=pin)
"""
_SET_RIGHTS = """
reference, *given = rest
for key in list(session.get_objects({Attribute.LABEL: reference})):
    for right in ("ENCRYPT", "DECRYPT", "WRAP", "UNWRAP"):
        key[Attribute[right]] = right in given
"""
_DESTROY = """
for key in list(session.get_objects({Attribute.LABEL: rest[0]})):
    key.destroy()
"""
# A key that is not extractable, wrapped by another key of whoever has the PIN, and opened outside the token.
_STEAL = """
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
key = next(iter(list(session.get_objects({Attribute.LABEL: rest[0]}))))
mine = bytes(range(32))
thief = session.create_object({
    Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, Attribute.VALUE: mine,
    Attribute.TOKEN: False, Attribute.WRAP: True,
})
print(key[Attribute.EXTRACTABLE], aes_key_unwrap(mine, thief.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)).hex())
"""


class Nss:
    """Databases in a folder, each a token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = Path(next(path for path in MODULE_PATHS if Path(path).exists()))
        self.modules = Modules(pause=0.0)
        self._sound: dict[str, bytes] = {}

    def make_token(self, name: str) -> Pkcs11Options:
        """Make a token; the options of a key store on it."""
        database, pin = self.folder / name, self.folder / f"{name}.pin"
        database.mkdir()
        pin.touch(mode=0o600)
        pin.write_text(PIN, encoding="utf-8")
        _run("certutil", "-N", "-d", f"sql:{database}", "-f", str(pin))
        return Pkcs11Options(self.module, LABEL, SecretReference.file(pin), module_arguments=self.arguments(name))

    def damage(self, name: str) -> None:
        """Let a token's database be none, for whoever has it open too."""
        keys = self._keys(name)
        if name not in self._sound:
            self._sound[name] = keys.read_bytes()
            self._write(keys, bytes(len(self._sound[name])))

    def mend(self, name: str) -> None:
        """Undo :meth:`damage`."""
        self._write(self._keys(name), self._sound.pop(name))

    def _keys(self, name: str) -> Path:
        return self.folder / name / "key4.db"

    def _write(self, path: Path, content: bytes) -> None:
        # In its place: a process that has the file open would otherwise go on with the old one.
        with path.open("r+b") as file:
            file.write(content)

    def arguments(self, name: str) -> str:
        """What the module is to be initialized with for a token."""
        return f"configdir='sql:{self.folder / name}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="

    def set_rights(self, name: str, reference: str, *rights: str) -> None:
        """Leave a key exactly these of ``ENCRYPT``, ``DECRYPT``, ``WRAP`` and ``UNWRAP``."""
        self.run_python(name, _SET_RIGHTS, reference, *rights)

    def destroy_key(self, name: str, reference: str) -> None:
        """Delete a key object."""
        self.run_python(name, _DESTROY, reference)

    def stolen(self, name: str, reference: str) -> tuple[str, bytes]:
        """What a key says of ``CKA_EXTRACTABLE``, and its bytes all the same."""
        extractable, value = self.run_python(name, _STEAL, reference).split()
        return extractable, bytes.fromhex(value)

    def run_python(self, name: str, script: str, *rest: str) -> str:
        """What a script prints that runs in a process of its own, logged in: it has ``token`` and ``session``."""
        arguments = (str(self.module), self.arguments(name), LABEL, PIN, *rest)
        return _run(sys.executable, "-c", _OPEN + script, *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


def require_nss() -> None:
    """Skip without NSS and its tools, and fail in CI: there, nothing that can be installed may be missing."""
    if shutil.which("certutil") and any(Path(path).exists() for path in MODULE_PATHS):
        return
    reason = "NSS's certutil or libsoftokn3.so not found: install libnss3-tools"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
