"""Whatever happens to a key is told as what it is, by everybody, from its beginning to its end."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import pytest

from e2e.matrix.cells import AVAILABLE, CELLS, CONSEQUENCES, DEGRADED, Cell
from e2e.matrix.walk import AFTER, MEANWHILE, OUTAGE, SAYS, Walk, cause_is, said

in_every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)


@pytest.fixture
def walk(walks: Mapping[str, Walk], cell: Cell) -> Walk:
    """What was told in the cell."""
    return walks[cell.id]


@in_every_cell
def test_state_errors_gate_and_notification_are_those_of_the_row_and_then_all_is_well(walk: Walk) -> None:
    assert not walk.stuck, walk.story


@in_every_cell
def test_nobody_ever_calls_it_what_it_is_not(cell: Cell, walk: Walk) -> None:
    """No outage is a revocation, no revocation an outage: not for a moment, in no answer, in nothing that is kept."""
    allowed = {SAYS[word] for word in (cell.state, cell.generate, cell.unwrap, *(cell.passing or {})) if word in SAYS}
    allowed |= {SAYS[cell.by_way_of]} if cell.by_way_of in SAYS else set()
    if DEGRADED in (cell.state, cell.by_way_of):
        allowed.add(OUTAGE)  # of one of its places
    assert said(walk).keys() <= allowed, walk.story


@in_every_cell
def test_calls_meet_no_error_but_the_row_s(cell: Cell, walk: Walk) -> None:
    allowed = {"OK", cell.generate, *(cell.passing or {})}, {"OK", cell.unwrap, *(cell.passing or {})}
    looks = walk.of(MEANWHILE) + walk.of(AFTER)
    for kind, answers in zip(allowed, zip(*(look.calls for look in looks), strict=True), strict=True):
        assert set(answers) <= kind, walk.story


@in_every_cell
def test_the_cause_is_told_in_the_row_s_words(cell: Cell, walk: Walk) -> None:
    told = {look.cause for look in walk.of(MEANWHILE) if look.state == cell.state != AVAILABLE}
    told |= {cause for state, cause in walk.watched if state == cell.state != AVAILABLE}
    told |= {cause for kind, cause in walk.notices if kind == cell.seen.told}
    assert [cause for cause in told if not cause_is(cell, cause)] == [], walk.story


@in_every_cell
def test_the_history_has_it_once(cell: Cell, walk: Walk) -> None:
    once = [AVAILABLE] if cell.state == AVAILABLE else [AVAILABLE, cell.state, AVAILABLE]
    assert [state for state in walk.history if state != cell.by_way_of] == once, walk.story


@in_every_cell
def test_it_is_told_once_and_its_end_once(cell: Cell, walk: Walk) -> None:
    wanted = [cell.seen.told, "key_recovered"] if cell.seen.told else []
    told = [kind for kind, _ in walk.notices]
    if cell.by_way_of:
        # That one place is gone is told too, and a recovery of the other place.
        told = [kind for kind, _ in groupby(told) if kind != CONSEQUENCES[cell.by_way_of].told]
    assert told == wanted, walk.story


@in_every_cell
def test_the_gate_opens_when_it_has_ended(walk: Walk) -> None:
    assert walk.of(AFTER)[-1].gates == ("allow", "allow", "allow"), walk.story
