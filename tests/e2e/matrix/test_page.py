"""The page shows the matrix as it is tested."""

from __future__ import annotations

from e2e.matrix.cells import AVAILABLE, CELLS, CONSEQUENCES
from e2e.matrix.page import PAGE, written
from e2e.matrix.walk import SAYS


def test_the_page_has_every_row() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page, "run `python -m e2e.matrix.page` in tests/"


def test_every_row_is_of_one_kind_in_all_its_columns() -> None:
    """An outage is an outage to callers, gates and receivers of notifications, in the matrix itself too."""
    for cell in CELLS:
        if cell.state == AVAILABLE:
            continue  # the use alone is refused, not the key
        words = (cell.state, cell.generate, cell.unwrap, cell.seen.told, cell.seen.gate)
        assert len({SAYS[word] for word in words if word in SAYS}) <= 1, cell.id


def test_a_state_is_told_as_itself() -> None:
    kinds = {state: SAYS.get(seen.told) for state, seen in CONSEQUENCES.items() if state in SAYS}
    assert kinds == {state: SAYS[state] for state in kinds}


def test_no_two_rows_have_one_name() -> None:
    assert len({cell.id for cell in CELLS}) == len(CELLS)
