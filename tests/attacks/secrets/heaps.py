"""What is secret, and what was shown."""

from __future__ import annotations

import os
import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from support.server import OWNKEY

LOUD = {
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONWARNINGS": "default",
    "GRPC_VERBOSITY": "debug",
    "GRPC_TRACE": "all",
}


def secret_text() -> str:
    """A secret that somebody could type."""
    return secrets.token_urlsafe(24)


@dataclass
class Scene:
    """What is secret, and what was shown."""

    folder: Path
    secrets: dict[str, bytes] = field(default_factory=dict, repr=False)
    heaps: dict[str, bytes] = field(default_factory=dict, repr=False)

    def show(self, heap: str, content: bytes | str) -> None:
        """Add to a heap."""
        added = content.encode(errors="surrogateescape") if isinstance(content, str) else content
        self.heaps[heap] = self.heaps.get(heap, b"") + added + b"\n"

    def keep_secret(self, name: str, file: str, text: str) -> None:
        """Write a secret into a file of its own."""
        path = self.folder / file
        path.touch(mode=0o600)
        path.write_text(f"{text}\n", encoding="utf-8")
        self.secrets[name] = text.encode()

    def cli(self, *arguments: str, expect: int | None = 0, **environment: str) -> str:
        """Run a command; gives its standard output."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OWNKEY_")}
        pin = {"HSM_PIN": self.secrets["the PIN"].decode()}
        done = subprocess.run(
            [OWNKEY, *arguments],
            env=inherited | LOUD | pin | {"OWNKEY_TENANT": "acme"} | environment,
            cwd=self.folder,
            capture_output=True,
            check=False,
            timeout=120,
        )
        self.show("what commands print", done.stdout)
        self.show("what commands say", done.stderr)
        assert expect is None or done.returncode == expect, (arguments, done.returncode, done.stderr[-3000:])
        return done.stdout.decode()
