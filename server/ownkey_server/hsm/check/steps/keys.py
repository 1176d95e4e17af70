"""Keys: whether those that were named, or one made as ownkey makes them, are as a customer's key must be."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as p11

from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import WAY_NAMES, Bench
from ownkey_server.hsm.check.cryptoki import Refused
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.hsm.templates import KEY_BITS
from ownkey_server.keystores.pkcs11.ways import Way

_VALUE_SIZE = 8
_MAKE_ANEW = "make a new key (`ownkey hsm keygen`) and move to it"
_FORGED = "the token tells of another key than was asked for: trust nothing else that it says"
_NO_END = 30


def look(bench: Bench, notes: Notes) -> None:
    """Look at the keys."""
    for label in bench.plan.keys:
        _look_at_named(bench, notes, label)
    if bench.plan.keys:
        return
    if int(Mechanism.AES_KEY_GEN) not in bench.offered:
        notes.noted("made", "A key as ownkey makes them", "the token makes no AES keys, and none was named")
        return
    for way in bench.ways():
        title, subject = "A key as ownkey makes them", f"a key made for {WAY_NAMES[way]}"
        try:
            _, made = bench.make_kek(way)
        except p11.PKCS11Error as error:
            why = "`ownkey hsm keygen` makes keys with these attributes, and so will fail"
            to_do = "allow such keys in the token's policy, or make the key by the vendor's tool and name it with --key"
            notes.failed("made", title, f"the token answered {answer_of(error)}", why, to_do, key=subject)
            continue
        _Key(bench, notes, made, subject).look(way)
        made.destroy()


def _look_at_named(bench: Bench, notes: Notes, label: str) -> None:
    found = bench.keys_of(label)
    title = "One key of this label"
    if len(found) == 1:
        notes.passed("found", title, "there is one", key=label)
        _Key(bench, notes, found[0], label).look(None)
        return
    if found:
        why = "the label is how ownkey names the key: with several it refuses them all"
        to_do = "give each key its own label; `ownkey hsm list` shows them"
        notes.failed("found", title, f"there are {len(found)}", why, to_do, key=label)
        return
    why = "the label is how ownkey names the key: what is to be protected under it fails"
    to_do = "name a key that `ownkey hsm list` shows, with its version (/v1), or make it: `ownkey hsm keygen`"
    notes.failed("found", title, "there is none", why, to_do, key=label)


class _Key:
    """A key under the glass. Attributes that a token does not tell count as not told, never as good."""

    def __init__(self, bench: Bench, notes: Notes, key: Any, label: str) -> None:
        self._bench = bench
        self._notes = notes
        self._key = key
        self._label = label

    def look(self, made_for: Way | None) -> None:
        """Look at everything."""
        self._look_at_kind()
        self._look_at_secrecy()
        self._look_at_origin(is_session_key=made_for is not None)
        self._look_at_rights(made_for)
        self._look_at_surprises()
        if made_for is None:
            self._look_at_dates()
            self._look_at_changes()

    def _raw(self, attribute: Attribute) -> bytes | None:
        try:
            return self._bench.cryptoki.attribute(self._bench.own_session, self._key.handle, int(attribute))
        except Refused:
            return None

    def _flag(self, attribute: Attribute) -> bool | None:
        value = self._raw(attribute)
        return None if value is None or len(value) != 1 else value != b"\0"

    def _number(self, attribute: Attribute) -> int | None:
        value = self._raw(attribute)
        return int.from_bytes(value, "little") if value is not None and len(value) in (4, 8) else None

    def _decided(
        self, good: bool, name: str, title: str, seen: str, why: str, to_do: str, *, mild: bool = False
    ) -> None:
        self._notes.decided(good, name, title, seen, why, to_do, key=self._label, mild=mild)

    def _look_at_kind(self) -> None:
        kind, size = self._number(Attribute.KEY_TYPE), self._number(Attribute.VALUE_LEN)
        is_secret = self._number(Attribute.CLASS) == int(ObjectClass.SECRET_KEY)
        bits = f"{size * 8} bits" if size is not None else "a size that the token does not tell"
        self._decided(
            is_secret and kind == int(KeyType.AES) and size == KEY_BITS // 8,
            "kind",
            "kind",
            f"{'AES' if kind == int(KeyType.AES) else 'not AES'}, {bits}",
            "a customer's key is an AES key of 256 bits; ownkey uses no other",
            _MAKE_ANEW,
        )

    def _look_at_secrecy(self) -> None:
        for attribute, good, name, what in (
            (Attribute.SENSITIVE, True, "sensitive", "CKA_SENSITIVE: the token does not show it"),
            (Attribute.EXTRACTABLE, False, "extractable", "CKA_EXTRACTABLE: it may not be wrapped out"),
        ):
            said = self._flag(attribute)
            if attribute is Attribute.EXTRACTABLE and said and self._flag(Attribute.WRAP_WITH_TRUSTED):
                self._look_at_exportable(f"{what}")
                continue
            why = "ownkey uses no key that its token would give away"
            self._decided(said is good, name, f"{what}", _said(said), why, _MAKE_ANEW)
        for attribute, name, what in (
            (Attribute.ALWAYS_SENSITIVE, "always_sensitive", "CKA_ALWAYS_SENSITIVE: it never was shown"),
            (Attribute.NEVER_EXTRACTABLE, "never_extractable", "CKA_NEVER_EXTRACTABLE: it never could leave"),
        ):
            said = self._flag(attribute)
            why = "there may be a copy outside of the token, so that taking the key away here does not end its use"
            to_do = f"right for a key that was imported, as by `ownkey hsm import`; otherwise {_MAKE_ANEW}"
            self._decided(said is True, name, f"{what}", _said(said), why, to_do, mild=True)
        shown = self._raw(Attribute.VALUE)
        self._decided(
            not shown,
            "value",
            "CKA_VALUE cannot be read",
            "the token gave it out" if shown else "refused",
            "the token shows a key that it calls sensitive: it protects nothing",
            "take another token, and make a new key: this one is known",
        )

    def _look_at_exportable(self, title: str) -> None:
        """Of a key that may be wrapped out, under a key alone that the security officer trusts."""
        seen = "true, under a trusted key alone (CKA_WRAP_WITH_TRUSTED)"
        profile = self._bench.profile
        if not profile.honours_wrap_with_trusted:
            why = (
                f"such tokens are not known to keep to that, by their profile ({profile.name}): ownkey uses no such key"
            )
            to_do = f"see what `export` finds below: the profile can be yours; or {_MAKE_ANEW}"
            self._notes.failed("extractable", title, seen, why, to_do, key=self._label)
        elif not self._bench.plan.exportable_keys:
            why = "the key store of the settings uses no key that can be exported: exportable_keys is not true there"
            to_do = f"set exportable_keys = true in its section, if the key is meant to be exportable; or {_MAKE_ANEW}"
            self._notes.failed("extractable", title, seen, why, to_do, key=self._label)
        else:
            why = (
                "whoever has the PINs of user and security officer can have it wrapped for themselves, also without"
                " ownkey and its log: taking the key away here does not end the use of a copy"
            )
            to_do = f"right for a key that was made with --exportable, to be cloned; otherwise {_MAKE_ANEW}"
            self._notes.warned("extractable", title, seen, why, to_do, key=self._label)

    def _look_at_origin(self, *, is_session_key: bool) -> None:
        local = self._flag(Attribute.LOCAL)
        self._decided(
            local is True,
            "local",
            "CKA_LOCAL: made in the token",
            _said(local),
            "the token made this key itself, and does not say so"
            if is_session_key
            else "the key was made elsewhere, or the token does not say that it made it: somebody may have a copy",
            "known of NSS; keys that were imported cannot be told from it"
            if is_session_key
            else "right for a key that was imported; otherwise ask who made it, and how",
            mild=True,
        )
        if not is_session_key:
            is_stored = self._flag(Attribute.TOKEN)
            why = "a key of a session is gone when its session ends"
            self._decided(is_stored is True, "token", "CKA_TOKEN: kept in the token", _said(is_stored), why, _MAKE_ANEW)
            is_private = self._flag(Attribute.PRIVATE)
            why = "on many tokens whoever reaches the module uses such a key without a PIN"
            title = "CKA_PRIVATE: only after a login"
            self._decided(is_private is True, "private", title, _said(is_private), why, _MAKE_ANEW, mild=True)
            if check_value := self._raw(Attribute.CHECK_VALUE):
                what = "CKA_CHECK_VALUE: the same on every token that holds this key"
                self._notes.noted("check_value", f"{what}", check_value.hex(), key=self._label)

    def _look_at_rights(self, made_for: Way | None) -> None:
        rights = {
            right: self._flag(right)
            for right in (Attribute.ENCRYPT, Attribute.DECRYPT, Attribute.WRAP, Attribute.UNWRAP)
        }
        has = ", ".join(right.name.lower() for right, said in rights.items() if said) or "none"
        usable = [way for way in self._bench.ways() if all(rights[one] for one in self._bench.rights_of(way))]
        title = "rights"
        if not usable:
            why = "AES-GCM takes encrypt and decrypt, AES key wrap takes wrap and unwrap; the token must have it too"
            to_do = "give it the rights for the mechanism that the token has, if its holder wants it used"
            self._notes.failed("rights", title, has, why, to_do, key=self._label)
        elif sum(map(bool, rights.values())) > len(self._bench.rights_of(usable[0])):
            why = (
                "with wrap and decrypt, whoever has the PIN can wrap another key and decrypt it; with encrypt and"
                " unwrap, bring in one that they know"
            )
            to_do = f"take from it what {WAY_NAMES[usable[0]]} does not need"
            self._notes.warned("rights", title, has, why, to_do, key=self._label)
        else:
            self._notes.passed("rights", title, f"{has}, for {WAY_NAMES[usable[0]]}", key=self._label)
        if made_for is not None and made_for not in usable:
            seen = f"asked for: {', '.join(one.name.lower() for one in self._bench.rights_of(made_for))}; got: {has}"
            self._notes.failed("rights_given", title, seen, _FORGED, "report it to the vendor", key=self._label)
        for attribute, what in (
            (Attribute.DERIVE, "other keys could be derived from it, and these could leave"),
            (Attribute.SIGN, "its MAC of a chosen block is one of AES, with which wrapped keys can be attacked"),
        ):
            said = self._flag(attribute)
            title = f"no CKA_{attribute.name}"
            to_do = f"set CKA_{attribute.name} to false, where the token allows it; or {_MAKE_ANEW}"
            self._decided(not said, attribute.name.lower(), title, _said(said), what, to_do, mild=True)

    def _look_at_surprises(self) -> None:
        surprises = []
        for attribute, what in (
            (Attribute.WRAP_TEMPLATE, "CKA_WRAP_TEMPLATE: it wraps only keys with certain attributes"),
            (Attribute.UNWRAP_TEMPLATE, "CKA_UNWRAP_TEMPLATE: what it unwraps gets certain attributes"),
        ):
            try:
                length = self._bench.cryptoki.attribute_length(
                    self._bench.own_session, self._key.handle, int(attribute)
                )
            except Refused:
                length = None
            if length:
                surprises.append(what)
        if self._flag(Attribute.WRAP_WITH_TRUSTED) and not self._flag(Attribute.EXTRACTABLE):
            surprises.append("CKA_WRAP_WITH_TRUSTED: for a key that is to be wrapped itself")
        allowed = self._raw(Attribute.ALLOWED_MECHANISMS)
        if allowed:
            numbers = {
                int.from_bytes(allowed[at : at + _VALUE_SIZE], "little") for at in range(0, len(allowed), _VALUE_SIZE)
            }
            if not any(int(self._bench.mechanism_of(way) or 0) in numbers for way in self._bench.ways()):
                surprises.append("CKA_ALLOWED_MECHANISMS: none that ownkey could use is among them")
        self._decided(
            not surprises,
            "surprises",
            "nothing that hinders wrapping",
            "; ".join(surprises) or "none",
            "the token may refuse to wrap a data key, or to give it out again",
            "see what `use` finds below; make the key without it",
            mild=True,
        )

    def _look_at_dates(self) -> None:
        dates = {name: _date(self._raw(one)) for name, one in _DATES.items()}
        today = datetime.now(UTC).date()
        end = dates["ends"]
        seen = ", ".join(f"{name} {one}" for name, one in dates.items() if one) or "none"
        is_far = end is None or (end - today).days > _NO_END
        why = "tokens may refuse a key after its end, and then nothing that it protects can be opened"
        title = "dates"
        self._decided(is_far, "dates", title, seen, why, "make the next version of the key in time", mild=True)

    def _look_at_changes(self) -> None:
        said = self._flag(Attribute.MODIFIABLE)
        title = "CKA_MODIFIABLE"
        if said is False:
            why = "its rights cannot be taken from it: its holder can only destroy it, which cannot be undone"
            self._notes.noted("modifiable", title, _said(said), why, key=self._label)
        else:
            why = (
                "its holder takes the key away by taking its rights, and can give them back; so can whoever has the PIN"
            )
            self._notes.noted("modifiable", title, _said(said), why, key=self._label)


_DATES = {"starts": Attribute.START_DATE, "ends": Attribute.END_DATE}


def _date(raw: bytes | None) -> date | None:
    try:
        return datetime.strptime(raw.decode("ascii"), "%Y%m%d").replace(tzinfo=UTC).date() if raw else None
    except ValueError:
        return None


def _said(flag: bool | None) -> str:
    return "not told" if flag is None else str(flag).lower()
