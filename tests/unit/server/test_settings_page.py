"""Every setting is on a page, by its name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from ownkey_server.settings import Settings

DOCS = Path(__file__).resolve().parents[3] / "docs"
TEXT = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("settings.md", "limits.md"))
NAMED = set(re.findall(r"`(?:[a-z_]+\.)?([a-z0-9_]+)`", TEXT)) | set(re.findall(r"([a-z_]+) = ", TEXT))


def models(kind: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation."""
    if isinstance(kind, type) and not isinstance(kind, GenericAlias) and issubclass(kind, BaseModel):
        yield kind
    elif isinstance(kind, UnionType) or get_args(kind):
        for one in get_args(kind):
            yield from models(one)


def names(model: type[BaseModel]) -> Iterator[str]:
    """Every setting of a section and of what is in it."""
    for name, field in model.model_fields.items():
        inner = list(models(field.annotation))
        if not inner:
            yield name
        for one in inner:
            yield from names(one)


@pytest.mark.parametrize("name", sorted(set(names(Settings)) - {"kind"}))
def test_a_setting_is_on_the_page(name: str) -> None:
    assert name in NAMED
