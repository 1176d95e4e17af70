"""An HSM's operator and the custodians, at a token of SoftHSM: runs `ownkey hsm` as they would, in this process.

The module is loaded into processes of their own by the commands themselves; what is typed is in files here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ownkey.cli.main import Shared, run
from support.softhsm import PIN, SO_PIN, SoftHsm

_KILLED_AT = """
import importlib, os, signal, sys
from ownkey.cli.main import Shared, run
place, *arguments = sys.argv[1:]
module, _, name = place.rpartition(".")
setattr(importlib.import_module(module), name, lambda *a, **b: os.kill(os.getpid(), signal.SIGKILL))
run(arguments, Shared())
"""
CUSTODIANS = ("alice", "bob", "carol")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    answer: Any
    error: Mapping[str, Any]
    printed: str

    @property
    def text(self) -> str:
        """All that was printed."""
        return self.printed


@dataclass
class Operator:
    """Who runs the commands.

    Attributes:
        folder: Where the log, the custodians' keys and the PINs are.
        softhsm: The tokens.
        token: Label of the token at hand.
    """

    folder: Path
    softhsm: SoftHsm
    capture: pytest.CaptureFixture[str]
    token: str
    pin: str = PIN
    printed: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        """The ceremony log."""
        return self.folder / "ceremonies.jsonl"

    def secret(self, name: str, value: str) -> str:
        """A secret in a file of its owner alone; the reference to it."""
        path = self.folder / f"{name}.secret"
        path.touch(mode=0o600)
        path.write_text(value + "\n", encoding="utf-8")
        return f"file:{path}"

    def run(self, *arguments: str, as_json: bool = True) -> Ended:
        """Run `ownkey hsm` with these arguments."""
        shared = Shared()
        shared.as_json = as_json
        given = ["hsm", *arguments, *(["--json"] if as_json else [])]
        self.capture.readouterr()
        code = run(given, shared)
        out, err = self.capture.readouterr()
        self.printed.append(out + err)
        lines = [line for line in err.splitlines() if line.startswith('{"')]
        return Ended(
            code,
            json.loads(out) if as_json and out else None,
            json.loads(lines[-1]) if as_json and lines else {},
            out + err,
        )

    def done(self, *arguments: str) -> Any:
        """Run it, and require that it was done; its answer."""
        ended = self.run(*arguments)
        assert ended.code == 0, ended.printed
        return ended.answer

    def open_log(self, *names: str, needed: int | None = None) -> Any:
        """Begin the log: with these custodians, or alone."""
        if not names:
            return self.done("ceremony", "open", "--log", str(self.log), "--alone")
        for name in names:
            self.new_custodian(name)
        some = ("--needed", str(needed)) if needed is not None else ()
        return self.done("ceremony", "open", "--log", str(self.log), *self.by(*names), *some)

    def new_custodian(self, name: str) -> Any:
        """Make a custodian's key."""
        where = self.secret(name, f"open sesame of {name}")
        key = self.folder / f"{name}.key"
        return self.done("custodian", "new", name, "--key", str(key), "--passphrase", where)

    def by(self, *names: str) -> tuple[str, ...]:
        """The options of custodians who confirm."""
        given: list[str] = []
        for name in names:
            given += ["--custodian", f"{name}={self.folder / name}.key"]
            given += ["--passphrase", f"{name}=file:{self.folder / name}.secret"]
        return tuple(given)

    def at(self, token: str | None = None, *, log: bool = True) -> tuple[str, ...]:
        """The options of a token, of its PIN and of the log."""
        place = ("--module", str(self.softhsm.module), "--token", token or self.token, "--pin", self._pin_reference())
        return (*place, "--log", str(self.log)) if log else place

    def make_token(self, label: str | None = None, *by: str) -> Any:
        """Initialize a token, as the commands do."""
        so_pin, pin = self.secret("so-pin", SO_PIN), self._pin_reference()
        module = str(self.softhsm.module)
        given = ("--module", module, "--token", label or self.token, "--so-pin", so_pin, "--pin", pin)
        return self.done("init", *given, "--log", str(self.log), *self.by(*by))

    def keys(self, token: str | None = None) -> dict[str, Any]:
        """The keys of a token, as `ownkey hsm list` tells them."""
        return {key["key"]: key for key in self.done("list", *self.at(token))["keys"]}

    def records(self) -> list[Mapping[str, Any]]:
        """The records of the log."""
        records: list[Mapping[str, Any]] = self.done("ceremony", "show", "--log", str(self.log))["records"]
        return records

    def killed_at(self, place: str, *arguments: str) -> None:
        """Run `ownkey hsm` in a process that is killed, by SIGKILL, when it comes to this function."""
        given = ["hsm", *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", _KILLED_AT, place, *given],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
        )
        self.printed.append(done.stdout + done.stderr)
        assert done.returncode == -signal.SIGKILL, done.stderr

    def settings(self, stores: Mapping[str, str], mechanism: str = "auto", *more: str) -> Path:
        """A settings file whose key stores are these tokens, by name, each with these lines more."""
        path = self.folder / "ownkey.toml"
        sections = [
            f'[key_stores.{name}]\nkind = "pkcs11"\nmodule = "{self.softhsm.module}"\ntoken_label = "{label}"\n'
            f'pin = "{self._pin_reference()}"\nmechanism = "{mechanism}"\n' + "".join(f"{line}\n" for line in more)
            for name, label in stores.items()
        ]
        path.write_text("[server]\ndevelopment = true\n" + "\n".join(sections), encoding="utf-8")
        return path

    def _pin_reference(self) -> str:
        return self.secret("pin", self.pin)


def named(made: Mapping[str, Any]) -> tuple[str, str]:
    """The option that says which key is meant, as whoever made it knows it."""
    return "--confirm", f"{made['key']}:{next(iter(made['check_values'].values()))}"


def needles(operator: Operator) -> Sequence[str]:
    """Secrets that must be in nothing that was printed or written."""
    return (PIN, SO_PIN, *(f"open sesame of {name}" for name in CUSTODIANS))


def everything_written(operator: Operator) -> str:
    """All that commands printed, and the log."""
    log = operator.log.read_text(encoding="utf-8") if operator.log.exists() else ""
    return "\n".join([*operator.printed, log, *os.environ.keys()])
