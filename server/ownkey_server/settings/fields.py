"""What settings are made of: sections, texts that must be paths or URLs, and what is told of those that are not.

A text in the settings may be a secret, put into the wrong place. So no error and no repr of a section repeats a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from ownkey_server.mistakes import told
from ownkey_server.paths import is_path

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}|\[key\]")
# Enough to see a slip in a choice of words, and too little for a secret.
_WORD = re.compile(r"[A-Za-z][A-Za-z_-]{0,19}")
_CHOICES = frozenset({"literal_error", "enum", "union_tag_invalid"})
_NUMBERS = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"})


class _Text:
    def __repr__(self) -> str:
        return "..."


class Section(BaseModel):
    """A part of the settings. Its repr shows numbers, choices and references to secrets, and no text."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, _without_texts(value)


def _without_texts(value: Any) -> Any:
    match value:
        case Enum():
            return value
        case str() | bytes() | Path():
            return _Text()
        case Mapping():
            return {name: _without_texts(item) for name, item in value.items()}
        case list() | tuple():
            return [_without_texts(item) for item in value]
    return value


def _require_path(value: object) -> object:
    if isinstance(value, str) and not is_path(value):
        raise PydanticCustomError("path", "must be the path of a file, which this text cannot be")
    return value


FilePath = Annotated[Path, BeforeValidator(_require_path)]


def split_url(url: str, complaint: str) -> SplitResult:
    """The parts of an http or https URL that holds no secret by its form.

    Raises:
        ValueError: It is none, with the complaint, or names a user. The message does not repeat it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # whose message has a part of the URL
        raise ValueError(complaint) from None
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or a password")
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or not url.isprintable() or " " in url:
        raise ValueError(complaint)
    return parts


def _require_endpoint(url: str) -> str:
    complaint = "must be a URL of scheme, host, port and path alone, such as https://s3.example.com"
    parts = split_url(url, complaint)
    if parts.query or parts.fragment:
        raise ValueError(complaint)
    return url


EndpointUrl = Annotated[str, AfterValidator(_require_endpoint)]


def place(location: Iterable[int | str]) -> str:
    """Where in the settings something is. A name that nobody would give a setting is not repeated."""
    named = [str(part) for part in location]
    return ".".join(part if _NAME.fullmatch(part) else f"(a name of {len(part)} characters)" for part in named)


def message(error: Mapping[str, Any], document: type[BaseModel]) -> str:
    """What is wrong, with the value where that is a number out of its range, or a plain word among choices."""
    kind, given = error["type"], error.get("input")
    if kind == "union_tag_invalid":
        given = error["ctx"]["tag"]
    number = kind in _NUMBERS and isinstance(given, int | float)
    word = kind in _CHOICES and isinstance(given, str) and _WORD.fullmatch(given)
    return told(error, document) + (f" (got {given!r})" if number or word else "")
