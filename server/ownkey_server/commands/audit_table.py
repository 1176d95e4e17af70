"""Records of the audit trail for people: a line each, in columns. All of a record is in its line of JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ownkey.cli.output import printable

COLUMNS = ("time", "principal", "action", "asset", "key", "result")
_MOST = {"principal": 40, "asset": 40, "key": 40}


class Columns:
    """Lines of one width, as far as can be known: later records may be wider than those at the beginning.

    Args:
        first: The records that are shown at once.
    """

    def __init__(self, first: Iterable[Mapping[str, Any]]) -> None:
        rows = [cells(record) for record in first]
        self._widths = [
            min(max(len(row[number]) for row in [COLUMNS, *rows]), _MOST.get(name, 40))
            for number, name in enumerate(COLUMNS)
        ]

    def heading(self) -> str:
        """What each column has."""
        return self._line(COLUMNS)

    def lines(self, records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
        """A line for each record."""
        for record in records:
            yield self._line(cells(record))

    def _line(self, row: tuple[str, ...]) -> str:
        return "  ".join(f"{cell:<{width}}" for cell, width in zip(row, self._widths, strict=True)).rstrip()


def cells(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What a record says in each column: nothing that moves a cursor, and a hyphen for nothing."""
    asset = record.get("asset", {})
    result = " ".join(str(record[name]) for name in ("result", "reason", "decision") if record.get(name))
    found = (
        f"{str(record['time'])[:19]}Z",
        record.get("principal", ""),
        record["action"],
        " ".join(str(asset[name]) for name in ("class", "id") if name in asset),
        record.get("key") or (f"tenants/{record['tenant']}" if record.get("tenant") else ""),
        result.removesuffix(" allow"),
    )
    return tuple(printable(str(cell)).replace("\n", "\\n") or "-" for cell in found)
