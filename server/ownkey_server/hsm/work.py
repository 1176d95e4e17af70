"""A token at work: the process that has its module, its facts, and its login."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ownkey_server.hsm.errors import HsmError
from ownkey_server.hsm.facts import TokenFacts
from ownkey_server.hsm.operations.tokens import LogIn, OpenToken
from ownkey_server.hsm.processes import SECONDS, ModuleProcess, Operation
from ownkey_server.secret_sources import SecretReference, SecretUnusable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """Where a token is.

    Attributes:
        name: What to call it: a key store of the settings, or the token's label.
        module: The vendor's library.
        label: The token's label.
        pin: Where its user PIN is.
        serial: Its serial number, where several have that label.
        mechanism: How its keys wrap: ``auto``, or a way's word.
        arguments: What the module is initialized with; None for nothing.
        profile: The token's family; ``auto`` knows it by what token and module say.
        exportable_keys: Its key store uses keys that can be exported; no settings say otherwise, where it has none.
    """

    name: str
    module: Path
    label: str
    pin: SecretReference
    serial: str = ""
    mechanism: str = "auto"
    arguments: str | None = None
    profile: str = "auto"
    exportable_keys: bool = True

    def with_pin(self, pin: SecretReference) -> TokenPlace:
        """The same, with its PIN from elsewhere."""
        return replace(self, pin=pin)


class TokenAtWork:
    """A token, opened; nobody has logged in yet.

    Args:
        place: Where it is.
        verbose: Let what the module prints be seen.

    Raises:
        HsmError: It cannot be opened.
    """

    def __init__(self, place: TokenPlace, *, verbose: bool = False) -> None:
        self.place = place
        self._process = ModuleProcess(place.module, place.arguments, place.profile, verbose=verbose)
        try:
            self.facts: TokenFacts = self._process.ask(OpenToken(place.label, place.serial))
        except BaseException:
            self._process.close()
            raise

    def log_in(self) -> None:
        """Log in with the place's PIN: tried once.

        Raises:
            HsmError: The PIN cannot be had, or is refused.
        """
        self._process.ask(LogIn(text_of(self.place.pin, "PIN")))

    def ask(self, operation: Operation[T], seconds: float = SECONDS) -> T:
        """Have something done; its result.

        Raises:
            HsmError: It could not be done. With several tokens at work, the message names this one.
        """
        return self._process.ask(operation, seconds)

    @property
    def name(self) -> str:
        """What to call it."""
        return self.place.name

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def close(self) -> None:
        """End its process."""
        self._process.close()


@contextlib.contextmanager
def at_work(places: Sequence[TokenPlace], *, verbose: bool = False) -> Iterator[list[TokenAtWork]]:
    """Tokens, each opened and logged in to, until the block ends.

    Raises:
        HsmError: One cannot be opened, or two places are the same token.
    """
    with contextlib.ExitStack() as stack:
        opened: list[TokenAtWork] = []
        for place in places:
            token = TokenAtWork(place, verbose=verbose)
            stack.callback(token.close)
            same = next((one for one in opened if _same(one, token)), None)
            if same is not None:
                raise HsmError(f"{same.name} and {token.name} are the same token: {token.facts}")
            opened.append(token)
        for token in opened:
            with _named(token, several=len(opened) > 1):
                token.log_in()
        yield opened


def _same(one: TokenAtWork, other: TokenAtWork) -> bool:
    if one.facts.identity != other.facts.identity:
        return False
    where = [(token.place.module.resolve(), token.place.arguments) for token in (one, other)]
    return where[0] == where[1] or other.facts.serial_identifies


@contextlib.contextmanager
def _named(token: TokenAtWork, *, several: bool) -> Iterator[None]:
    try:
        yield
    except HsmError as error:
        if not several:
            raise
        raise HsmError(f"{token.name}: {error}", error.trouble, error.hint) from None


def text_of(reference: SecretReference, what: str) -> str:
    """A secret that is a text, such as a PIN.

    Raises:
        HsmError: It cannot be had. The message has the reference alone.
    """
    try:
        secret = reference.read()
    except SecretUnusable as error:
        raise HsmError(f"the {what} in {error}") from None
    try:
        text = secret.reveal().decode()
    except UnicodeDecodeError:
        text = None
    secret.wipe()
    if text is None:  # raised here: the other error holds the bytes, and would be this one's context
        raise HsmError(f"the {what} in {reference} is no text in UTF-8")
    return text
