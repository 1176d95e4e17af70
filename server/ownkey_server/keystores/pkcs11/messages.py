"""What is asked of whoever has the module, and what comes back, as bytes that hold no object of either side.

A message is the lengths of its fields (4 bytes each, big-endian) and then the fields; before it stands how many bytes
follow (4 bytes), and which request it is or answers (4 bytes). Nothing in it is ever executed or imported: what comes
back was written by a process that runs a vendor's code.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

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
_REQUEST_LENGTHS = struct.Struct(">15I")
_ANSWER_LENGTHS = struct.Struct(">11I")
# What the first field of a message says of others.
_HAS_WRAPPED, _HAS_LOGIN, _ANOTHER_LOGIN, _LOGIN_UNANSWERED, _LOGIN_NEEDED, _EXPORTABLE_KEYS = 1, 2, 4, 8, 16, 32
# Where keys have worked is said with every call and seldom changes: it is packed once, and not once a call.
_REMEMBERED = 1024


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
    login = request.login
    flags = (_HAS_WRAPPED if request.wrapped is not None else 0) | (_EXPORTABLE_KEYS * request.exportable_keys)
    if login is not None:
        flags |= _HAS_LOGIN | (_ANOTHER_LOGIN * login.another) | (_LOGIN_UNANSWERED * login.unanswered)
    return _pack(
        _REQUEST_LENGTHS,
        (
            bytes((flags,)),
            request.operation.value,
            request.store.encode(),
            request.token.encode(),
            request.mechanism.encode(),
            request.profile.encode(errors="surrogatepass"),
            request.reference.encode(errors="surrogatepass"),
            request.aad,
            request.data_key,
            *_wrapped_fields(request.wrapped),
            _packed_history(request.worked),
            _LENGTH.pack(request.history),
            login.pin if login is not None else b"",
        ),
        number,
    )


def unpack_request(message: memoryview) -> Request:
    """The request that :func:`pack_request` packed; ``message`` is what follows the header.

    Raises:
        MessageBroken: It is none.
    """
    flag, operation, store, token, mechanism, profile, reference, *rest = _unpack(_REQUEST_LENGTHS, message)
    aad, data_key, *wrapped, worked, history, pin = rest
    try:
        (flags,) = flag
        return Request(
            operation=Operation(bytes(operation)),
            store=_text(store),
            token=_text(token),
            mechanism=_text(mechanism),
            profile=str(profile, "utf-8", "surrogatepass"),
            reference=str(reference, "utf-8", "surrogatepass"),
            aad=bytes(aad),
            data_key=bytearray(data_key),
            wrapped=_wrapped(wrapped) if flags & _HAS_WRAPPED else None,
            worked=_unpacked_history(bytes(worked)),
            history=_LENGTH.unpack(history)[0],
            login=_login(pin, flags) if flags & _HAS_LOGIN else None,
            exportable_keys=bool(flags & _EXPORTABLE_KEYS),
        )
    except (ValueError, struct.error):
        raise MessageBroken("it is no request") from None


def pack_answer(answer: Answer, number: int = 0) -> bytearray:
    """The answer as a message, with the number of its request."""
    kind, cause = answer.error or (None, "")
    flags = (_HAS_WRAPPED if answer.wrapped is not None else 0) | (_LOGIN_NEEDED * answer.login_needed)
    return _pack(
        _ANSWER_LENGTHS,
        (
            bytes((flags,)),
            answer.data_key,
            *_wrapped_fields(answer.wrapped),
            _packed_history(answer.worked),
            kind.__name__.encode() if kind else b"",
            cause.encode(errors="replace"),
            answer.login.value,
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
    flag, data_key, *wrapped, worked, name, cause, login, unsettled, unknown_in = _unpack(_ANSWER_LENGTHS, message)
    try:
        (flags,) = flag
        kind = _error_kind(_text(name)) if name else None
        return Answer(
            data_key=bytearray(data_key),
            wrapped=_wrapped(wrapped) if flags & _HAS_WRAPPED else None,
            worked=_unpacked_history(bytes(worked)),
            error=(kind, _text(cause)[:LONGEST_CAUSE]) if kind else None,
            login=LoginOutcome(bytes(login)),
            login_needed=bool(flags & _LOGIN_NEEDED),
            unsettled=_LENGTH.unpack(unsettled)[0],
            unknown_in=bytes(unknown_in),
        )
    except (ValueError, struct.error):
        raise MessageBroken("it is no answer") from None


def length_of(header: bytes | bytearray | memoryview) -> int:
    """How many bytes follow the header of a message.

    Raises:
        MessageBroken: More than any message has.
    """
    length, _ = _HEADER.unpack(header)
    if length > LONGEST:
        raise MessageBroken(f"{length} bytes are too many for a message")
    return int(length)


def number_of(header: bytes | bytearray | memoryview) -> int:
    """Which request a message is, or which it answers."""
    return int(_HEADER.unpack(header)[1])


def wipe(buffer: bytearray) -> None:
    """Overwrite a message that may hold a PIN or a data key."""
    buffer[:] = bytes(len(buffer))


def _pack(lengths: struct.Struct, fields: Sequence[bytes | bytearray], number: int) -> bytearray:
    table = lengths.pack(*map(len, fields))
    header = _HEADER.pack(len(table) + sum(map(len, fields)), number)
    return bytearray().join((header, table, *fields))


def _unpack(lengths: struct.Struct, message: memoryview) -> list[memoryview]:
    if len(message) < lengths.size:
        raise MessageBroken("it has no lengths")
    fields, at = [], lengths.size
    for length in lengths.unpack_from(message):
        fields.append(message[at : at + length])
        at += length
    if at != len(message):
        raise MessageBroken("it is not as long as its fields")
    return fields


def _login(pin: memoryview, flags: int) -> Login:
    return Login(bytes(pin), bool(flags & _ANOTHER_LOGIN), bool(flags & _LOGIN_UNANSWERED))


def _text(value: memoryview) -> str:
    return str(value, "utf-8")


def _wrapped_fields(entry: EncryptedDataKey | None) -> tuple[bytes, bytes, bytes]:
    return (b"", b"", b"") if entry is None else (entry.provider_id.encode(), entry.provider_info, entry.ciphertext)


def _wrapped(fields: Sequence[memoryview | bytes]) -> EncryptedDataKey:
    provider_id, provider_info, ciphertext = fields
    return EncryptedDataKey(str(provider_id, "utf-8"), bytes(provider_info), bytes(ciphertext))


@lru_cache(_REMEMBERED)
def _packed_history(worked: Worked | None) -> bytes:
    """Serial, ways and proofs, each part after its length; nothing where there is no history."""
    if worked is None:
        return b""
    proofs = (part for proof in worked.proofs for part in _wrapped_fields(proof))
    parts = (worked.serial, "\n".join(sorted(worked.ways)).encode(), *proofs)
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


@lru_cache(_REMEMBERED)
def _unpacked_history(packed: bytes) -> Worked | None:
    if not packed:
        return None
    parts, at = [], 0
    while at < len(packed):
        begin = at + _LENGTH.size
        if begin > len(packed):
            raise MessageBroken("a part of a history has no length")
        at = begin + int(_LENGTH.unpack_from(packed, at)[0])
        parts.append(packed[begin:at])
    if at != len(packed) or len(parts) % 3 != 2:
        raise MessageBroken("it is no history of a key")
    serial, ways, *proofs = parts
    found = tuple(_wrapped(proofs[at : at + 3]) for at in range(0, len(proofs), 3))
    return Worked(serial, frozenset(ways.decode().split("\n")) if ways else frozenset(), found)


def _error_kind(name: str) -> type[KeyStoreError]:
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, KeyStoreError)) or kind is KeyStoreError:
        raise MessageBroken("it names an error that is none of a key store's")
    return kind
