"""How much of a list goes into one answer: what was asked for, as far as one message may hold it (AIP-158).

A group may have megabytes of users, and a policy of rules: a thousand of them are no message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from ownkey_server.domain.errors import InvalidRequest

# Below the 4 MiB that gRPC's clients take unless they are told otherwise.
PAGE_BYTES = 3 * 1024 * 1024
# What is read from the database for one answer is bounded too.
MOST_GROUPS = 100
MOST_POLICY_VERSIONS = 20
MOST_APPROVALS = 100
# What the listener may send by default, less room for the rest of the message.
DOCUMENT_BYTES = 11 * 1024 * 1024

M = TypeVar("M", bound=Message)


def cut(messages: Iterable[M], size: int) -> list[M]:
    """The first of them that fit on a page, at most ``size``, and never none of some."""
    page: list[M] = []
    room = PAGE_BYTES
    for message in messages:
        room -= message.ByteSize()
        if len(page) == size or (page and room < 0):
            break
        page.append(message)
    return page


def require_sendable(document: str) -> str:
    """The document, when one message can hold it.

    Raises:
        InvalidRequest: It is too large, and must be asked for in parts.
    """
    size = len(document.encode())
    if size > DOCUMENT_BYTES:
        raise InvalidRequest("tenants", f"the document would have {size} bytes: name fewer tenants at a time")
    return document
