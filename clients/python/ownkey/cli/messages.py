"""The contract's messages on the terminal: as plain values, with the names that people use."""

from __future__ import annotations

import base64
from datetime import UTC
from typing import Any

from google.protobuf import json_format, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message


def values(message: Message) -> dict[str, Any]:
    """The message's fields as JSON has them: enum values in lower case without their prefix, bytes in base64.

    Fields that say nothing are there too, so that a script need not ask whether they are.
    """
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields if _is_told(message, field)}


def _is_told(message: Message, field: Any) -> bool:
    return not field.has_presence or bool(message.HasField(field.name))


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_value(one, field) for one in value]
    return _value(value, field)


def _value(value: Any, field: Any) -> Any:
    if isinstance(value, timestamp_pb2.Timestamp):
        return value.ToDatetime(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, struct_pb2.Struct):
        return json_format.MessageToDict(value)
    if isinstance(value, Message):
        return values(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    return value


def enum_name(kind: EnumDescriptor, number: int) -> str:
    """``active`` for ``KEY_LIFECYCLE_ACTIVE``."""
    prefix = "".join("_" + letter if letter.isupper() else letter.upper() for letter in kind.name).lstrip("_") + "_"
    value = kind.values_by_number.get(number)
    return value.name.removeprefix(prefix).lower() if value else str(number)


def enum_number(kind: EnumDescriptor, name: str) -> int:
    """The number of ``active``.

    Raises:
        KeyError: There is no such value.
    """
    numbers = {enum_name(kind, value.number): value.number for value in kind.values if value.number}
    return numbers[name]


def names_of(kind: EnumDescriptor) -> list[str]:
    """The names of all values that may be sent."""
    return [enum_name(kind, value.number) for value in kind.values if value.number]


def with_full_names(kind: Descriptor, value: Any) -> Any:
    """A message in JSON whose enum values may be named as we show them, ``refuse``, with the names of the contract.

    What it does not know stays as it is: it is for the parser to say what is wrong with it.
    """
    if not isinstance(value, dict):
        return value
    full: dict[str, Any] = {}
    for name, given in value.items():
        field = kind.fields_by_name.get(name) or kind.fields_by_camelcase_name.get(name)
        full[name] = [_full(field, one) for one in given] if isinstance(given, list) else _full(field, given)
    return full


def _full(field: FieldDescriptor | None, value: Any) -> Any:
    if field is None:
        return value
    if field.message_type is not None:
        return with_full_names(field.message_type, value)
    if field.enum_type is not None and isinstance(value, str):
        return {enum_name(field.enum_type, one.number): one.name for one in field.enum_type.values}.get(value, value)
    return value
