"""Mechanisms: what ownkey needs, and what the token lists and says of each."""

from __future__ import annotations

from pkcs11 import Mechanism, MechanismFlag
from pkcs11 import exceptions as p11

from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import SETTING_OF, WAY_NAMES, WAYS, Bench
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.hsm.templates import KEY_BITS

_USES = {
    Mechanism.AES_GCM: MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
    Mechanism.AES_KEY_WRAP: MechanismFlag.WRAP | MechanismFlag.UNWRAP,
}
# For `ownkey hsm import`, and nothing else.
_FOR_IMPORT = (Mechanism.RSA_PKCS_KEY_PAIR_GEN, Mechanism.RSA_PKCS_OAEP, Mechanism.AES_KEY_WRAP_PAD)


def look(bench: Bench, notes: Notes) -> None:
    """Look at the mechanisms."""
    usable = [way for way in WAYS if _look_at(bench, notes, way)]
    title = "A way to wrap data keys"
    wanted = SETTING_OF.get(bench.plan.mechanism)
    chosen = next((way for way in usable if wanted in (None, way)), None)
    if chosen is not None:
        notes.tell("mechanism", WAY_NAMES[chosen])
        notes.passed("way", title, f"{WAY_NAMES[chosen]} (mechanism = {bench.plan.mechanism!r})")
    else:
        need = "AES-GCM or AES key wrap" if wanted is None else WAY_NAMES[wanted]
        notes.failed(
            "way",
            title,
            f"none: {need} is needed",
            "the key wraps data keys in the token by AES-GCM (SP 800-38D) or AES key wrap (RFC 3394), or not at all",
            "allow one of them in the token's policy or firmware; SoftHSM: slots.mechanisms in softhsm2.conf",
        )
    can_make = int(Mechanism.AES_KEY_GEN) in bench.offered
    notes.decided(
        can_make,
        "key_gen",
        "CKM_AES_KEY_GEN: keys are made in the token",
        "listed" if can_make else "not listed",
        "`ownkey hsm keygen` cannot make a key, and this check cannot make one to try things with",
        "make the key by the vendor's tool, and name it with --key",
        mild=True,
    )
    missing = [f"CKM_{one.name}" for one in _FOR_IMPORT if int(one) not in bench.offered]
    notes.passed(
        "import",
        "For `ownkey hsm import`",
        f"not listed: {', '.join(missing)}" if missing else "all are listed",
        why="needed only to bring a key that was made elsewhere",
    )


def _look_at(bench: Bench, notes: Notes, way: Mechanism) -> bool:
    name, title = way.name.lower(), f"CKM_{way.name}"
    if int(way) not in bench.offered:
        notes.noted(name, title, "not listed")
        return False
    try:
        info = bench.token.slot.get_mechanism_info(way)
    except p11.PKCS11Error as error:
        why = "the mechanism is listed, and nothing is told of it: it may not work"
        notes.warned(name, title, f"listed; asked for more: {answer_of(error)}", why, "see what `use` finds below")
        return True
    # The standard counts bytes for AES; some tokens count bits.
    fits = any(info.min_key_length <= size <= info.max_key_length for size in (KEY_BITS // 8, KEY_BITS))
    does = (info.flags & _USES[way]) == _USES[way]
    where = "in hardware" if info.flags & MechanismFlag.HW else "in software"
    uses = " and ".join(str(one.name).lower() for one in MechanismFlag if one & _USES[way])
    seen = f"listed, {where}, keys of {info.min_key_length} to {info.max_key_length}"
    if not (fits and does):
        why = f"ownkey needs it for 256-bit keys, to {uses}"
        notes.warned(name, title, f"{seen}; {_said(info.flags)}", why, "see what `use` finds below")
        return True
    notes.passed(name, title, f"{seen}, to {uses}")
    return True


def _said(flags: MechanismFlag) -> str:
    names = [str(one.name).lower() for one in MechanismFlag if one & flags]
    return f"says that it can {', '.join(names)}" if names else "says of no use"
