"""What all written tables have in common: unknown names are errors, and ids are ids."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

ID_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]


class Table(BaseModel):
    """A table of the file: what it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def repeated(what: str, names: list[str]) -> list[str]:
    """A complaint for each name that stands more than once."""
    return [f"{what}: {name!r} stands more than once" for name, count in sorted(Counter(names).items()) if count > 1]


def plain(table: Table) -> dict[str, Any]:
    """The table as TOML or JSON has it, without what says nothing."""
    return table.model_dump(mode="json", exclude_defaults=True)
