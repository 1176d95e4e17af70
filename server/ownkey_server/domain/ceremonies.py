"""Ceremonies: what people did to the keys of a token, who confirmed it, and the bytes that they signed.

A ceremony log is a chain of records as the audit trail's are (:mod:`ownkey_server.domain.audit`), with one writer. Its
description names the custodians. Each ceremony begins with a record of what is intended, and ends with one of what came
of it; custodians sign both, with the hash of the record before, so that a signature counts in its place alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from ownkey_server.domain import audit
from ownkey_server.domain.audit_chain import body_fields

WRITER = 1
KIND = "ownkey ceremony log"
VERSION = 1
# Whoever destroys a key takes everything that it protects, and whoever exports it can open all of that elsewhere: never
# one person alone, whatever the log says.
LEAST_AT_ALL = 2
_STATEMENT = b"ownkey ceremony 1\n"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?")
_KEY_LENGTH = 32


class CeremonyInvalid(ValueError):
    """It is not what ownkey writes. The message says what."""


class Phase(StrEnum):
    """Where in a ceremony a record stands."""

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"


class Action(StrEnum):
    """What a ceremony does."""

    OPEN_LOG = "open_log"
    CUSTODIANS = "custodians"
    INITIALIZE = "initialize"
    KEYGEN = "keygen"
    ROTATE = "rotate"
    CLOSE = "close"
    RETIRE = "retire"
    DESTROY = "destroy"
    BEGIN_IMPORT = "begin_import"
    ABANDON_IMPORT = "abandon_import"
    IMPORT = "import"
    LOAD = "load"
    EXPORT = "export"
    SETTLE = "settle"


@dataclass(frozen=True, slots=True)
class Register:
    """Who confirms.

    Attributes:
        custodians: Their raw Ed25519 public keys, by name.
        needed: How many confirm each ceremony.
    """

    custodians: Mapping[str, bytes]
    needed: int

    def needed_for(self, action: Action) -> int:
        """How many must confirm this."""
        if action is Action.SETTLE:
            return 0  # it ends what others confirmed, and destroys only what was never used
        return max(self.needed, LEAST_AT_ALL) if action in (Action.DESTROY, Action.EXPORT) else self.needed

    def to_fields(self) -> Mapping[str, Any]:
        """As a record has it."""
        listed = [{"name": name, "public_key": key.hex()} for name, key in sorted(self.custodians.items())]
        return {"custodians": listed, "needed": self.needed}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Register:
        """Read it.

        Raises:
            CeremonyInvalid: It is none.
        """
        try:
            custodians = {each["name"]: bytes.fromhex(each["public_key"]) for each in fields["custodians"]}
            register = cls(custodians, int(fields["needed"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise CeremonyInvalid("it does not say who confirms") from None
        register.require_sound()
        return register

    def require_sound(self) -> None:
        """Refuse what nobody could keep to.

        Raises:
            CeremonyInvalid: The names, the keys or the number are wrong.
        """
        for name, key in self.custodians.items():
            require_name(name)
            if len(key) != _KEY_LENGTH:
                raise CeremonyInvalid(f"the public key of custodian {name!r} has not {_KEY_LENGTH} bytes")
        if len({*self.custodians.values()}) != len(self.custodians):
            raise CeremonyInvalid("two custodians have the same key: each must have one of their own")
        if not 0 <= self.needed <= len(self.custodians):
            raise CeremonyInvalid(f"{self.needed} of {len(self.custodians)} custodians cannot be needed")


def require_name(name: str) -> None:
    """Refuse a text that is no custodian's name.

    Raises:
        CeremonyInvalid: It is none.
    """
    if not _NAME.fullmatch(name):
        raise CeremonyInvalid(
            "a custodian's name must be 1 to 63 lower-case letters, digits, dots and hyphens,"
            " with a letter or digit at both ends"
        )


@dataclass(frozen=True, slots=True)
class Description:
    """The first line of a log.

    Attributes:
        id: 16 random bytes in hex: which log it is.
        time: When it was opened.
        register: Who confirms, until a ceremony changes that.
    """

    id: str
    time: datetime
    register: Register

    def to_bytes(self) -> bytes:
        """As it is written and hashed."""
        return audit.canonical(
            {
                **self.register.to_fields(),
                "id": self.id,
                "kind": KIND,
                "time": audit.timestamp(self.time),
                "version": VERSION,
            }
        )

    @classmethod
    def from_bytes(cls, line: bytes) -> Description:
        """Read it.

        Raises:
            CeremonyInvalid: It is none.
        """
        fields = body_fields(line) or {}
        if fields.get("kind") != KIND or fields.get("version") != VERSION:
            raise CeremonyInvalid(f"it does not begin as a {KIND} of version {VERSION} does")
        try:
            time = datetime.fromisoformat(fields["time"])
        except (KeyError, TypeError, ValueError):
            raise CeremonyInvalid("its first line has no time") from None
        found = cls(str(fields.get("id", "")), time, Register.from_fields(fields))
        if found.to_bytes() != line:
            raise CeremonyInvalid("its first line is not what ownkey writes")
        return found


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A custodian's signature."""

    custodian: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a ceremony log.

    Attributes:
        ceremony: Number of the record that began it; 0 in that one itself.
        operator: Who ran the command, as the system says.
        tokens: The tokens concerned, as they describe themselves.
        key: The key's label; empty for what is about no key.
        detail: What else there is to say, never a secret.
    """

    action: Action
    phase: Phase
    time: datetime
    ceremony: int
    operator: str
    tokens: tuple[Mapping[str, str], ...]
    key: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    confirmations: tuple[Confirmation, ...] = ()

    def body(self) -> bytes:
        """As it is written and hashed."""
        return audit.canonical({**self._fields(), **_confirmed(self.confirmations)})

    def statement(self, previous: bytes) -> bytes:
        """What a custodian signs: all of it but the signatures, in its place."""
        return statement(previous, audit.canonical(self._fields()))

    def _fields(self) -> Mapping[str, Any]:
        return {
            "action": self.action.value,
            "ceremony": self.ceremony,
            "detail": self.detail,
            "key": self.key,
            "operator": self.operator,
            "phase": self.phase.value,
            "time": audit.timestamp(self.time),
            "tokens": list(self.tokens),
        }

    @classmethod
    def from_body(cls, body: bytes) -> Record:
        """Read it.

        Raises:
            CeremonyInvalid: It is none.
        """
        fields = body_fields(body) or {}
        try:
            record = cls(
                action=Action(fields["action"]),
                phase=Phase(fields["phase"]),
                time=datetime.fromisoformat(fields["time"]),
                ceremony=fields["ceremony"],
                operator=fields["operator"],
                tokens=tuple(fields["tokens"]),
                key=fields["key"],
                detail=fields["detail"],
                confirmations=tuple(
                    Confirmation(each["custodian"], bytes.fromhex(each["signature"]))
                    for each in fields["confirmations"]
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise CeremonyInvalid("it is no record of a ceremony") from None
        if not _is_sound(record):
            raise CeremonyInvalid("it is no record of a ceremony")
        if record.body() != body:
            raise CeremonyInvalid("it is not spelt as ownkey writes it")
        return record


def _is_sound(record: Record) -> bool:
    """Whether its values are of the kinds that they are declared to be: JSON may hold any."""
    texts = [record.operator, record.key, *(each.custodian for each in record.confirmations)]
    for token in record.tokens:
        if not isinstance(token, dict):
            return False
        texts += token.values()
    keys = record.detail.get("keys", []) if isinstance(record.detail, dict) else None
    return (
        all(isinstance(text, str) for text in texts)
        and type(record.ceremony) is int
        and record.ceremony >= 0
        and isinstance(keys, list)
        and all(isinstance(key, dict) for key in keys)
    )


def statement(previous: bytes, fields: bytes) -> bytes:
    """The bytes that are signed.

    Args:
        previous: Hash of the record before.
        fields: The record without its confirmations, in canonical JSON.
    """
    return _STATEMENT + previous + fields


def confirmed_by(
    record: Record, previous: bytes, register: Register, good: Callable[[bytes, bytes, bytes], bool]
) -> tuple[set[str], list[str]]:
    """The custodians whose signatures are good, and what is wrong with the others.

    Args:
        record: What they signed.
        previous: Hash of the record before it.
        register: Who they are.
        good: Whether a public key made a signature of a statement.
    """
    names, wrong, said = set[str](), list[str](), record.statement(previous)
    for each in record.confirmations:
        key = register.custodians.get(each.custodian)
        if key is None:
            wrong.append(f"{each.custodian} is no custodian of this log")
        elif not good(key, each.signature, said):
            wrong.append(f"the signature of {each.custodian} is not of this record")
        else:
            names.add(each.custodian)
    return names, wrong


def _confirmed(confirmations: tuple[Confirmation, ...]) -> Mapping[str, Any]:
    return {
        "confirmations": [{"custodian": each.custodian, "signature": each.signature.hex()} for each in confirmations]
    }
