"""What is asked of whoever has the module, and what comes back, as bytes that hold no object of either side.

A message is a list of fields, each its length (4 bytes, big-endian) and its bytes; before it stands the length of them
all (4 bytes), and which request it is or answers (4 bytes). Nothing in it is ever executed or imported: what comes
back was written by a process that runs a vendor's code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from ownkey.container import EncryptedDataKey
from ownkey_server.domain import errors
from ownkey_server.domain.errors import KeyStoreError

# Far more than a context, a wrapped key and their names may take.
LONGEST = 1 << 20
# A gRPC status and a record of the audit trail carry it.
LONGEST_CAUSE = 1000
_LENGTH = struct.Struct(">I")
_HEADER = struct.Struct(">II")
HEADER_LENGTH = _HEADER.size
MOST_NUMBERS = 1 << 32


class MessageBroken(Exception):
    """The bytes are no message of this kind."""


class Operation(Enum):
    """What is to be done in the token."""

    GENERATE = b"generate"
    WRAP = b"wrap"
    UNWRAP = b"unwrap"
    CREATE = b"create"
    LOOK = b"look"
    FORGET = b"forget"


class LoginOutcome(Enum):
    """What became of a PIN that was sent along."""

    UNUSED = b""
    ACCEPTED = b"accepted"
    REFUSED = b"refused"
    UNKNOWN = b"unknown"  # it was tried, and the token's answer says nothing of it


@dataclass(frozen=True, slots=True)
class Login:
    """A PIN to try, once.

    Attributes:
        pin: The user PIN, in UTF-8.
        another: Whether the token has refused one before, and taken none since: it is then to be seen as it is now,
            so that the one try is not wasted.
        unanswered: Whether it may have been tried already, and what the token said to it was lost.
    """

    pin: bytes = field(repr=False)
    another: bool = False
    unanswered: bool = False


@dataclass(frozen=True, slots=True)
class Worked:
    """Where and how a key has worked: what tells a key that was taken away from one that never was right.

    Attributes:
        serial: Serial number of the token in which it did.
        ways: Provider ids of what it wrapped or opened there.
        proofs: Throw-away bytes that it has wrapped, in each way that it allows: another key of its label does not
            open them, whichever of its rights that key has.
    """

    serial: bytes
    ways: frozenset[str]
    proofs: tuple[EncryptedDataKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be done, and all that must be known for it.

    Attributes:
        operation: What.
        store: Name of the key store that asks; each has sessions of its own.
        token: Label of the token.
        mechanism: ``auto`` or a way to wrap.
        profile: ``auto``, the name of a built-in profile, or the path of a file.
        exportable_keys: Keys may be used that the token's security officer can have exported.
        reference: The key.
        aad: The serialized encryption context.
        data_key: To be wrapped.
        wrapped: To be opened.
        worked: Where the key has worked before, as far as the store knows.
        history: Which history of the key that is: it has another from when it is enrolled anew.
        login: The PIN, once the token has asked for it.
    """

    operation: Operation
    store: str
    token: str
    mechanism: str
    profile: str = "auto"
    reference: str = ""
    aad: bytes = b""
    data_key: bytes | bytearray = field(default=b"", repr=False)
    wrapped: EncryptedDataKey | None = None
    worked: Worked | None = None
    history: int = 0
    login: Login | None = None
    exportable_keys: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it.

    Attributes:
        data_key: In clear; wiped by whoever takes it over.
        wrapped: The data key, wrapped.
        worked: Where and how the key has worked, this time included.
        error: The kind of what went wrong, and its cause.
        login: What became of the PIN.
        login_needed: Nothing was done: the token wants a PIN first.
        unsettled: Milliseconds until it can be told what a missing key means; 0 when that is known.
        unknown_in: Serial number of the token that denied a key, where nothing shows that it ever worked there.
    """

    data_key: bytearray = field(default_factory=bytearray, repr=False)
    wrapped: EncryptedDataKey | None = None
    worked: Worked | None = None
    error: tuple[type[KeyStoreError], str] | None = None
    login: LoginOutcome = LoginOutcome.UNUSED
    login_needed: bool = False
    unsettled: int = 0
    unknown_in: bytes = b""


def pack_request(request: Request, number: int = 0) -> bytearray:
    """The request as a message, with its number."""
    return _pack(
        (
            request.operation.value,
            request.store.encode(),
            request.token.encode(),
            request.mechanism.encode(),
            request.profile.encode(errors="surrogatepass"),
            request.reference.encode(errors="surrogatepass"),
            request.aad,
            request.data_key,
            *_wrapped_fields(request.wrapped),
            *_worked_fields(request.worked),
            _LENGTH.pack(request.history),
            _flag(request.login is not None),
            request.login.pin if request.login else b"",
            _flag(request.login is not None and request.login.another),
            _flag(request.login is not None and request.login.unanswered),
            _flag(request.exportable_keys),
        ),
        number,
    )


def unpack_request(message: memoryview) -> Request:
    """The request that :func:`pack_request` packed; ``message`` is what follows the header.

    Raises:
        MessageBroken: It is none.
    """
    operation, store, token, mechanism, profile, reference, aad, data_key, *rest = _unpack(message, 21)
    try:
        return Request(
            operation=Operation(bytes(operation)),
            store=_text(store),
            token=_text(token),
            mechanism=_text(mechanism),
            profile=str(profile, "utf-8", "surrogatepass"),
            reference=str(reference, "utf-8", "surrogatepass"),
            aad=bytes(aad),
            data_key=bytearray(data_key),
            wrapped=_wrapped(rest[:4]),
            worked=_worked(rest[4:7]),
            history=_LENGTH.unpack(rest[7])[0],
            login=Login(bytes(rest[9]), bool(rest[10]), bool(rest[11])) if rest[8] else None,
            exportable_keys=bool(rest[12]),
        )
    except (ValueError, struct.error):
        raise MessageBroken("it is no request") from None


def pack_answer(answer: Answer, number: int = 0) -> bytearray:
    """The answer as a message, with the number of its request."""
    kind, cause = answer.error or (None, "")
    return _pack(
        (
            answer.data_key,
            *_wrapped_fields(answer.wrapped),
            *_worked_fields(answer.worked),
            kind.__name__.encode() if kind else b"",
            cause.encode(errors="replace"),
            answer.login.value,
            _flag(answer.login_needed),
            _LENGTH.pack(answer.unsettled),
            answer.unknown_in,
        ),
        number,
    )


def unpack_answer(message: memoryview) -> Answer:
    """The answer that :func:`pack_answer` packed; ``message`` is what follows the header.

    Raises:
        MessageBroken: It is none.
    """
    data_key, *rest = _unpack(message, 14)
    try:
        kind = _error_kind(_text(rest[7]))
        return Answer(
            data_key=bytearray(data_key),
            wrapped=_wrapped(rest[:4]),
            worked=_worked(rest[4:7]),
            error=(kind, _text(rest[8])[:LONGEST_CAUSE]) if kind else None,
            login=LoginOutcome(bytes(rest[9])),
            login_needed=bool(rest[10]),
            unsettled=_LENGTH.unpack(rest[11])[0],
            unknown_in=bytes(rest[12]),
        )
    except (ValueError, struct.error):
        raise MessageBroken("it is no answer") from None


def length_of(header: bytes | bytearray) -> int:
    """How many bytes follow the header of a message.

    Raises:
        MessageBroken: More than any message has.
    """
    length, _ = _HEADER.unpack(header)
    if length > LONGEST:
        raise MessageBroken(f"{length} bytes are too many for a message")
    return int(length)


def number_of(header: bytes | bytearray) -> int:
    """Which request a message is, or which it answers."""
    return int(_HEADER.unpack(header)[1])


def wipe(buffer: bytearray) -> None:
    """Overwrite a message that may hold a PIN or a data key."""
    buffer[:] = bytes(len(buffer))


def _pack(fields: Iterable[bytes | bytearray], number: int = 0) -> bytearray:
    message = bytearray(HEADER_LENGTH)
    for one in fields:
        message += _LENGTH.pack(len(one))
        message += one
    message[:HEADER_LENGTH] = _HEADER.pack(len(message) - HEADER_LENGTH, number)
    return message


def _unpack(message: memoryview, count: int | None = None) -> list[memoryview]:
    fields, at = [], 0
    while at < len(message):
        if len(message) - at < _LENGTH.size:
            raise MessageBroken("a field has no length")
        (length,) = _LENGTH.unpack(message[at : at + _LENGTH.size])
        at += _LENGTH.size
        if length > len(message) - at:
            raise MessageBroken("a field is longer than its message")
        fields.append(message[at : at + length])
        at += length
    if count is not None and len(fields) != count:
        raise MessageBroken(f"it has {len(fields)} fields and not {count}")
    return fields


def _flag(yes: bool) -> bytes:
    return b"\x01" if yes else b""


def _text(value: memoryview) -> str:
    return str(value, "utf-8")


def _wrapped_fields(entry: EncryptedDataKey | None) -> tuple[bytes, bytes, bytes, bytes]:
    if entry is None:
        return (b"", b"", b"", b"")
    return (_flag(True), entry.provider_id.encode(), entry.provider_info, entry.ciphertext)


def _wrapped(fields: list[memoryview]) -> EncryptedDataKey | None:
    there, provider_id, provider_info, ciphertext = fields
    return EncryptedDataKey(_text(provider_id), bytes(provider_info), bytes(ciphertext)) if there else None


def _worked_fields(worked: Worked | None) -> tuple[bytes, ...]:
    if worked is None:
        return (b"", b"", b"")
    proofs = _pack(field for proof in worked.proofs for field in _wrapped_fields(proof))[HEADER_LENGTH:]
    return (worked.serial, "\n".join(sorted(worked.ways)).encode(), bytes(proofs))


def _worked(fields: list[memoryview]) -> Worked | None:
    serial, ways, packed = fields
    if not ways:
        return None
    parts = _unpack(packed)
    proofs = (_wrapped(parts[at : at + 4]) for at in range(0, len(parts), 4))
    return Worked(bytes(serial), frozenset(_text(ways).split("\n")), tuple(proof for proof in proofs if proof))


def _error_kind(name: str) -> type[KeyStoreError] | None:
    if not name:
        return None
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, KeyStoreError)) or kind is KeyStoreError:
        raise MessageBroken("it names an error that is none of a key store's")
    return kind
