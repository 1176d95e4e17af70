"""Looking at tokens, logging in, and initializing one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pkcs11 import exceptions as p11

from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import KeyFacts, TokenFacts

if TYPE_CHECKING:
    from ownkey_server.hsm.bench import Bench

LABEL_LENGTH = 32
# Place of C_InitToken among the functions of CK_FUNCTION_LIST (PKCS#11 2.40), whose first field is a version.
_INIT_TOKEN = 9
_ERRORS = {
    0x54: p11.FunctionNotSupported,
    0xA0: p11.PinIncorrect,
    0xA1: p11.PinInvalid,
    0xA2: p11.PinLenRange,
    0xA4: p11.PinLocked,
    0xB6: p11.SessionExists,
    0xE0: p11.TokenNotPresent,
    0xE2: p11.TokenWriteProtected,
}


@dataclass(frozen=True, slots=True)
class ListTokens:
    """All tokens of the module, those that were never initialized too."""

    def run(self, bench: Bench) -> list[TokenFacts]:
        """Look."""
        return [facts for _, facts in bench.tokens()]


@dataclass(frozen=True, slots=True)
class OpenToken:
    """Find the token that everything after is about. No login."""

    label: str
    serial: str = ""

    def run(self, bench: Bench) -> TokenFacts:
        """Find it."""
        return bench.open(self.label, self.serial)


@dataclass(frozen=True, slots=True)
class LogIn:
    """Log in as the token's user."""

    pin: str = field(repr=False)

    def run(self, bench: Bench) -> None:
        """Log in."""
        bench.log_in(self.pin)


@dataclass(frozen=True, slots=True)
class ListKeys:
    """All secret keys of the token."""

    def run(self, bench: Bench) -> list[KeyFacts]:
        """Look."""
        return sorted((bench.facts(key) for key in bench.secret_keys()), key=lambda facts: facts.label)


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of all secret keys, and nothing more of them."""

    def run(self, bench: Bench) -> list[str]:
        """Look."""
        return [key.label for key in bench.secret_keys()]


@dataclass(frozen=True, slots=True)
class InitializeToken:
    """Initialize a token that was looked at, and give it its user PIN. All that it held is gone.

    Attributes:
        label: Its new label.
        was: The token as it was seen and confirmed; nothing is done if it is another by now.
        keep: It has been initialized and lacks a user PIN: only that is set.
    """

    label: str
    was: TokenFacts
    so_pin: str = field(repr=False)
    pin: str = field(repr=False)
    keep: bool = False

    def run(self, bench: Bench) -> TokenFacts:
        """Initialize it."""
        found = [token for token, facts in bench.tokens() if facts == self.was]
        if not found:
            raise HsmError("the token is not as it was when it was looked at", Trouble.TAKEN, "run the command again")
        if not self.keep:
            self._initialize(bench, found[0].slot.slot_id)
            # Tokens are known as they were when the module was initialized, and slots may have been numbered anew.
            bench.library.reinitialize()
        bench.open(self.label)
        with bench.token.open(rw=True, so_pin=self.so_pin) as session:
            session.init_pin(self.pin)
        bench.library.reinitialize()
        return bench.open(self.label)

    def _initialize(self, bench: Bench, slot: int) -> None:
        label, pin = self.label.encode().ljust(LABEL_LENGTH), self.so_pin.encode()
        code = _function(bench, _INIT_TOKEN)(slot, pin, len(pin), label)
        if code:
            raise _error(code)


def _function(bench: Bench, place: int) -> Callable[[int, bytes, int, bytes], int]:
    """A function that the binding does not have, of the module as it is loaded already."""
    module = ctypes.CDLL(str(bench.module))
    functions = ctypes.c_void_p()
    if module.C_GetFunctionList(ctypes.byref(functions)) or not functions.value:
        raise HsmError("the module does not tell its functions", Trouble.UNREACHABLE)
    first = functions.value + ctypes.sizeof(ctypes.c_void_p)  # after the version, which is padded
    addresses = ctypes.cast(first, ctypes.POINTER(ctypes.c_void_p))
    kind = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
    function: Callable[[int, bytes, int, bytes], int] = kind(addresses[place] or 0)
    return function


def _error(code: int) -> Exception:
    """What the binding would raise for a return value."""
    kind = _ERRORS.get(code)
    return kind() if kind else p11.PKCS11Error(f"return value {code:#x}")
