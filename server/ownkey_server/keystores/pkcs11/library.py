"""Loading a module, with arguments for those that want them.

``C_Initialize`` has a field that the standard reserves, and in which some modules take a text: NSS where its database
is, YubiHSM where its connector is. The binding leaves it empty, so such a module is initialized here.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Self

import pkcs11
from pkcs11._pkcs11 import lib as Library  # noqa: N812 - the binding's own name is a common word
from pkcs11.exceptions import ArgumentsBad, PKCS11Error

_OK, _ARGUMENTS_BAD = 0x00, 0x07


class _InitializeArguments(ctypes.Structure):
    # CK_C_INITIALIZE_ARGS; NSS reads one pointer more, which must be null.
    _fields_ = (
        ("create_mutex", ctypes.c_void_p),
        ("destroy_mutex", ctypes.c_void_p),
        ("lock_mutex", ctypes.c_void_p),
        ("unlock_mutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_char_p),
        ("beyond", ctypes.c_void_p),
    )


_Function = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)


class _FunctionList(ctypes.Structure):
    # The beginning of CK_FUNCTION_LIST, whose order is that of the standard.
    _fields_ = (("version", ctypes.c_ubyte * 2), ("initialize", _Function), ("finalize", _Function))


class InitializeFailed(PKCS11Error):
    """The module does not initialize, though its arguments are not at fault."""


class _LibraryWithArguments(Library):
    """The binding's library, initialized and finalized here."""

    _arguments: bytes
    _functions: _FunctionList

    def __new__(cls, path: str, arguments: str) -> Self:
        loaded: Self = super().__new__(cls, path)  # type: ignore[call-arg] # it is no Python class
        loaded._arguments = arguments.encode()
        found = ctypes.POINTER(_FunctionList)()
        ctypes.CDLL(path).C_GetFunctionList(ctypes.byref(found))
        loaded._functions = found.contents
        return loaded

    def __init__(self, path: str, arguments: str) -> None:  # noqa: ARG002 - it is there when the binding asks for it
        self._running = False
        super().__init__(path)

    def initialize(self) -> None:
        """Initialize the module, unless it is."""
        if self._running:
            return
        arguments = _InitializeArguments(reserved=self._arguments)
        _require_ok(self._functions.initialize(ctypes.byref(arguments)))
        self._running = True

    def finalize(self) -> None:
        """End all that the module does, if it is initialized."""
        if not self._running:
            return
        self._running = False
        _require_ok(self._functions.finalize(None))


def _require_ok(answer: int) -> None:
    if answer == _ARGUMENTS_BAD:
        raise ArgumentsBad
    if answer != _OK:
        raise InitializeFailed(f"Unmapped error code {answer:#x}")


def load(path: Path, arguments: str | None = None) -> Library:
    """The module at ``path``, initialized.

    Args:
        path: The vendor's library.
        arguments: What it is initialized with; None for nothing, as the standard has it.

    Raises:
        PKCS11Error: It is not there or does not load: exactly this class. It does not initialize: one below it,
            :class:`ArgumentsBad` where that is for want of the right arguments.
    """
    return pkcs11.lib(str(path)) if arguments is None else _LibraryWithArguments(str(path), arguments)
