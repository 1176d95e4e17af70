"""What a token's answers mean to whoever stands before it, and what to change."""

from __future__ import annotations

from pkcs11 import exceptions as p11

from ownkey_server.hsm.errors import HsmError, Trouble

_PIN = {
    p11.PinIncorrect: ("the token refuses the PIN", "tokens lock themselves after a few wrong ones: be sure of it"),
    p11.PinLocked: ("the PIN is locked after too many wrong ones", "the security officer unlocks it with the SO PIN"),
    p11.PinExpired: ("the PIN has expired", "set a new one with the vendor's tool"),
    p11.PinInvalid: ("the token does not take such a PIN", "choose one of the characters that the vendor allows"),
    p11.PinLenRange: ("the PIN is too short or too long for the token", "SoftHSM takes 4 to 255 characters"),
    p11.UserPinNotInitialized: ("the token has no user PIN yet", "`ownkey hsm init` sets it, with the SO PIN"),
}
_OTHERS: tuple[tuple[tuple[type[Exception], ...], str, Trouble, str], ...] = (
    (
        (p11.NoSuchToken, p11.TokenNotPresent, p11.TokenNotRecognised, p11.DeviceRemoved, p11.SlotIDInvalid),
        "there is no such token",
        Trouble.UNREACHABLE,
        "",
    ),
    ((p11.TokenWriteProtected,), "the token is write-protected", Trouble.REFUSED, ""),
    ((p11.SessionExists,), "somebody has a session on the token", Trouble.TAKEN, "stop what uses it, the server first"),
    (
        (p11.MechanismInvalid, p11.MechanismParamInvalid, p11.FunctionNotSupported),
        "the token cannot do this",
        Trouble.UNSUPPORTED,
        "",
    ),
    (
        (p11.AttributeReadOnly, p11.AttributeTypeInvalid, p11.AttributeValueInvalid, p11.TemplateInconsistent),
        "the token does not allow such a key, or such a change of one",
        Trouble.UNSUPPORTED,
        "",
    ),
)


def told(error: Exception) -> HsmError:
    """The error in words. Nothing of what was handed in is repeated: it may have been a PIN or a key."""
    if isinstance(error, HsmError):
        return error
    name = type(error).__name__
    for kind, (message, hint) in _PIN.items():
        if isinstance(error, kind):
            return HsmError(message, Trouble.REFUSED, hint)
    for kinds, message, trouble, hint in _OTHERS:
        if isinstance(error, kinds):
            return HsmError(f"{message} ({name})", trouble, hint)
    if isinstance(error, p11.PKCS11Error):
        # The binding's message for codes that it does not know is the code itself.
        detail = f" ({error})" if type(error) is p11.PKCS11Error and str(error) else ""
        return HsmError(f"the token answered {name}{detail}", Trouble.UNREACHABLE)
    return HsmError(f"a defect in ownkey's HSM tools: {name}", Trouble.WRONG, "please report it; -v may show more")
