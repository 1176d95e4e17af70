"""What is peculiar to a family of PKCS#11 tokens, as data: one file a family in ``profiles/``.

The code asks a profile; it knows no vendor. ``generic.toml`` has every key and says what each means; the other files
have only what differs. An operator may bring a file of their own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

from pkcs11 import Mechanism
from pkcs11 import exceptions as p11

from ownkey_server.keystores.pkcs11.profile_reader import ProfileInvalid, Table, document, merged, names_a_file
from ownkey_server.keystores.pkcs11.ways import Way

AUTO = "auto"
GENERIC = "generic"
ANY = "*"
# What describes a file and is not taken over from the file that it builds on.
_OWN = ("title", "status", "sources", "notes", "recognized", "like")
# The standard's meanings hold for every token; a family adds its own.
_ADDED = ("gone", "pin_refused", "unsupported")
_UNMAPPED = re.compile(r"Unmapped error code (0x[0-9a-f]+)")
# Exceptions of the binding that no token answers with.
_OF_THE_BINDING = {
    "PKCS11Error",
    "MultipleObjectsReturned",
    "MultipleTokensReturned",
    "NoSuchKey",
    "NoSuchToken",
}
_SPELT_OTHERWISE = {
    "FunctionCancelled": "CKR_FUNCTION_CANCELED",
    "TokenNotRecognised": "CKR_TOKEN_NOT_RECOGNIZED",
    "AnotherUserAlreadyLoggedIn": "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
}


class GcmIv(Enum):
    """Who makes the IV of AES-GCM."""

    OURS = "ours"
    TOKEN = "token"  # noqa: S105 - of another kind


class KeyWrapBy(Enum):
    """Which functions do AES key wrap: on a session object of the secret, or on its bytes."""

    WRAP = "wrap"
    ENCRYPT = "encrypt"


class RandomFrom(Enum):
    """Where random bytes come from."""

    FLAG = "flag"
    TOKEN = "token"  # noqa: S105 - of another kind
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a module and its token say of themselves.

    Attributes:
        library_manufacturer: ``manufacturerID`` of ``C_GetInfo``.
        library_description: ``libraryDescription`` of ``C_GetInfo``.
        token_manufacturer: ``manufacturerID`` of ``C_GetTokenInfo``.
        token_model: ``model`` of ``C_GetTokenInfo``.
    """

    library_manufacturer: str
    library_description: str
    token_manufacturer: str
    token_model: str


@dataclass(frozen=True, slots=True)
class Recognition:
    """Patterns of which every one that is given must match; ``*`` stands for anything, case does not matter."""

    library_manufacturer: str | None
    library_description: str | None
    token_manufacturer: str | None
    token_model: str | None

    def matches(self, identity: Identity) -> bool:
        """Whether the identity is meant."""
        pairs = (
            (self.library_manufacturer, identity.library_manufacturer),
            (self.library_description, identity.library_description),
            (self.token_manufacturer, identity.token_manufacturer),
            (self.token_model, identity.token_model),
        )
        return all(pattern is None or fnmatchcase(said.lower(), pattern.lower()) for pattern, said in pairs)


@dataclass(frozen=True, slots=True)
class Errors:
    """What a token's return values mean, by their names (``CKR_…``)."""

    bad_ciphertext: frozenset[str]
    gone: frozenset[str]
    pin_refused: frozenset[str]
    unsupported: frozenset[str]


@dataclass(frozen=True, slots=True)
class Profile:
    """A family of tokens. What each attribute means is said in ``profiles/generic.toml``."""

    name: str
    title: str
    status: str
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    recognized: tuple[Recognition, ...]
    order: tuple[Way, ...]
    mechanisms: Mapping[Way, tuple[Mechanism, ...]]
    gcm_iv: GcmIv
    key_wrap_by: KeyWrapBy
    unwrap_wants_length: bool
    errors: Errors
    error_names: Mapping[int, str]
    serial_identifies: bool
    random: RandomFrom
    wraps_unextractable: bool
    honours_wrap_with_trusted: bool
    read_write_sessions: bool
    max_sessions: int

    def mechanism(self, way: Way, offered: frozenset[int]) -> Mechanism | None:
        """What the token calls the way: the first of its names that the token offers."""
        return next((one for one in self.mechanisms[way] if int(one) in offered), None)

    def answer_of(self, error: Exception) -> str:
        """The name of the return value that an exception of the binding stands for; empty if it is none."""
        if type(error) is p11.PKCS11Error and (unmapped := _UNMAPPED.search(str(error))):
            number = int(unmapped[1], 16)
            return self.error_names.get(number, f"{number:#x}")
        return _ERROR_NAMES.get(type(error), "")

    def suspects_bytes(self, error: Exception) -> bool:
        """Whether the bytes handed in are suspected before the session is."""
        return ANY in self.errors.bad_ciphertext or self.answer_of(error) in self.errors.bad_ciphertext


def _name_of(kind: type[p11.PKCS11Error]) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind.__name__)
    return _SPELT_OTHERWISE.get(kind.__name__, f"CKR_{words.upper()}")


_ERROR_NAMES: Mapping[type[Exception], str] = {
    kind: _name_of(kind)
    for name, kind in vars(p11).items()
    if isinstance(kind, type) and issubclass(kind, p11.PKCS11Error) and name not in _OF_THE_BINDING
}
_MECHANISMS: Mapping[str, Mechanism] = {
    f"CKM_{name}": member for name, member in Mechanism.__members__.items() if not name.startswith("_")
}


@functools.cache
def built_in() -> Mapping[str, Profile]:
    """The profiles that come with ownkey, by name, ``generic`` among them.

    Raises:
        ProfileInvalid: One of them is broken.
    """
    return {name: _read(name, content) for name, content in _documents().items()}


def load(name_or_path: str) -> Profile | None:
    """The profile that a setting names: a built-in one, or an operator's file; None for ``auto``.

    Raises:
        ProfileInvalid: There is none of that name, or the file is wrong.
    """
    if name_or_path == AUTO:
        return None
    if name_or_path in built_in():
        return built_in()[name_or_path]
    if not names_a_file(name_or_path):
        # Not repeated: a text in the settings may be a secret, put into the wrong place.
        known = ", ".join(sorted(built_in()))
        raise ProfileInvalid(f"there is no profile of this name; there are {AUTO}, {known}, or a file, PATH.toml")
    return _read(name_or_path, document(name_or_path, Path(name_or_path)))


def recognize(identity: Identity) -> Profile:
    """The built-in profile of a token, by what it and its module say; ``generic`` if none knows it."""
    return next(
        (one for one in built_in().values() if any(rule.matches(identity) for rule in one.recognized)),
        built_in()[GENERIC],
    )


def source_of(name_or_path: str) -> str:
    """The text of a profile's file.

    Raises:
        ProfileInvalid: There is none of that name.
    """
    if not names_a_file(name_or_path) and name_or_path in built_in():
        place = resources.files(__package__) / "profiles" / f"{name_or_path}.toml"
        return place.read_text(encoding="utf-8")
    load(name_or_path)
    return Path(name_or_path).read_text(encoding="utf-8")


@functools.cache
def _documents() -> Mapping[str, dict[str, Any]]:
    folder = resources.files(__package__) / "profiles"
    with resources.as_file(folder) as place:
        return {path.stem: document(path.stem, path) for path in sorted(place.glob("*.toml"))}


def _read(name: str, content: Mapping[str, Any]) -> Profile:
    base = _documents()[GENERIC]
    like = content.get("like")
    if like is not None:
        if like not in _documents():
            known = ", ".join(sorted(_documents()))
            raise ProfileInvalid(f"profile {name}: like: there is no profile {like!r}; there are {known}")
        base = _over(base, _documents()[like])
    return _profile(name, _over(base, content))


def _over(base: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    result = merged({key: value for key, value in base.items() if key not in _OWN}, content)
    old, new = base.get("errors", {}), content.get("errors", {})
    if isinstance(new, dict):
        for key in _ADDED:
            if isinstance(new.get(key), list):
                result["errors"][key] = [*dict.fromkeys([*old.get(key, []), *new[key]])]
    return result


def _profile(name: str, content: Mapping[str, Any]) -> Profile:
    whole = Table(name, content)
    vendor = whole.table("vendor")
    vendor_mechanisms, vendor_errors = vendor.table("mechanisms").numbers(), vendor.table("errors").numbers()
    mechanisms = whole.table("mechanisms")
    gcm, key_wrap, errors = whole.table("gcm"), whole.table("key_wrap"), whole.table("errors")
    token, session = whole.table("token"), whole.table("session")
    own_mechanisms = {one: _vendor_mechanism(one, number) for one, number in vendor_mechanisms.items()}
    known_mechanisms = {**_MECHANISMS, **own_mechanisms}
    known_errors = {*_ERROR_NAMES.values(), *vendor_errors}
    ways = [way.value for way in Way]
    order = mechanisms.names("order", ways, kind="way to wrap")
    whole.optional("like", whole.text)
    profile = Profile(
        name=name,
        title=whole.text("title"),
        status=whole.choice("status", ("tried", "documented")),
        sources=whole.texts("sources", least=1),
        notes=whole.texts("notes"),
        recognized=tuple(_recognition(one) for one in whole.tables("recognized")),
        order=tuple(Way(one) for one in order),
        mechanisms={
            way: tuple(known_mechanisms[one] for one in mechanisms.names(way.value, known_mechanisms, kind="mechanism"))
            for way in Way
        },
        gcm_iv=GcmIv(gcm.choice("iv", [one.value for one in GcmIv])),
        key_wrap_by=KeyWrapBy(key_wrap.choice("by", [one.value for one in KeyWrapBy])),
        unwrap_wants_length=key_wrap.flag("unwrap_wants_length"),
        errors=Errors(
            **{
                key: frozenset(errors.names(key, {*known_errors, *extra}, kind="return value of PKCS#11"))
                for key, extra in (("bad_ciphertext", {ANY}), ("gone", ()), ("pin_refused", ()), ("unsupported", ()))
            }
        ),
        error_names={number: one for one, number in vendor_errors.items()},
        serial_identifies=token.flag("serial_identifies"),
        random=RandomFrom(token.choice("random", [one.value for one in RandomFrom])),
        wraps_unextractable=token.flag("wraps_unextractable"),
        honours_wrap_with_trusted=token.flag("honours_wrap_with_trusted"),
        read_write_sessions=session.flag("read_write"),
        max_sessions=session.number("max"),
    )
    for table in (vendor, mechanisms, gcm, key_wrap, errors, token, session, whole):
        table.end()
    for way in profile.order:
        if not profile.mechanisms[way]:
            raise mechanisms.wrong("order", f"{way.value!r} has no mechanism: it needs mechanisms.{way.value}")
    return profile


def _recognition(rule: Table) -> Recognition:
    fields = ("library_manufacturer", "library_description", "token_manufacturer", "token_model")
    patterns = {key: rule.optional(key, rule.text) for key in fields}
    rule.end()
    if not any(patterns.values()):
        raise rule.wrong("", f"needs a pattern for one of {', '.join(fields)}")
    return Recognition(**patterns)


def _vendor_mechanism(name: str, number: int) -> Mechanism:
    """A mechanism that the binding has no name for: it takes nothing but members of its own enumeration."""
    member = int.__new__(Mechanism, number)
    member._name_ = name
    member._value_ = number
    return member
