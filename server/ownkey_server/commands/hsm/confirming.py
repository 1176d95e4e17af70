"""Who confirms a ceremony: custodians at this terminal, each by a key and a passphrase of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from ownkey.cli.main import Shared
from ownkey_server.commands.asking import typed
from ownkey_server.commands.hsm.options import decorated, named, reference
from ownkey_server.domain.clock import Clock, system_clock
from ownkey_server.hsm import custodians as keys
from ownkey_server.hsm.custodians import Custodian
from ownkey_server.hsm.errors import HsmError
from ownkey_server.hsm.facts import KeyFacts, told_check_value
from ownkey_server.secret_sources import PROMPT, SecretReference, SecretUnusable, take_from_environment

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_LOG = Path("ceremonies.jsonl")
log_option = click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_LOG,
    envvar="OWNKEY_CEREMONY_LOG",
    show_default=True,
    show_envvar=True,
    help="The ceremony log.",
)


def custodian_options(command: F) -> F:
    """Who confirms."""
    options: tuple[Callable[[F], F], ...] = (
        click.option(
            "--custodian",
            "custodian_keys",
            metavar="NAME=KEYFILE",
            multiple=True,
            help="A custodian who confirms, and the file with their key; once for each.",
        ),
        click.option(
            "--passphrase",
            "passphrases",
            metavar="NAME=WHERE",
            multiple=True,
            help="Where a custodian's passphrase is: prompt (the default), file:PATH, env:NAME or credential:NAME.",
        ),
    )
    return decorated(command, options)


def ceremony_options(command: F) -> F:
    """The log, who confirms, and whether anything is asked."""
    yes = click.option("--yes", is_flag=True, help="Do not ask whether the check value is right.")
    return decorated(command, (log_option, custodian_options, yes))


@dataclass(frozen=True, slots=True)
class CeremonyChoice:
    """What the user said of the ceremony."""

    log: Path
    custodian_keys: Mapping[str, Path]
    passphrases: Mapping[str, SecretReference]
    yes: bool = False
    clock: Clock = system_clock

    @classmethod
    def taken(cls, options: dict[str, Any]) -> CeremonyChoice:
        """Take its options out of a command's; secrets that are in the environment are there no more."""
        keys = named("--custodian", options.pop("custodian_keys"), "NAME=KEYFILE")
        where = named("--passphrase", options.pop("passphrases"), "NAME=WHERE")
        strange = sorted({*where} - {*keys, *named("--add", options.get("add", ()), "NAME=KEYFILE")})
        if strange:
            raise click.UsageError(f"--passphrase names {strange[0]!r}, whom no --custodian does")
        # Those that are typed are asked for later, when it was shown what they confirm.
        found = {name: reference("--passphrase", place, str) for name, place in where.items() if place != PROMPT}
        take_from_environment(found.values())
        yes = bool(options.pop("yes", False))
        return cls(options.pop("log"), {name: Path(key) for name, key in keys.items()}, found, yes)

    def custodians(self, shared: Shared, what: Mapping[str, str]) -> list[Custodian]:
        """Those who confirm, once each has been shown what, and has opened their key.

        Args:
            shared: How to talk to them.
            what: What is to be done, a line each.

        Raises:
            HsmError: A key cannot be opened.
        """
        if self.custodian_keys:
            width = max(map(len, what))
            for name, text in what.items():
                # In one line: a token may have any text for its label.
                shared.output.note(f"{name:<{width}}  {' '.join(text.splitlines())}")
        return self.load(self.custodian_keys)

    def load(self, files: Mapping[str, Path]) -> list[Custodian]:
        """Custodians, each with their key opened by their passphrase."""
        return [load_custodian(name, file, self._passphrase(name)) for name, file in files.items()]

    def _passphrase(self, name: str) -> SecretReference:
        return self.passphrases.get(name) or SecretReference.typed(_ask_passphrase(name))

    def approve(self, shared: Shared) -> Callable[[Sequence[KeyFacts]], bool]:
        """Asks whether a check value is right, where there are people to ask."""

        def ask(made: Sequence[KeyFacts]) -> bool:
            if self.yes or shared.as_json or not sys.stdin.isatty():
                return True
            value = told_check_value(made[0].check_values) or "none: the token lets none be computed"
            return click.confirm(f"Check value {value}. Record the key, and use it from now on?", err=True)

        return ask


def load_custodian(name: str, file: Path, source: SecretReference) -> Custodian:
    """A custodian's key, opened."""
    try:
        passphrase = source.read()
    except SecretUnusable as error:
        raise HsmError(f"the passphrase of {name} in {error}") from None
    try:
        return keys.load(name, file, passphrase)
    finally:
        passphrase.wipe()


def _ask_passphrase(name: str) -> str:
    return typed(f"{name}, your passphrase, to confirm this")
