"""Who confirms a ceremony: custodians at this terminal, each by a key and a passphrase of their own."""

from __future__ import annotations

import math
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
from ownkey_server.hsm.ceremony_check import check
from ownkey_server.hsm.custodians import Confirming, Custodian
from ownkey_server.hsm.elsewhere import CustodianElsewhere
from ownkey_server.hsm.errors import HsmError, Trouble
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


def _required_number(_: click.Context, option: click.Parameter, seconds: float) -> float:
    if math.isnan(seconds):  # which is in no range, and out of none
        raise click.BadParameter("nan is no number of seconds", param=option)
    return seconds


wait_option = click.option(
    "--wait",
    callback=_required_number,
    type=click.FloatRange(min=0, max=86_400),
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a word from elsewhere is waited for.",
)


def custodian_options(command: F) -> F:
    """Who confirms."""
    options: tuple[Callable[[F], F], ...] = (
        click.option(
            "--custodian",
            "custodian_keys",
            metavar="NAME[=KEYFILE]",
            multiple=True,
            help="A custodian who confirms, and the file with their key; without a file, they confirm elsewhere, by"
            " `ownkey hsm ceremony confirm`. Once for each.",
        ),
        click.option(
            "--passphrase",
            "passphrases",
            metavar="NAME=WHERE",
            multiple=True,
            help="Where a custodian's passphrase is: prompt (the default), file:PATH, env:NAME or credential:NAME.",
        ),
        click.option(
            "--exchange",
            type=click.Path(file_okay=False, path_type=Path),
            help="The folder for requests to custodians elsewhere, and their answers; LOG.requests otherwise.",
        ),
        wait_option,
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
    elsewhere: tuple[str, ...] = ()
    exchange: Path = Path()
    wait: float = 0.0
    yes: bool = False
    clock: Clock = system_clock

    @classmethod
    def taken(cls, options: dict[str, Any]) -> CeremonyChoice:
        """Take its options out of a command's; secrets that are in the environment are there no more."""
        given = options.pop("custodian_keys")
        keys = named("--custodian", tuple(each for each in given if "=" in each), "NAME[=KEYFILE]")
        elsewhere = tuple(each for each in given if "=" not in each)
        for name in elsewhere:
            if name in keys or elsewhere.count(name) > 1:
                raise click.UsageError(f"--custodian names {name!r} twice")
        where = named("--passphrase", options.pop("passphrases"), "NAME=WHERE")
        strange = sorted({*where} - {*keys, *named("--add", options.get("add", ()), "NAME=KEYFILE")})
        if strange:
            raise click.UsageError(f"--passphrase names {strange[0]!r}, whom no --custodian does")
        # Those that are typed are asked for later, when it was shown what they confirm.
        found = {name: reference("--passphrase", place, str) for name, place in where.items() if place != PROMPT}
        take_from_environment(found.values())
        log = options.pop("log")
        return cls(
            log,
            {name: Path(key) for name, key in keys.items()},
            found,
            elsewhere,
            options.pop("exchange") or log.with_name(f"{log.name}.requests"),
            options.pop("wait"),
            bool(options.pop("yes", False)),
        )

    def custodians(self, shared: Shared, what: Mapping[str, str]) -> list[Confirming]:
        """Those who confirm: each who is here has been shown what, and has opened their key.

        Args:
            shared: How to talk to them.
            what: What is to be done, a line each.

        Raises:
            HsmError: A key cannot be opened.
        """
        if self.custodian_keys:
            self.show(shared, what)
        return [*self.load(self.custodian_keys), *self.absent(shared)]

    @staticmethod
    def show(shared: Shared, what: Mapping[str, str]) -> None:
        """Show what is to be confirmed, a line each."""
        width = max(map(len, what))
        for name, text in what.items():
            # In one line: a token may have any text for its label, and whoever makes a request any name in its detail.
            shared.output.note(" ".join(f"{name:<{width}}  {text}".splitlines()))

    def absent(self, shared: Shared) -> list[CustodianElsewhere]:
        """Those who confirm elsewhere, by the keys that the log knows.

        Raises:
            HsmError: The log does not know one, or cannot be read.
        """
        if not self.elsewhere:
            return []
        register = check(self.log).register
        strangers = [name for name in self.elsewhere if name not in register.custodians]
        if strangers:
            names = ", ".join(sorted(register.custodians)) or "none"
            raise HsmError(
                f"{strangers[0]} is no custodian of {self.log}", Trouble.REFUSED, f"its custodians are: {names}"
            )

        def teller(name: str) -> Callable[[Path], None]:
            return lambda path: shared.output.note(
                f"waiting {self.wait:g} s for {name}, who runs: ownkey hsm ceremony confirm {path}"
                f" --custodian {name}=KEYFILE"
            )

        return [
            CustodianElsewhere(name, register.custodians[name], self.exchange, self.wait, teller(name))
            for name in self.elsewhere
        ]

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
