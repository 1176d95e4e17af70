"""Requests of the control plane out of plain values, told as the caller's mistake where no message can hold one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

from google.protobuf.message import Message

from ownkey import _exchange, errors

M = TypeVar("M", bound=Message)
P = ParamSpec("P")


def made(kind: Callable[P, M], *arguments: P.args, **fields: P.kwargs) -> M:
    """The message with these fields.

    Raises:
        InvalidRequest: A value cannot be sent.
    """
    with _exchange.sendable():
        return kind(*arguments, **fields)


def listed(texts: Iterable[str]) -> list[str]:
    """A list of texts.

    Raises:
        InvalidRequest: It is one text, which would be taken for its letters.
    """
    if isinstance(texts, str):
        raise errors.InvalidRequest(f"a list of texts is needed, not the text {texts!r} alone")
    return list(texts)


def set_time(request: Any, field: str, time: datetime | None) -> None:
    """Set a field to a time; None leaves it out.

    Raises:
        InvalidRequest: The time has no zone.
    """
    if time is None:
        return
    if time.tzinfo is None:
        raise errors.InvalidRequest(f"{field} needs a time zone: datetime(..., tzinfo=UTC)")
    getattr(request, field).FromDatetime(time)
