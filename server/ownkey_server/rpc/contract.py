"""The contract with its field rules, and the parsing of requests by it.

The client stubs carry no rules (docs/decisions/0003), so the server keeps the whole contract in a descriptor pool of
its own, and parses requests into classes made from it. They have the fields of the stubs' classes, which is why the
types here say so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar, cast

import protovalidate
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from protovalidate import FieldPathPb as FieldPath

from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.domain.patterns import in_words
from ownkey_server.rpc.errors import InvalidRequests
from ownkey_server.rpc.wire import MAX_FIELDS, walk

SERVICE_NAME = "ownkey.v1.KeyService"
ADMIN_SERVICE_NAME = "ownkey.v1.AdminService"
# A message of a million wrong entries needs no answer of a million lines.
MAX_VIOLATIONS = 20
# Too short a message to hold many entries.
UNCROWDED = 512
# With more entries than that, the first violation is told alone: finding one in each of a million takes a minute.
THOROUGH = 200
MAX_KEY_SHOWN = 64

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a request may be at most, before its fields are looked at one by one.

    Attributes:
        request: Bytes of the whole message.
        field: Bytes or characters of one field.
        entries: Entries of one list or map.
    """

    request: int
    field: int
    entries: int


# Room for every request whose fields keep the rules; chunks of media do not pass here. The longest field that the rules
# allow is a wrapped key, and the longest list has fewer entries.
KEY_LIMITS = RequestLimits(request=96 * 1024, field=16 * 1024, entries=64)
# So many calls in a message of WatchCalls, each with all that it may have: some 5 ms of the event loop.
CALLS_LIMITS = RequestLimits(request=768 * 1024, field=16 * 1024, entries=200)
# A tenants file, or the users of a large group.
ADMIN_LIMITS = RequestLimits(request=5 * 1024 * 1024, field=4 * 1024 * 1024, entries=10_000)


def load_contract() -> descriptor_pool.DescriptorPool:
    """Every descriptor of the contract, rules included."""
    raw = resources.files("ownkey_server.rpc").joinpath("contract.binpb").read_bytes()
    own = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(raw).file:
        own.AddSerializedFile(file.SerializeToString())
    return own


class RequestParser:
    """Turns bytes into requests that keep the contract's rules.

    What is checked is bounded before it is checked: telling everything that is wrong with a message made to be wrong
    would hold up every other call.

    Args:
        contract: What :func:`load_contract` returns.
        limits: What a request may be at most.
    """

    def __init__(self, contract: descriptor_pool.DescriptorPool, limits: RequestLimits = KEY_LIMITS) -> None:
        self._contract = contract
        self._limits = limits
        self._validator = protovalidate.Validator()
        self._classes: dict[str, type[Message]] = {}

    def parse(self, raw: bytes, stub: type[M]) -> M:
        """The request of the stub's type in ``raw``.

        Raises:
            InvalidRequests: It is no such message, is too large, or breaks rules: each field that does is named.
        """
        self.require_size(raw, stub)
        request = self.parse_unchecked(raw, stub)
        if len(raw) > UNCROWDED:
            crowded = [InvalidRequest(*found) for found in _crowded(request, "", self._limits)]
            if crowded:
                raise InvalidRequests(crowded)
        many = self._limits.entries > THOROUGH and _entries(request, THOROUGH) > THOROUGH
        violations = self._validator.collect_violations(request, fail_fast=many)
        if violations:
            found = [v.proto for v in violations[:MAX_VIOLATIONS]]
            raise InvalidRequests([InvalidRequest(_path(v.field), in_words(v.message)) for v in found])
        return request

    def require_size(self, raw: bytes, stub: type[M]) -> None:
        """Make sure that a request is no larger than any honest one, without parsing it: that takes 0.1 s for 11 MiB.

        Raises:
            InvalidRequests: It is too large; the fields that are to blame are named, if they are among the first.
        """
        if len(raw) <= self._limits.request:
            return
        looks = iter(range(MAX_FIELDS))
        found = list(_large(memoryview(raw), stub.DESCRIPTOR, "", self._limits, looks))[:MAX_VIOLATIONS]
        description = f"the message has {len(raw)} bytes, and may have {self._limits.request}"
        raise InvalidRequests([InvalidRequest(*one) for one in found] or [InvalidRequest("", description)])

    def parse_unchecked(self, raw: bytes, stub: type[M]) -> M:
        """The same without any rule, for the one call that must be answered whatever its fields hold.

        Raises:
            InvalidRequests: It is no such message.
        """
        name = stub.DESCRIPTOR.full_name
        request_class = self._classes.get(name)
        if request_class is None:
            request_class = message_factory.GetMessageClass(self._contract.FindMessageTypeByName(name))
            self._classes[name] = request_class
        try:
            return cast("M", request_class.FromString(raw))
        except DecodeError:
            raise InvalidRequests([InvalidRequest("", f"the message is no {name}")]) from None


def _large(
    raw: memoryview, message: Any, at: str, limits: RequestLimits, looks: Iterator[int]
) -> Iterator[tuple[str, str]]:
    """Texts, bytes, lists and maps that are larger than any rule allows, among as many fields as there are looks.

    ``message`` is its descriptor.
    """
    entries: Counter[str] = Counter()
    for field, _ in zip(walk(raw), looks, strict=False):
        known = message.fields_by_number.get(field.number)
        if known is None:
            continue
        name = at + known.name
        if known.is_repeated:
            entries[name] += 1
            if entries[name] == limits.entries + 1:
                yield name, "has more entries than any field may have"
        if field.length is None or field.length <= limits.field:
            continue
        if known.type == FieldDescriptor.TYPE_MESSAGE and not known.is_repeated:
            content = raw[field.start : field.start + field.length]
            yield from _large(content, known.message_type, f"{name}.", limits, looks)
        else:
            yield name, f"has {field.length} bytes, which is more than any field may have"


def _crowded(message: Message, at: str, limits: RequestLimits) -> Iterator[tuple[str, str]]:
    """Lists and maps with more entries than any rule of the contract allows."""
    for field, value in message.ListFields():
        if field.is_repeated:
            if len(value) > limits.entries:
                yield at + field.name, f"has {len(value)} entries, which is more than any field may have"
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from _crowded(value, f"{at}{field.name}.", limits)


def _entries(message: Message, limit: int) -> int:
    """How many entries its lists and maps have, with those of what they hold; not counted on beyond ``limit``."""
    count = 0
    for field, value in message.ListFields():
        count += len(value) if field.is_repeated else 0
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for one in value if field.is_repeated else (value,):
            if count > limit:
                return count
            count += _entries(one, limit - count)
    return count


def _path(field: FieldPath | None) -> str:
    """The field's place as one would write it: ``asset.tenant``, ``stores[2]``, ``extra_context["purpose"]``."""
    text = ""
    for element in field.elements if field else ():
        text += f".{element.field_name}"
        if element.subscript is not None:
            text += f"[{json.dumps(element.subscript.value)[:MAX_KEY_SHOWN]}]"
    return text.removeprefix(".")
