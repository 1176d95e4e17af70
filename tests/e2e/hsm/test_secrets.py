"""Secrets of ceremonies come from where options say, and go nowhere else: no process of a module inherits them."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from ownkey_server.hsm import processes
from support.hsm_operator import Operator
from support.softhsm import PIN, SO_PIN


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line and the environment of each process that is started for a module."""
    seen: list[str] = []

    class Watched(subprocess.Popen[Any]):
        def __init__(self, command: list[str], **options: Any) -> None:
            seen.append(repr((command, dict(os.environ), options.get("env"))))
            super().__init__(command, **options)

    monkeypatch.setattr(processes.subprocess, "Popen", Watched)
    return seen


def test_secrets_of_the_environment_are_taken_and_not_passed_on(
    operator: Operator, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.open_log("alice", "bob")
    secrets = {
        "THE_SO_PIN": SO_PIN,
        "THE_PIN": PIN,
        "ALICE": "open sesame of alice",
        "BOB": "open sesame of bob",
        "ONE": "11" * 32,
        "OTHER": "22" * 32,
    }
    by = operator.by("alice", "bob")
    by = tuple("alice=env:ALICE" if "=file:" in each and each.startswith("alice") else each for each in by)
    by = tuple("bob=env:BOB" if "=file:" in each and each.startswith("bob") else each for each in by)
    place = ("--module", str(operator.softhsm.module), "--token", operator.token, "--log", str(operator.log), *by)
    xor = ("--method", "xor", "--component", "env:ONE", "--component", "env:OTHER")
    for command in (
        ("init", *place, "--so-pin", "env:THE_SO_PIN", "--pin", "env:THE_PIN"),
        ("keygen", "acme-main", *place, "--pin", "env:THE_PIN"),
        ("load", "acme-other", *place, "--pin", "env:THE_PIN", *xor),
    ):
        for name, value in secrets.items():
            monkeypatch.setenv(name, value)
        before = len(started)
        operator.done(*command)
        assert len(started) > before
        given = {name for name in secrets if any(f"env:{name}" in argument for argument in command)}
        for seen in started[before:]:
            assert not [name for name in given if f"'{name}'" in seen]
            assert not [name for name in given if secrets[name] in seen.replace(f"'{name}'", "")]
