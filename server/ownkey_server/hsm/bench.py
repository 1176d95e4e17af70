"""The bench before a token, in the process that has the module: its session, its keys, and what they are used for.

One thread, one module, one token. The session stays open from one operation to the next, so that objects that belong to
the session, such as a wrapping key for one ceremony, end with it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pkcs11 import Attribute, Mechanism, ObjectClass, TokenFlag
from pkcs11 import exceptions as p11

from ownkey_server.hsm.attribute_lists import mapper
from ownkey_server.hsm.check_values import check_values
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import KeyFacts, TokenFacts
from ownkey_server.hsm.templates import KEY_BITS, RIGHTS
from ownkey_server.keystores.pkcs11 import profiles
from ownkey_server.keystores.pkcs11.library import load
from ownkey_server.keystores.pkcs11.profile_reader import ProfileInvalid
from ownkey_server.keystores.pkcs11.profiles import Identity, Profile
from ownkey_server.keystores.pkcs11.ways import Way
from ownkey_server.keystores.pkcs11.wrapping import Wrapping


class Bench:
    """A module, loaded; a token and a session once they were opened.

    Args:
        module: The vendor's library.
        arguments: What it is initialized with; None for nothing.
        profile: The family of its tokens; ``auto`` knows it by what token and module say.

    Raises:
        HsmError: It cannot be loaded.
    """

    def __init__(self, module: Path, arguments: str | None = None, profile: str = profiles.AUTO) -> None:
        self.module = module
        self._profile = profile
        try:
            self.library = load(module, arguments)
        except p11.ArgumentsBad:
            what = "wants arguments" if arguments is None else "does not take its arguments"
            hint = "--module-arguments, or module_arguments of the key store"
            raise HsmError(f"the module {module} {what}", Trouble.UNREACHABLE, hint) from None
        except p11.PKCS11Error as error:
            reason = f"the module {module} cannot be loaded ({type(error).__name__})"
            raise HsmError(reason, Trouble.UNREACHABLE, "--module names the vendor's library: a .so file") from None
        self.offered: frozenset[Mechanism] = frozenset()
        self.profile = profiles.built_in()[profiles.GENERIC]
        self.ways: Mapping[Way, Wrapping] = {}
        # Wrapping key pairs of this session, by the name that whoever made them gave.
        self.pairs: dict[str, Any] = {}
        self._token: Any = None
        self._session: Any = None

    @property
    def session(self) -> Any:
        """The session that was logged in."""
        if self._session is None:
            raise HsmError("nobody has logged in to the token")
        return self._session

    @property
    def token(self) -> Any:
        """The token that was opened."""
        if self._token is None:
            raise HsmError("no token was opened")
        return self._token

    def tokens(self) -> list[tuple[Any, TokenFacts]]:
        """All tokens of the module, with the slots' objects of the binding."""
        found = []
        for slot in self.library.get_slots(token_present=True):
            try:
                token = slot.get_token()
            except p11.PKCS11Error:
                continue  # another slot's trouble
            found.append((token, facts_of_token(token)))
        return found

    def open(self, label: str, serial: str = "") -> TokenFacts:
        """Find a token by its label, and by its serial number where several have that label.

        Raises:
            HsmError: There is none, or several.
        """
        everything = self.tokens()
        found = [each for each in everything if each[1].initialized and each[1].label == label]
        found = [each for each in found if serial in ("", each[1].serial)]
        if not found:
            there = ", ".join(str(facts) for _, facts in everything if facts.initialized) or "none"
            raise HsmError(f"there is no token {label!r}; there are: {there}", Trouble.NOT_FOUND)
        if len(found) > 1:
            serials = ", ".join(facts.serial for _, facts in found)
            hint = f"--serial says which: {serials}"
            raise HsmError(f"several tokens have the label {label!r}", Trouble.TAKEN, hint)
        self._token = found[0][0]
        self.offered = frozenset(self._token.slot.get_mechanisms())
        self.profile = self._recognized(self._token)
        names = (str(getattr(one, "name", one)) for one in self.offered)
        return replace(
            facts_of_token(self._token, tuple(sorted(names))),
            profile=self.profile.name,
            serial_identifies=self.profile.serial_identifies,
        )

    def _recognized(self, token: Any) -> Profile:
        try:
            given = profiles.load(self._profile)
        except ProfileInvalid as error:
            raise HsmError(str(error)) from None
        library = self.library
        said = Identity(library.manufacturer_id, library.library_description, token.manufacturer_id, token.model)
        return given or profiles.recognize(said)

    def log_in(self, pin: str) -> None:
        """Open a session for writing, as the token's user."""
        self._session = session = self.token.open(rw=True, user_pin=pin, attribute_mapper=mapper())
        offered = frozenset(map(int, self.offered))
        self.ways = {
            way: Wrapping(way, mechanism, self.profile, session, self.random)
            for way in Way
            if (mechanism := self.profile.mechanism(way, offered)) is not None
        }

    def log_out(self) -> None:
        """End the session, and with it the objects that belong to it."""
        session, self._session = self._session, None
        self.ways, self.pairs = {}, {}
        if session is not None:
            session.close()

    def secret_keys(self, label: str | None = None) -> list[Any]:
        """Handles of the secret keys of the token, or of those with a label."""
        wanted: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.TOKEN: True}
        if label is not None:
            wanted[Attribute.LABEL] = label
        # Consumed here: a search that is still open would keep the session busy.
        return list(self.session.get_objects(wanted))

    def key(self, label: str) -> Any:
        """The one key with a label.

        Raises:
            HsmError: There is none, or several.
        """
        found = self.secret_keys(label)
        if not found:
            raise HsmError(f"the token has no key {label!r}", Trouble.NOT_FOUND, "`ownkey hsm list` shows what it has")
        if len(found) > 1:
            raise HsmError(f"{len(found)} keys of the token have the label {label!r}", Trouble.TAKEN)
        return found[0]

    def require_free(self, *labels: str) -> None:
        """Refuse labels that a key of the token has.

        Raises:
            HsmError: One has.
        """
        for label in labels:
            if self.secret_keys(label):
                raise HsmError(f"the token has a key {label!r} already: none is ever overwritten", Trouble.TAKEN)

    def facts(self, key: Any) -> KeyFacts:
        """What there is to tell of a key."""
        key_type = _read(key, Attribute.KEY_TYPE)
        bits = (_read(key, Attribute.VALUE_LEN) or 0) * 8
        sensitive, extractable = bool(_read(key, Attribute.SENSITIVE)), bool(_read(key, Attribute.EXTRACTABLE))
        trusted_only = _read(key, Attribute.WRAP_WITH_TRUSTED)
        rights = tuple(right.name.lower() for right in RIGHTS if _read(key, right))
        name = getattr(key_type, "name", str(key_type)).lower()
        return KeyFacts(
            label=_read(key, Attribute.LABEL) or "",
            key_type=name,
            bits=bits,
            check_values=check_values(self, key) if name == "aes" else {},
            rights=rights,
            sensitive=sensitive,
            extractable=extractable,
            local=_read(key, Attribute.LOCAL),
            never_extractable=_read(key, Attribute.NEVER_EXTRACTABLE),
            modifiable=_read(key, Attribute.MODIFIABLE),
            unfit=_unfit(name, bits, sensitive, _loose(self.profile, extractable, trusted_only), rights),
            wrap_with_trusted=trusted_only,
        )

    def random(self, length: int) -> bytes:
        """Random bytes of the token, mixed with the system's: neither has to be trusted alone."""
        ours = secrets.token_bytes(length)
        if not self.token.flags & TokenFlag.RNG:
            return ours
        theirs = bytes(self.session.generate_random(length * 8))
        return bytes(a ^ b for a, b in zip(ours, theirs, strict=True))

    def close(self) -> None:
        """End the session, and the module."""
        with contextlib.suppress(p11.PKCS11Error):
            if self._session is not None:
                self._session.close()
            self.library.finalize()


def facts_of_token(token: Any, mechanisms: tuple[str, ...] = ()) -> TokenFacts:
    """What a token says of itself."""
    return TokenFacts(
        label=token.label,
        serial=bytes(token.serial).decode("ascii", "replace").strip("\0 "),
        manufacturer=token.manufacturer_id,
        model=token.model,
        initialized=bool(token.flags & TokenFlag.TOKEN_INITIALIZED),
        has_user_pin=bool(token.flags & TokenFlag.USER_PIN_INITIALIZED),
        mechanisms=mechanisms,
    )


def _read(key: Any, attribute: Attribute) -> Any:
    """An attribute; None where the token does not tell."""
    try:
        return key[attribute]
    except (p11.PKCS11Error, ValueError, IndexError):
        return None


def _loose(profile: Profile, extractable: bool, trusted_only: bool | None) -> str:
    """What lets a key leave the token under any other; empty where nothing does."""
    if extractable and not trusted_only:
        return "CKA_EXTRACTABLE is true"
    if extractable and not profile.honours_wrap_with_trusted:
        return "CKA_EXTRACTABLE is true, and such tokens are not known to keep to CKA_WRAP_WITH_TRUSTED"
    return ""


def _unfit(key_type: str, bits: int, sensitive: bool, loose: str, rights: tuple[str, ...]) -> tuple[str, ...]:
    """Why the key store would not use the key: see keystores/pkcs11/tokens.py."""
    reasons = []
    # 0 is what SoftHSM says of every key that was unwrapped (its issue 628); imports measure such keys themselves.
    if key_type != "aes" or bits not in (0, KEY_BITS):
        reasons.append(f"it is no AES key of {KEY_BITS} bits")
    if not sensitive:
        reasons.append("CKA_SENSITIVE is false")
    if loose:
        reasons.append(loose)
    if not {"decrypt", "unwrap"} & {*rights}:
        reasons.append("it may not open anything")
    return tuple(reasons)
