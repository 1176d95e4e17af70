"""Page tokens (AIP-158): where a list goes on, bound to the request that it was given for.

A token holds nothing secret and is not signed: it can only ask for what its bearer may ask for anyway.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any, TypeVar

from google.protobuf.message import Message

from ownkey_server.domain.errors import InvalidRequest

DEFAULT_PAGE_SIZE = 50

T = TypeVar("T")


def page_size(request: Any) -> int:
    """How many the request asks for."""
    return int(request.page_size) or DEFAULT_PAGE_SIZE


def encode(request: Message, position: object) -> str:
    """A token for going on after ``position`` (anything that JSON has), with this request and no other."""
    text = json.dumps([_digest(request), position], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(request: Any, kind: type[T], start: T) -> T:
    """The position of the request's token; ``start`` when it has none.

    Raises:
        InvalidRequest: The token is none of ours, or was given for another request.
    """
    token: str = request.page_token
    if not token:
        return start
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        digest, position = json.loads(text)
    except (ValueError, TypeError, binascii.Error):
        raise InvalidRequest("page_token", "is no page token: give back next_page_token as it came") from None
    if digest != _digest(request) or type(position) is not kind or not _is_sound(position):
        raise InvalidRequest("page_token", "was given for another request: keep its other fields the same")
    return position


def decode_cursor(request: Any) -> tuple[int, int, int] | None:
    """The same for a position of three numbers; None at the start.

    Raises:
        InvalidRequest: As :func:`decode`.
    """
    position = decode(request, list, [])
    if not position:
        return None
    if len(position) != 3:
        raise InvalidRequest("page_token", "is no page token: give back next_page_token as it came")
    time, writer, sequence = position
    return time, writer, sequence


def _is_sound(position: object) -> bool:
    """Whether a database can be asked for it."""
    match position:
        case bool():
            return False
        case int():
            return 0 <= position < 1 << 63
        case str():
            return position.isascii() and position.isprintable()
        case list():
            return all(type(one) is int and _is_sound(one) for one in position)
    return False


def _digest(request: Message) -> str:
    """The request without what may differ from page to page."""
    same = type(request)()
    same.CopyFrom(request)
    same.ClearField("page_token")
    same.ClearField("page_size")
    raw = same.DESCRIPTOR.full_name.encode() + same.SerializeToString(deterministic=True)
    return hashlib.sha256(raw).hexdigest()[:16]
