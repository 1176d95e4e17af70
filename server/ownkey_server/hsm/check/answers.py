"""The return values of PKCS#11 by the names of the standard."""

from __future__ import annotations

import re

from pkcs11 import exceptions as p11

from ownkey_server.hsm.check.cryptoki import Refused

_UNMAPPED = re.compile(r"0x[0-9a-f]+", re.IGNORECASE)
_SPELT_OTHERWISE = {
    "FunctionCancelled": "CKR_FUNCTION_CANCELED",
    "TokenNotRecognised": "CKR_TOKEN_NOT_RECOGNIZED",
    "AnotherUserAlreadyLoggedIn": "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
}
_BY_NUMBER = {
    0x05: "CKR_GENERAL_ERROR",
    0x06: "CKR_FUNCTION_FAILED",
    0x11: "CKR_ATTRIBUTE_SENSITIVE",
    0x30: "CKR_DEVICE_ERROR",
    0x31: "CKR_DEVICE_MEMORY",
    0x54: "CKR_FUNCTION_NOT_SUPPORTED",
    0xB1: "CKR_SESSION_COUNT",
    0xB3: "CKR_SESSION_HANDLE_INVALID",
    0x101: "CKR_USER_NOT_LOGGED_IN",
}


def answer_of(error: Exception) -> str:
    """What the token answered, as the standard names it; for other errors what they are."""
    if isinstance(error, Refused):
        return _BY_NUMBER.get(error.answer, f"{error.answer:#x}")
    if not isinstance(error, p11.PKCS11Error):
        return type(error).__name__
    if type(error) is p11.PKCS11Error:
        # The binding's own words; of codes that it does not know, the number.
        unmapped = _UNMAPPED.search(str(error))
        return unmapped[0].lower() if unmapped else str(error) or "an unknown error"
    name = type(error).__name__
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return _SPELT_OTHERWISE.get(name, f"CKR_{words.upper()}")
