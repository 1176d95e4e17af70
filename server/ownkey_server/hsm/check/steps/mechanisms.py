"""Mechanisms: what ownkey needs, and what the token lists and says of each."""

from __future__ import annotations

from pkcs11 import Attribute, Mechanism, MechanismFlag
from pkcs11 import exceptions as p11

from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import WAY_NAMES, Bench
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.hsm.templates import KEY_BITS
from ownkey_server.keystores.pkcs11.ways import Way

_FLAG_OF = {
    Attribute.ENCRYPT: MechanismFlag.ENCRYPT,
    Attribute.DECRYPT: MechanismFlag.DECRYPT,
    Attribute.WRAP: MechanismFlag.WRAP,
    Attribute.UNWRAP: MechanismFlag.UNWRAP,
}
# For `ownkey hsm import`, and nothing else.
_FOR_IMPORT = (Mechanism.RSA_PKCS_KEY_PAIR_GEN, Mechanism.RSA_PKCS_OAEP, Mechanism.AES_KEY_WRAP_PAD)


def look(bench: Bench, notes: Notes) -> None:
    """Look at the mechanisms."""
    for way in Way:
        _look_at(bench, notes, way)
    title = "A way to wrap data keys"
    chosen = next(iter(bench.ways()), None)
    if chosen is not None:
        notes.tell("mechanism", WAY_NAMES[chosen])
        notes.passed("way", title, f"{WAY_NAMES[chosen]} (mechanism = {bench.plan.mechanism!r})")
    else:
        need = "AES-GCM or AES key wrap" if bench.wanted is None else WAY_NAMES[bench.wanted]
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


def _look_at(bench: Bench, notes: Notes, way: Way) -> None:
    name = way.value.replace("-", "_")
    mechanism = bench.mechanism_of(way)
    if mechanism is None:
        names = [_named(one) for one in bench.profile.mechanisms[way]]
        title = f"{WAY_NAMES[way]}: {' or '.join(names)}" if names else WAY_NAMES[way]
        seen = "not listed" if names else f"not used, by the token's profile ({bench.profile.name})"
        notes.noted(name, title, seen)
        return
    title = f"{WAY_NAMES[way]}: {_named(mechanism)}"
    needed = [_FLAG_OF[right] for right in bench.rights_of(way)]
    try:
        info = bench.token.slot.get_mechanism_info(mechanism)
    except p11.PKCS11Error as error:
        why = "the mechanism is listed, and nothing is told of it: it may not work"
        notes.warned(name, title, f"listed; asked for more: {answer_of(error)}", why, "see what `use` finds below")
        return
    # The standard counts bytes for AES; some tokens count bits.
    fits = any(info.min_key_length <= size <= info.max_key_length for size in (KEY_BITS // 8, KEY_BITS))
    does = all(info.flags & flag for flag in needed)
    where = "in hardware" if info.flags & MechanismFlag.HW else "in software"
    uses = " and ".join(str(flag.name).lower() for flag in needed)
    seen = f"listed, {where}, keys of {info.min_key_length} to {info.max_key_length}"
    if not (fits and does):
        why = f"ownkey needs it for 256-bit keys, to {uses}"
        notes.warned(name, title, f"{seen}; {_said(info.flags)}", why, "see what `use` finds below")
        return
    notes.passed(name, title, f"{seen}, to {uses}")


def _named(mechanism: Mechanism) -> str:
    """As the standard writes it, or the vendor."""
    return mechanism.name if mechanism.name.startswith("CKM_") else f"CKM_{mechanism.name}"


def _said(flags: MechanismFlag) -> str:
    names = [str(one.name).lower() for one in MechanismFlag if one & flags]
    return f"says that it can {', '.join(names)}" if names else "says of no use"
