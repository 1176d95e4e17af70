"""The return values of PKCS#11 by the names of the standard."""

from __future__ import annotations

from pkcs11 import exceptions as p11

from ownkey_server.hsm.check.cryptoki import Refused
from ownkey_server.keystores.pkcs11.profiles import GENERIC, built_in

_BY_NUMBER = {
    0x05: "CKR_GENERAL_ERROR",
    0x06: "CKR_FUNCTION_FAILED",
    0x11: "CKR_ATTRIBUTE_SENSITIVE",
    0x1B: "CKR_ACTION_PROHIBITED",
    0x30: "CKR_DEVICE_ERROR",
    0x31: "CKR_DEVICE_MEMORY",
    0x54: "CKR_FUNCTION_NOT_SUPPORTED",
    0x68: "CKR_KEY_FUNCTION_NOT_PERMITTED",
    0xB1: "CKR_SESSION_COUNT",
    0xB3: "CKR_SESSION_HANDLE_INVALID",
    0x101: "CKR_USER_NOT_LOGGED_IN",
}


def answer_of(error: Exception) -> str:
    """What the token answered, as the standard names it; for other errors what they are."""
    if isinstance(error, Refused):
        return _BY_NUMBER.get(error.answer, f"{error.answer:#x}")
    name = built_in()[GENERIC].answer_of(error)
    if name.startswith("0x"):  # one that the binding does not know
        return _BY_NUMBER.get(int(name, 16), name)
    # The binding has words of its own for what no token answered.
    return name or (isinstance(error, p11.PKCS11Error) and str(error)) or type(error).__name__
