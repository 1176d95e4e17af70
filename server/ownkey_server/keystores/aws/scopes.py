"""What a customer takes back by the policy of their key: one class, group, asset or hour, what is all of these, or all.

A scope becomes conditions on the encryption context, which is a public contract (``domain/encryption_context.py``).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Self, TypeAlias

from ownkey_server.domain import encryption_context
from ownkey_server.domain.assets import AssetClass
from ownkey_server.domain.policy import DEFAULT_WRAPPING, Wrapping

Conditions: TypeAlias = dict[str, dict[str, str]]

NAMES = {
    "class": encryption_context.ASSET_CLASS,
    "group": encryption_context.GROUP,
    "asset": encryption_context.ASSET_ID,
    "hour": encryption_context.HOUR,
}
# Unless a tenant's policy sets them to be wrapped directly: their data keys never come to the customer's key.
BRANCH_BY_DEFAULT = frozenset(one for one, way in DEFAULT_WRAPPING.items() if way is Wrapping.BRANCH)
EVERYTHING = "all"
CONTEXT_KEY = "kms:EncryptionContext:"

_GROUP = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ASSET = re.compile(r"[!-~]{1,256}")
_HOUR = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}")
# The longest that a prefix can be stretched to: where it ends, the rest of an hour that exists stands.
_HOUR_PREFIX = re.compile(r"[0-9]{4}-(?:[0-9]{2}-(?:[0-9]{2}T?)?)?\*|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-2]\*")
_REST_OF_AN_HOUR = "0000-01-01T00"
_MEANT_AS_A_COMMA = ",,"


class ScopeInvalid(ValueError):
    """It says no scope. The message says what there is."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Pairs that must all hold; an empty one always holds, so that a scope without any is everything.

    Attributes:
        asset_class: A class.
        group: Id of the group by which content was protected.
        asset: Id of one asset.
        hour: The hour in which its key was made, ``2026-11-23T16``, or a prefix that ends in ``*``.
    """

    asset_class: str = ""
    group: str = ""
    asset: str = ""
    hour: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The scope that ``class=phone_recording,group=finance`` says, or ``all``; a comma in a value is ``,,``.

        Raises:
            ScopeInvalid: It says none.
        """
        if text.strip() == EVERYTHING:
            return cls()
        pairs: dict[str, str] = {}
        for part in text.replace(_MEANT_AS_A_COMMA, "\0").split(","):
            name, equals, value = part.replace("\0", ",").strip().partition("=")
            if not equals or name not in NAMES:
                raise ScopeInvalid(
                    f"{part.strip()!r} is no pair: a scope is {EVERYTHING} by itself, or made of"
                    f" {', '.join(f'{one}=VALUE' for one in NAMES)} (a comma inside a value is written ,,)"
                )
            if name in pairs:
                raise ScopeInvalid(
                    f"{name} is said twice: pairs of one scope must all hold; for either, give two scopes"
                )
            pairs[name] = _CHECKS[name](value)
        return cls(*(pairs.get(name, "") for name in NAMES))

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left outside it."""
        return not self._pairs

    @property
    def conditions(self) -> Conditions:
        """The condition block of a statement, in a fixed order."""
        found: Conditions = {}
        for name, value in self._pairs:
            operator = "StringLike" if name == "hour" and value.endswith("*") else "StringEquals"
            found.setdefault(operator, {})[CONTEXT_KEY + NAMES[name]] = _literal(value)
        return {operator: found[operator] for operator in sorted(found)}

    @property
    def sid(self) -> str:
        """An id for its statement: the same for the same scope, and another for each other."""
        if self.is_everything:
            return "OwnkeyRevokeAll"
        text = str(self)
        kinds = "".join(name.capitalize() for name, _ in self._pairs)
        return f"OwnkeyRevoke{kinds}{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def may_miss_branches(self) -> bool:
        """Whether content in it may be wrapped by branch keys, and then does not come to the customer's key at all.

        A tenant's policy may have any class wrapped so. Not so of everything: branch keys are denied with all else.
        """
        return not self.is_everything

    @property
    def is_branched_by_default(self) -> bool:
        """Whether it is of a class that branch keys wrap unless the tenant's policy says otherwise."""
        return self.asset_class in BRANCH_BY_DEFAULT

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        values = (self.asset_class, self.group, self.asset, self.hour)
        return [(name, value) for name, value in zip(NAMES, values, strict=True) if value]

    def __str__(self) -> str:
        if self.is_everything:
            return EVERYTHING
        return ",".join(f"{name}={value.replace(',', _MEANT_AS_A_COMMA)}" for name, value in self._pairs)


def _literal(value: str) -> str:
    # `${` begins a variable in a policy of version 2012-10-17, and `${$}` is a dollar.
    return value.replace("${", "${$}{")


def _asset_class(value: str) -> str:
    if value not in tuple(AssetClass):
        raise ScopeInvalid(f"there is no class {value!r}; there are: {', '.join(AssetClass)}")
    return value


def _group(value: str) -> str:
    if not _GROUP.fullmatch(value):
        raise ScopeInvalid(f"{value!r} is no group's id: up to 63 of a-z, 0-9 and -, such as finance")
    return value


def _asset(value: str) -> str:
    if not _ASSET.fullmatch(value):
        raise ScopeInvalid(f"{value!r} is no asset's id: 1 to 256 printable ASCII characters without spaces")
    return value


def _hour(value: str) -> str:
    if not (_HOUR.fullmatch(value) or _HOUR_PREFIX.fullmatch(value)) or not _exists(value.removesuffix("*")):
        raise ScopeInvalid(
            f"{value!r} is no hour: an hour in UTC such as 2026-11-23T16,"
            " or the beginning of one and *, such as 2026-11-23T* for a day or 2026-11-* for a month"
        )
    return value


def _exists(start: str) -> bool:
    if start.startswith("0000"):
        return False
    try:
        datetime.fromisoformat(start + _REST_OF_AN_HOUR[len(start) :])
    except ValueError:
        return False
    return True


_CHECKS = {"class": _asset_class, "group": _group, "asset": _asset, "hour": _hour}
