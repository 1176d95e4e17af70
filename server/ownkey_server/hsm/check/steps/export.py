"""Getting a key out that must not leave: wrapped, changed, or as a copy. On keys of the session."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11 import exceptions as p11
from pkcs11.mechanisms import GCMParams

from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import Bench
from ownkey_server.hsm.check.cryptoki import Refused
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.hsm.templates import KEY_BITS
from ownkey_server.hsm.trust import try_untrusted
from ownkey_server.keystores.pkcs11.ways import Way

_BLOCK = 16
_IV = 12
_TAG_BITS = 128
# Whatever might wrap a key, with what it needs.
_WRAPPING: Mapping[Mechanism, Any] = {
    Mechanism.AES_KEY_WRAP: None,
    Mechanism.AES_KEY_WRAP_PAD: None,
    Mechanism.AES_ECB: None,
    Mechanism.AES_CBC: bytes(_BLOCK),
    Mechanism.AES_CBC_PAD: bytes(_BLOCK),
    Mechanism.AES_GCM: None,
}
_TO_DO = "take another token or another mode of it (FIPS mode, as a rule); until then whoever has the PIN has the keys"


def look(bench: Bench, notes: Notes) -> None:
    """Try to get a key out."""
    wrapped_out = "A key that may not leave cannot be wrapped out"
    try:
        # Whatever it is for, were it for nothing that the token has: it is to be taken out, not to be used.
        _, victim = bench.make_kek(next(iter(bench.ways()), Way.GCM))
    except p11.PKCS11Error as error:
        notes.noted(
            "wrapped", wrapped_out, f"not looked at: the token makes no key of the session ({answer_of(error)})"
        )
        return
    try:
        _look_at_wrapping(bench, notes, victim, wrapped_out)
        _look_at_changes(bench, notes, victim)
        _look_at_copies(bench, notes, victim)
    finally:
        victim.destroy()
    _look_at_trust(bench, notes)


def _look_at_trust(bench: Bench, notes: Notes) -> None:
    """Whether a key that may be exported leaves only for whom the security officer trusts."""
    title = "A key of CKA_WRAP_WITH_TRUSTED is wrapped under no key that is not trusted"
    trial = try_untrusted(bench.session, bench.offered, bench.new_label())
    is_known = bench.profile.honours_wrap_with_trusted
    if trial.refused and not is_known:
        why = (
            f"by its profile ({bench.profile.name}) that is not known, and no key is made exportable, or used if it is"
        )
        to_do = "to have exportable keys all the same: honours_wrap_with_trusted = true in a profile of your own"
        notes.noted("trusted", title, trial.seen, why, to_do)
    elif trial.refused:
        notes.passed("trusted", title, trial.seen)
    elif is_known and trial.tried:
        why = "ownkey would make exportable keys here, and whoever has the PIN can take them along"
        to_do = "take no exportable keys into use here; honours_wrap_with_trusted = false in a profile of your own"
        notes.failed("trusted", title, trial.seen, why, to_do)
    else:
        why = "ownkey makes no exportable keys here, and uses none"
        notes.noted("trusted", title, trial.seen, "" if is_known else why)


def _look_at_wrapping(bench: Bench, notes: Notes, victim: Any, title: str) -> None:
    try:
        wrapper = _wrapper(bench)
    except p11.PKCS11Error as error:
        notes.noted("wrapped", title, f"not looked at: the token makes no wrapping key ({answer_of(error)})")
        return
    got, refused = [], []
    for mechanism, parameters in _WRAPPING.items():
        if int(mechanism) not in bench.offered:
            continue
        if mechanism is Mechanism.AES_GCM:
            parameters = GCMParams(os.urandom(_IV), b"", _TAG_BITS)  # noqa: PLW2901
        try:
            wrapper.wrap_key(victim, mechanism=mechanism, mechanism_param=parameters)
        except p11.PKCS11Error as error:
            refused.append(f"CKM_{mechanism.name}: {answer_of(error)}")
        else:
            got.append(f"CKM_{mechanism.name}")
    wrapper.destroy()
    if not got and not refused:
        notes.passed("wrapped", title, "the token has no mechanism that would")
        return
    notes.decided(
        not got,
        "wrapped",
        title,
        f"the token wrapped it out by {', '.join(got)}, though CKA_EXTRACTABLE is false" if got else "; ".join(refused),
        "whoever has the PIN can take a customer's key out under a key of their own, use it elsewhere, and leave no"
        " trace: taking the key away then ends nothing",
        _TO_DO,
    )


def _wrapper(bench: Bench) -> Any:
    rights = (Attribute.WRAP, Attribute.UNWRAP, Attribute.ENCRYPT, Attribute.DECRYPT)
    template = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, **dict.fromkeys(rights, True)}
    return bench.session.generate_key(KeyType.AES, KEY_BITS, label=bench.new_label(), store=False, template=template)


def _look_at_changes(bench: Bench, notes: Notes, victim: Any) -> None:
    for attribute, value, name in (
        (Attribute.EXTRACTABLE, True, "made_extractable"),
        (Attribute.SENSITIVE, False, "made_not_sensitive"),
    ):
        title = f"CKA_{attribute.name} cannot be changed to {str(value).lower()}"
        try:
            victim[attribute] = value
        except p11.PKCS11Error as error:
            notes.passed(name, title, answer_of(error))
            continue
        try:
            now = bench.cryptoki.attribute(bench.own_session, victim.handle, int(attribute))
        except Refused:
            now = None
        changed = now == bytes([value])
        seen = "it was changed" if changed else "the token said yes, and changed nothing"
        why = "one call by whoever has the PIN, and the key can leave"
        notes.decided(not changed, name, title, seen, why, _TO_DO)


def _look_at_copies(bench: Bench, notes: Notes, victim: Any) -> None:
    title = "No copy of it may leave"
    for changed in ({Attribute.EXTRACTABLE: True}, {Attribute.SENSITIVE: False}):
        try:
            copy = victim.copy({Attribute.TOKEN: False, Attribute.LABEL: bench.new_label(), **changed})
        except p11.PKCS11Error as error:
            answer = answer_of(error)
            continue
        try:
            (attribute, value), *_ = changed.items()
            now = bench.cryptoki.attribute(bench.own_session, copy.handle, int(attribute))
        except Refused:
            now = None
        finally:
            copy.destroy()
        if now == bytes([value]):
            seen = f"the token made one with CKA_{attribute.name} {str(value).lower()}"
            why = "one call by whoever has the PIN, and the key can leave"
            notes.failed("copied", title, seen, why, _TO_DO)
            return
        answer = "the copy is as the key was"
    notes.passed("copied", title, answer)
