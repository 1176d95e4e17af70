"""A PKCS#11 module as it is loaded in this process, and what can be said of one that does not serve.

Only one thread may use a module: python-pkcs11 0.10 initializes it for a single one, and lets others run during its
calls, so that two threads in one module crash it. ``thread`` and ``process`` are the two places where it may be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pkcs11.exceptions import ArgumentsBad, PKCS11Error

from ownkey_server.keystores.pkcs11.library import load

if TYPE_CHECKING:
    from pkcs11._pkcs11 import lib as Library  # noqa: N812 - the binding's own name is a common word

# Each reinitialization ends every session of every token of the module.
SECONDS_BETWEEN_REINITIALIZATIONS = 1.0


class ModuleMissing(Exception):
    """The module cannot be loaded, or not without the right arguments. The message says which, and what helps."""


class LoadedModule:
    """A module in this process. Everything here is for its one thread.

    Args:
        path: The vendor's library.
        arguments: What it is initialized with; None for nothing.
        pause: Seconds from one reinitialization until the next may be.
        monotonic: The clock, in seconds.
    """

    def __init__(
        self,
        path: Path,
        arguments: str | None = None,
        *,
        pause: float = SECONDS_BETWEEN_REINITIALIZATIONS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._arguments = arguments
        self._pause = pause
        self._monotonic = monotonic
        self._library: Library | None = None
        self._generation = 0
        self._reinitialized_at: float | None = None

    def library(self) -> Library:
        """The module, loaded now if it was not.

        Raises:
            ModuleMissing: There is no module at the path, or it does not load.
        """
        if self._library is None:
            try:
                self._library = load(self._path, self._arguments)
            except ArgumentsBad as error:
                what = "wants module_arguments" if self._arguments is None else "does not take its module_arguments"
                raise ModuleMissing(f"the module {self._path} {what}") from error
            except PKCS11Error as error:
                if type(error) is not PKCS11Error:
                    raise  # it was loaded, and says itself what is wrong
                raise ModuleMissing(f"the module {self._path} cannot be loaded") from error
        return self._library

    @property
    def generation(self) -> int:
        """Changes with every reinitialization, which ends all sessions and handles of the module."""
        return self._generation

    @property
    def rests_for(self) -> float:
        """Seconds until it may be reinitialized again; 0 when it may now."""
        at = self._reinitialized_at
        return 0.0 if at is None else max(0.0, at + self._pause - self._monotonic())

    def reinitialize(self) -> bool:
        """Start the module anew, so that it sees tokens as they are now.

        Returns:
            Whether it was: not again so soon after the last time, whoever asks. One dead token would otherwise keep
            ending the sessions of the others.
        """
        if self.rests_for > 0:
            return False
        self._reinitialized_at = self._monotonic()
        library = self.library()
        self._generation += 1
        library.reinitialize()
        return True
