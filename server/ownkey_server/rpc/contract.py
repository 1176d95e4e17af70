"""The contract with its field rules, and the parsing of requests by it.

The client stubs carry no rules (docs/decisions/0003), so the server keeps the whole contract in a descriptor pool of
its own, and parses requests into classes made from it. They have the fields of the stubs' classes, which is why the
types here say so.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TypeVar, cast

import protovalidate
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from protovalidate import FieldPathPb as FieldPath

from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.rpc.errors import InvalidRequests

SERVICE_NAME = "ownkey.v1.KeyService"
# A message of a million wrong entries needs no answer of a million lines.
MAX_VIOLATIONS = 20
MAX_KEY_SHOWN = 64

M = TypeVar("M", bound=Message)


def load_contract() -> descriptor_pool.DescriptorPool:
    """Every descriptor of the contract, rules included."""
    raw = resources.files("ownkey_server.rpc").joinpath("contract.binpb").read_bytes()
    own = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(raw).file:
        own.AddSerializedFile(file.SerializeToString())
    return own


class RequestParser:
    """Turns bytes into requests that keep the contract's rules.

    Args:
        contract: What :func:`load_contract` returns.
    """

    def __init__(self, contract: descriptor_pool.DescriptorPool) -> None:
        self._contract = contract
        self._validator = protovalidate.Validator()
        self._classes: dict[str, type[Message]] = {}

    def parse(self, raw: bytes | memoryview, stub: type[M]) -> M:
        """The request of the stub's type in ``raw``.

        Raises:
            InvalidRequests: It is no such message, or breaks rules: each field that does is named.
        """
        request = self.parse_unchecked(raw, stub)
        violations = self._validator.collect_violations(request)
        if violations:
            found = [v.proto for v in violations[:MAX_VIOLATIONS]]
            raise InvalidRequests([InvalidRequest(_path(v.field), v.message) for v in found])
        return request

    def parse_unchecked(self, raw: bytes | memoryview, stub: type[M]) -> M:
        """The same without the rules, for the one call that must be answered whatever its other fields hold.

        Raises:
            InvalidRequests: It is no such message.
        """
        name = stub.DESCRIPTOR.full_name
        request_class = self._classes.get(name)
        if request_class is None:
            request_class = message_factory.GetMessageClass(self._contract.FindMessageTypeByName(name))
            self._classes[name] = request_class
        try:
            return cast("M", request_class.FromString(raw))  # type: ignore[arg-type]
        except DecodeError:
            raise InvalidRequests([InvalidRequest("", f"the message is no {name}")]) from None


def _path(field: FieldPath | None) -> str:
    """The field's place as one would write it: ``asset.tenant``, ``stores[2]``, ``extra_context["purpose"]``."""
    text = ""
    for element in field.elements if field else ():
        text += f".{element.field_name}"
        if element.subscript is not None:
            text += f"[{json.dumps(element.subscript.value)[:MAX_KEY_SHOWN]}]"
    return text.removeprefix(".")
