"""What the commands for tokens share: which token, where its PIN is, who confirms, and how errors end a command."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from ownkey.cli.output import CONFLICT, DENIED, INVALID_OBJECT, MISCONFIGURED, NOT_FOUND, UNAVAILABLE, USAGE, Failure
from ownkey_server import hardening
from ownkey_server.commands.asking import typed
from ownkey_server.commands.errors import config_option, load
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.work import TokenPlace
from ownkey_server.secret_sources import PROMPT, ReferenceInvalid, SecretReference, ask, take_from_environment
from ownkey_server.settings import Pkcs11Settings, Settings

F = TypeVar("F", bound=Callable[..., Any])

WHERE = "prompt, file:PATH, env:NAME or credential:NAME"
EXIT_CODES: Mapping[Trouble, int] = {
    Trouble.WRONG: USAGE,
    Trouble.NOT_FOUND: NOT_FOUND,
    Trouble.TAKEN: CONFLICT,
    Trouble.UNREACHABLE: UNAVAILABLE,
    Trouble.UNSUPPORTED: MISCONFIGURED,
    Trouble.UNFIT: MISCONFIGURED,
    Trouble.REFUSED: DENIED,
    Trouble.FORGED: INVALID_OBJECT,
}

module_option = click.option(
    "--module",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The vendor's library, where no settings name it: a .so file.",
)


module_arguments_option = click.option(
    "--module-arguments",
    metavar="TEXT",
    help="What the module is initialized with, for those that want something: NSS, YubiHSM.",
)

so_pin_option = click.option(
    "--so-pin",
    metavar="WHERE",
    default=PROMPT,
    show_default=True,
    help=f"Where the security officer's PIN is: {WHERE}.",
)

exportable_option = click.option(
    "--exportable",
    is_flag=True,
    help="It may leave the token later, by `ownkey hsm export` alone; never otherwise. Where the token keeps to that.",
)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Errors at a token end the command in a line, with a hint."""
    hardening.harden()
    try:
        yield
    except HsmError as error:
        raise Failure(str(error), EXIT_CODES[error.trouble], hint=error.hint) from error


def decorated(command: F, options: tuple[Callable[[F], F], ...]) -> F:
    """A command with options, in the order of its help."""
    return functools.reduce(lambda done, option: option(done), reversed(options), command)


def token_options(command: F) -> F:
    """Which token, and where its PIN is."""
    options: tuple[Callable[[F], F], ...] = (
        click.option(
            "--store", help="The token of this key store of the settings; the only one that there is, otherwise."
        ),
        config_option,
        module_option,
        module_arguments_option,
        click.option("--token", "--token-label", "token", metavar="LABEL", help="The token's label, with --module."),
        click.option("--serial", default="", help="Its serial number, where several tokens have that label."),
        click.option(
            "--pin", metavar="WHERE", help=f"Where the user PIN is: {WHERE}. What the settings say, otherwise."
        ),
    )
    return decorated(command, options)


def replica_options(command: F) -> F:
    """Further tokens that are to have the same key."""
    options: tuple[Callable[[F], F], ...] = (
        click.option(
            "--replica",
            "replicas",
            metavar="STORE",
            multiple=True,
            help="Another key store of the settings whose token is to have the same key; may be repeated.",
        ),
        click.option(
            "--replica-pin",
            "replica_pins",
            metavar="STORE=WHERE",
            multiple=True,
            help="Where the user PIN of a replica's token is, in place of what the settings say.",
        ),
    )
    return decorated(command, options)


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """What the user said of which token."""

    config: Path
    store: str | None
    module: Path | None
    module_arguments: str | None
    token: str | None
    serial: str
    pin: str | None
    replicas: tuple[str, ...] = ()
    replica_pins: tuple[str, ...] = ()

    @classmethod
    def taken(cls, options: dict[str, Any]) -> TokenChoice:
        """Take its options out of a command's."""
        names = ("config", "store", "module", "module_arguments", "token", "serial", "pin", "replicas", "replica_pins")
        return cls(**{name: options.pop(name) for name in names if name in options})

    def places(self) -> list[TokenPlace]:
        """The tokens, the first one first.

        Raises:
            HsmError: The settings have no such token.
        """
        pins = named_references("--replica-pin", self.replica_pins, lambda store: f"User PIN of the token of {store}")
        strange = sorted({*pins} - {*self.replicas})
        if strange:
            raise click.UsageError(f"--replica-pin names {strange[0]!r}, which no --replica does")
        if self.module is not None:
            if self.store is not None:
                raise click.UsageError("--store and --module exclude each other")
            if self.token is None:
                raise click.UsageError("--module needs --token, the token's label")
            pin = reference("--pin", self.pin or PROMPT, lambda: _ask_pin(self.token or ""))
            first = TokenPlace(self.token, self.module, self.token, pin, self.serial, arguments=self.module_arguments)
            others = self._settings() if self.replicas else None
        else:
            if self.token is not None:
                raise click.UsageError("--token needs --module; --store names a token of the settings")
            others = self._settings()
            first = self._first(others)
        replicas = [_place(others, name) for name in self.replicas] if others else []
        places = [first, *(one.with_pin(pins[one.name]) if one.name in pins else one for one in replicas)]
        take_from_environment(one.pin for one in places)
        return places

    def _first(self, settings: Settings) -> TokenPlace:
        stores = [name for name, one in settings.key_stores.items() if isinstance(one, Pkcs11Settings)]
        if self.store is None and len(stores) != 1:
            what = f"several: {', '.join(stores)}" if stores else "none"
            raise HsmError(f"which token? The settings have {what}", hint="--store names a key store of the settings")
        place = replace(_place(settings, self.store or stores[0]), serial=self.serial)
        if self.pin is None:
            return place
        return place.with_pin(reference("--pin", self.pin, lambda: _ask_pin(place.label)))

    def _settings(self) -> Settings:
        return load(self.config)


def _place(settings: Settings, name: str) -> TokenPlace:
    section = settings.key_stores.get(name)
    if section is None:
        names = ", ".join(settings.key_stores)
        raise HsmError(f"the settings have no key store {name!r}; they have: {names}", Trouble.NOT_FOUND)
    if not isinstance(section, Pkcs11Settings):
        raise HsmError(f"key store {name!r} is in no token: its kind is {section.kind}")
    return TokenPlace(
        name,
        Path(section.module),
        section.token_label,
        section.pin_source,
        mechanism=section.mechanism,
        arguments=section.module_arguments,
        profile=section.profile,
        exportable_keys=section.exportable_keys,
    )


def _ask_pin(label: str) -> str:
    return typed(f"User PIN of token {label}")


def reference(option: str, where: str, prompt: Callable[[], str]) -> SecretReference:
    """Where a secret is, as an option says; where it says ``prompt``, somebody is asked now."""
    try:
        return ask(where, prompt)
    except ReferenceInvalid as error:
        raise click.UsageError(f"{option} {error}, or {PROMPT}") from None


def named_references(option: str, given: tuple[str, ...], prompt: Callable[[str], str]) -> dict[str, SecretReference]:
    """Where secrets are, by a name each: ``NAME=WHERE``.

    Args:
        option: The option's name.
        given: Its values.
        prompt: What to ask for the secret of a name, where it is to be typed.
    """

    def asked(name: str) -> str:
        return typed(prompt(name))

    where = named(option, given, "NAME=WHERE")
    return {name: reference(option, place, functools.partial(asked, name)) for name, place in where.items()}


def named(option: str, given: tuple[str, ...], form: str) -> dict[str, str]:
    """The values of an option that is repeated, by their names."""
    found: dict[str, str] = {}
    for each in given:
        name, separator, value = each.partition("=")
        if not (separator and name and value):
            raise click.UsageError(f"{option} must be {form}")
        if name in found:
            raise click.UsageError(f"{option} names {name!r} twice")
        found[name] = value
    return found
