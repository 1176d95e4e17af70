"""The token: that there is one of the label, and what it says of itself before anybody has logged in."""

from __future__ import annotations

from pkcs11 import SlotFlag, TokenFlag

from ownkey_server.hsm.check.bench import Bench, NoToken
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.keystores.pkcs11.profiles import GENERIC

_HSM_SLOT = "the vendor's tool shows the state"


def look(bench: Bench, notes: Notes) -> None:
    """Look at the token."""
    title = "One token of this label"
    try:
        token = bench.token
    except NoToken as error:
        why = "the key store finds its token by the label: exactly one must have it"
        to_do = (
            "set token_label to the token's own, or give each its own label; where none is listed, see where the "
            "module looks for tokens: SoftHSM goes by the environment variable SOFTHSM2_CONF"
        )
        notes.failed("found", title, str(error), why, to_do)
        notes.tell("stop", "there is no token to look at")
        return
    serial = token.serial.decode(errors="replace")
    hardware, firmware = (".".join(map(str, one)) for one in (token.hardware_version, token.firmware_version))
    about = f"{token.model} of {token.manufacturer_id}, serial {serial}, hardware {hardware}, firmware {firmware}"
    notes.fact("token", about)
    notes.fact("slot", f"{token.slot.slot_id:#x}: {token.slot.slot_description}")
    notes.passed("found", title, about)
    profile = bench.profile
    known = profile.name != GENERIC
    seen = f"{profile.name}: {profile.title} ({profile.status})" if known else "none that ownkey knows"
    notes.fact("profile", seen)
    why = " ".join(profile.notes) if known else "it is used by the standard, and with care"
    notes.noted("profile", "The token's family", seen, why)
    flags = token.flags
    notes.decided(
        bool(flags & TokenFlag.TOKEN_INITIALIZED and flags & TokenFlag.USER_PIN_INITIALIZED),
        "initialized",
        "Initialized, with a user PIN",
        "yes" if flags & TokenFlag.USER_PIN_INITIALIZED else "no",
        "without a user PIN nobody can log in",
        "`ownkey hsm init`, or the vendor's tool",
    )
    if flags & TokenFlag.ERROR_STATE:
        why = "a token that has failed its self-test does no cryptography"
        notes.failed("state", "State", "the token says that it is in an error state", why, _HSM_SLOT)
    _look_at_pin(flags, notes)
    notes.decided(
        bool(flags & TokenFlag.LOGIN_REQUIRED),
        "login_required",
        "Keys need a login",
        "yes" if flags & TokenFlag.LOGIN_REQUIRED else "no",
        "whoever reaches a token without a login can use its keys",
        "choose a token or a mode in which private objects need the PIN",
        mild=True,
    )
    _look_at_hardware(bench, notes)
    if flags & TokenFlag.WRITE_PROTECTED:
        seen = "the token is write-protected: keys are made and retired elsewhere"
        notes.passed("writable", "Writing", seen, why="ownkey needs no writing to serve")


def _look_at_pin(flags: TokenFlag, notes: Notes) -> None:
    title = "State of the PIN"
    if flags & TokenFlag.USER_PIN_LOCKED:
        why = "a locked PIN lets nobody in"
        notes.failed(
            "pin", title, "locked", why, "the security officer unlocks it with the SO PIN, by the vendor's tool"
        )
        notes.tell("stop", "the PIN is locked")
    elif flags & TokenFlag.USER_PIN_FINAL_TRY:
        why = "one more wrong PIN locks the token: it was not tried"
        notes.failed("pin", title, "one try is left", why, "log in once with the vendor's tool, then check again")
        notes.tell("stop", "one try of the PIN is left, and it was not spent")
    elif flags & TokenFlag.USER_PIN_COUNT_LOW:
        why = "somebody has tried a wrong PIN since the last login; a few more lock the token"
        notes.warned("pin", title, "a wrong PIN was tried", why, "find out who: a server with an old PIN file, perhaps")
    elif flags & TokenFlag.USER_PIN_TO_BE_CHANGED:
        why = "a PIN from the factory is known to others, and some tokens do nothing until it is changed"
        notes.warned("pin", title, "it is to be changed", why, "change it with the vendor's tool, and in its file")
    else:
        notes.passed("pin", title, "in order")
    if flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
        why = "a PIN pad wants a person at each start; ownkey gives the PIN of its file"
        to_do = "choose a login by PIN for the role that ownkey has"
        notes.warned("pin_pad", "PIN pad", "the token has one", why, to_do)


def _look_at_hardware(bench: Bench, notes: Notes) -> None:
    is_hardware = bool(bench.token.slot.flags & SlotFlag.HW_SLOT)
    notes.decided(
        is_hardware,
        "hardware",
        "Hardware",
        "the slot says that it is hardware" if is_hardware else "the slot says that it is software",
        "keys of a software token are files: whoever copies them and learns the PIN has the keys",
        "right for trying and for tests; for service take an HSM",
        mild=True,
    )
