"""The calls of PKCS#11 that the binding has not: counts of sessions, states, attributes as they are, return values.

It opens sessions of its own and never uses the binding's: a proxy such as p11-kit's gives each user of the module
sessions that the other cannot use. Objects have the same handles for both. Like the binding, for one thread alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

UNAVAILABLE = ctypes.c_ulong(-1).value
INFINITE = 0
_RW_SESSION = 2
_SERIAL_SESSION = 4
OK = 0x00
ALREADY_INITIALIZED = 0x191
# A token may say any length; no attribute that is read here is longer.
_LONGEST_ATTRIBUTE = 1 << 16

# Places in CK_FUNCTION_LIST, in the order of the standard.
FUNCTIONS: Mapping[str, int] = {
    "C_Initialize": 0,
    "C_Finalize": 1,
    "C_GetInfo": 2,
    "C_GetSlotList": 4,
    "C_GetSlotInfo": 5,
    "C_GetTokenInfo": 6,
    "C_GetMechanismList": 7,
    "C_GetMechanismInfo": 8,
    "C_OpenSession": 12,
    "C_CloseSession": 13,
    "C_CloseAllSessions": 14,
    "C_GetSessionInfo": 15,
    "C_Login": 18,
    "C_Logout": 19,
    "C_CreateObject": 20,
    "C_CopyObject": 21,
    "C_DestroyObject": 22,
    "C_GetAttributeValue": 24,
    "C_SetAttributeValue": 25,
    "C_FindObjectsInit": 26,
    "C_FindObjects": 27,
    "C_FindObjectsFinal": 28,
    "C_EncryptInit": 29,
    "C_Encrypt": 30,
    "C_DecryptInit": 33,
    "C_Decrypt": 34,
    "C_GenerateKey": 58,
    "C_WrapKey": 60,
    "C_UnwrapKey": 61,
    "C_GenerateRandom": 64,
}

STATES = (
    "read-only, nobody logged in",
    "read-only, user logged in",
    "read-write, nobody logged in",
    "read-write, user logged in",
    "read-write, security officer logged in",
)


class _FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), ("at", ctypes.c_void_p * 68))


class _TokenInfo(ctypes.Structure):
    _fields_ = (
        ("label", ctypes.c_char * 32),
        ("manufacturer", ctypes.c_char * 32),
        ("model", ctypes.c_char * 16),
        ("serial", ctypes.c_char * 16),
        *(
            (name, ctypes.c_ulong)
            for name in (
                "flags",
                "max_sessions",
                "sessions",
                "max_rw_sessions",
                "rw_sessions",
                "max_pin",
                "min_pin",
                "total_public",
                "free_public",
                "total_private",
                "free_private",
            )
        ),
        ("hardware", ctypes.c_ubyte * 2),
        ("firmware", ctypes.c_ubyte * 2),
        ("time", ctypes.c_char * 16),
    )


class _SessionInfo(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_ulong) for name in ("slot", "state", "flags", "device_error"))


class _Attribute(ctypes.Structure):
    _fields_ = (("type", ctypes.c_ulong), ("value", ctypes.c_void_p), ("length", ctypes.c_ulong))


class Refused(Exception):
    """A call did not answer OK.

    Attributes:
        answer: What it answered.
    """

    def __init__(self, answer: int) -> None:
        super().__init__(f"{answer:#x}")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers that a token tells of itself; None where it does not say, or says that there is no limit.

    Attributes:
        most_sessions: How many there may be.
        sessions: How many this program has open.
        shortest_pin: The fewest characters of a PIN.
    """

    most_sessions: int | None
    sessions: int | None
    shortest_pin: int | None
    unlimited: bool


class Cryptoki:
    """A module that the binding has loaded and initialized.

    Args:
        path: The same as the binding's.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        found = ctypes.POINTER(_FunctionList)()
        self._library.C_GetFunctionList(ctypes.byref(found))
        self._functions = found.contents
        self._is_ours = False
        self.resume()

    def resume(self) -> None:
        """Initialize the module where that was not done, as after the binding has ended it."""
        answer = self._call("C_Initialize", None)
        if answer not in (OK, ALREADY_INITIALIZED):
            raise Refused(answer)
        # A proxy's second user has initialized for itself alone; otherwise it is the binding's to end.
        self._is_ours = self._is_ours or answer == OK

    def missing(self) -> list[str]:
        """Functions that the module leaves out, and that would crash whoever called them."""
        return [name for name, place in FUNCTIONS.items() if not self._functions.at[place]]

    def counts(self, slot: int) -> Counts:
        """What the token in a slot tells of sessions and PINs."""
        info = _TokenInfo()
        self._require("C_GetTokenInfo", ctypes.c_ulong(slot), ctypes.byref(info))
        return Counts(
            most_sessions=_number(info.max_sessions) or None,
            sessions=_number(info.sessions),
            shortest_pin=_number(info.min_pin),
            unlimited=info.max_sessions == INFINITE,
        )

    def open(self, slot: int, *, writing: bool = False) -> int:
        """A session that only reads, or one that could write."""
        handle = ctypes.c_ulong()
        flags = ctypes.c_ulong(_SERIAL_SESSION | (_RW_SESSION if writing else 0))
        self._require("C_OpenSession", ctypes.c_ulong(slot), flags, None, None, ctypes.byref(handle))
        return handle.value

    def close(self, session: int) -> None:
        """End a session and its objects."""
        self._require("C_CloseSession", ctypes.c_ulong(session))

    def close_all(self, slot: int) -> None:
        """End all sessions of this program with the token in a slot, also those that nobody has the handles of."""
        self._require("C_CloseAllSessions", ctypes.c_ulong(slot))

    def state(self, session: int) -> str:
        """In which state a session is, in words."""
        info = _SessionInfo()
        self._require("C_GetSessionInfo", ctypes.c_ulong(session), ctypes.byref(info))
        return STATES[info.state] if info.state < len(STATES) else f"unknown state {info.state}"

    def log_out(self, session: int) -> None:
        """Log this program out of the token."""
        self._require("C_Logout", ctypes.c_ulong(session))

    def attribute_length(self, session: int, object_handle: int, kind: int) -> int | None:
        """How long an attribute is; None where the object has none, or the token does not tell.

        Raises:
            Refused: It answers neither with it nor in a way that says so.
        """
        asked = _Attribute(kind, None, 0)
        return int(asked.length) if self._told(session, object_handle, asked) else None

    def attribute(self, session: int, object_handle: int, kind: int) -> bytes | None:
        """An attribute as the token has it; None where the object has none, or the token does not tell.

        Raises:
            Refused: It answers neither with it nor in a way that says so.
        """
        length = self.attribute_length(session, object_handle, kind)
        if not length:
            return None if length is None else b""
        if length > _LONGEST_ATTRIBUTE:
            raise Refused(OK)
        value = ctypes.create_string_buffer(length)
        asked = _Attribute(kind, ctypes.addressof(value), length)
        return value.raw[: asked.length] if self._told(session, object_handle, asked) else None

    def _told(self, session: int, object_handle: int, asked: _Attribute) -> bool:
        arguments = (ctypes.c_ulong(session), ctypes.c_ulong(object_handle), ctypes.byref(asked), ctypes.c_ulong(1))
        answer = self._call("C_GetAttributeValue", *arguments)
        if answer not in (OK, *_DOES_NOT_TELL):
            raise Refused(answer)
        return answer == OK and asked.length != UNAVAILABLE

    def end(self) -> None:
        """Leave the module as it was found."""
        if self._is_ours:
            self._call("C_Finalize", None)
            self._is_ours = False

    def _require(self, name: str, *arguments: Any) -> None:
        answer = self._call(name, *arguments)
        if answer != OK:
            raise Refused(answer)

    def _call(self, name: str, *arguments: Any) -> int:
        address = self._functions.at[FUNCTIONS[name]]
        if not address:
            raise Refused(_FUNCTION_NOT_SUPPORTED)
        kinds = [ctypes.c_ulong if isinstance(one, ctypes.c_ulong) else ctypes.c_void_p for one in arguments]
        function: Callable[..., int] = ctypes.CFUNCTYPE(ctypes.c_ulong, *kinds)(address)
        return function(*arguments)


_FUNCTION_NOT_SUPPORTED = 0x54
_ATTRIBUTE_SENSITIVE = 0x11
_ATTRIBUTE_TYPE_INVALID = 0x12
_DOES_NOT_TELL = (_ATTRIBUTE_SENSITIVE, _ATTRIBUTE_TYPE_INVALID)


def _number(value: int) -> int | None:
    return None if value == UNAVAILABLE else int(value)
