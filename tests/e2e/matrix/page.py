"""Writes the matrix into ``docs/state-matrix.md``: ``python -m e2e.matrix.page``, from ``tests/``."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from e2e.matrix.cells import CELLS, CODES, CONSEQUENCES, DOUBTFUL, MISCONFIGURED, OK, Cell, Consequences

PAGE = Path(__file__).resolve().parents[3] / "docs" / "state-matrix.md"
BEGIN, END = "<!-- from tests/e2e/matrix/cells.py -->\n", "<!-- to here -->\n"
STORES = {
    "embedded": "`embedded`: keys in files",
    "embedded-sealed": "`embedded`, sealed",
    "pkcs11-gcm": "`pkcs11`, SoftHSM, AES-GCM",
    "pkcs11-kw": "`pkcs11`, SoftHSM, AES key wrap",
    "aws_kms": "`aws_kms`",
}
_HEAD = "| what happens | state | cause | GenerateDataKey, Unwrap | call gate | notification |"
_STATES_HEAD = "| state | call gate | by its rules | in grace | notification |"


def table() -> str:
    """What each state means, and all rows: a table for each kind of key store."""
    states = [
        *((f"`{state}`", seen) for state, seen in CONSEQUENCES.items()),
        (f"`{MISCONFIGURED}`, in AWS KMS: it may be its holder's doing", DOUBTFUL),
    ]
    rows = [_state_row(name, seen) for name, seen in states]
    parts = [_STATES_HEAD, _rule(_STATES_HEAD), *rows, ""]
    for store, cells in groupby(CELLS, key=lambda cell: cell.store):
        parts += [f"## {STORES[store]}\n", _HEAD, _rule(_HEAD), *map(_row, cells), ""]
    return "\n".join(["", *parts, ""])


def _rule(head: str) -> str:
    return "|---" * head.count(" | ") + "|---|"


def _state_row(name: str, seen: Consequences) -> str:
    return f"| {name} | {seen.gate} | {seen.ruled} | {seen.grace} | {_told(seen.told)} |"


def _row(cell: Cell) -> str:
    happens = cell.happens + " (while no server runs)" * cell.while_down
    errors = (
        _error(cell.generate) if cell.generate == cell.unwrap else f"{_error(cell.generate)}, {_error(cell.unwrap)}"
    )
    errors += "".join(f"; in passing perhaps {_error(one)}: {why}" for one, why in (cell.passing or {}).items())
    cause = cell.cause.replace("*", "…").replace("|", "\\|")
    errors += f"; in passing perhaps `{cell.by_way_of}`, since so it is" if cell.by_way_of else ""
    columns = (happens, f"`{cell.state}`", cause, errors, cell.seen.gate, _told(cell.seen.told))
    return f"| {' | '.join(columns)} |"


def _told(kind: str) -> str:
    return f"`{kind}`" if kind else "none"


def _error(reason: str) -> str:
    return OK if reason == OK else f"`{CODES[reason]}` `{reason}`"


def written(page: str) -> str:
    """The page with its tables as they should be."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + table() + END + tail


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
