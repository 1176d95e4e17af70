"""A keeper that dies at any step loses nothing and repeats nothing."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from ownkey_server.storage.audit.sink import DirectorySink, Sink
from ownkey_server.storage.audit.verify_directory import verify_directory
from ownkey_server.storage.database import Database
from support.audit_trails import START, Trail, keeper, newest_checkpoint


class Died(Exception):
    """The process ended here."""


class Mortal:
    """A database and a sink whose user dies at a certain step: when it writes to either."""

    def __init__(self, database: Database, sink: Sink, death: int, *, after: bool) -> None:
        self._database = database
        self._sink = sink
        self._death = death
        self._after = after
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        step = self._begin()
        with self._database.writing() as connection:
            yield connection
        self._end(step)

    def put(self, name: str, content: bytes) -> None:
        step = self._begin()
        self._sink.put(name, content)
        self._end(step)

    def _begin(self) -> int:
        self.steps += 1
        if self.steps == self._death and not self._after:
            raise Died
        return self.steps

    def _end(self, step: int) -> None:
        if step == self._death and self._after:
            raise Died


def build(trail: Trail) -> None:
    trail.now = START
    for _ in range(2):
        trail.write(trail.writer(), 7)
    trail.after(days=2)
    trail.write(trail.writer(), 7)


def state(trail: Trail, folder: Path) -> list[object]:
    queries = (
        "SELECT writer, sequence FROM audit_records ORDER BY 1, 2",
        "SELECT writer, first_sequence, last_sequence, exported, removed FROM audit_segments ORDER BY 1, 2",
        "SELECT exported FROM audit_checkpoints WHERE NOT exported",
    )
    rows = [[tuple(row) for row in trail.rows(query)] for query in queries]
    names = [str(path.relative_to(folder)) for path in folder.glob("writers/*/*")]
    return [*rows, sorted(name for name in names if not name.startswith("."))]


@pytest.mark.parametrize("after", [False, True], ids=["before a step", "after a step"])
def test_a_keeper_that_dies_at_any_step_loses_nothing_and_repeats_nothing(
    trail: Trail, tmp_path: Path, after: bool
) -> None:
    states = []
    for death in itertools.count():
        folder = tmp_path / f"sink-{death}"
        folder.mkdir()
        trail.empty()
        build(trail)
        mortal = Mortal(trail.database, DirectorySink(folder), death, after=after)
        with contextlib.suppress(Died):
            keeper(trail, mortal, database=mortal, retention=timedelta(days=1)).keep()
        assert trail.found() == [], f"after death {death}"
        trail.after(minutes=2)
        assert keeper(trail, DirectorySink(folder), retention=timedelta(days=1)).keep().findings == ()
        assert trail.verify(newest_checkpoint(trail)).ok
        assert verify_directory(folder, trail.signer.verifier, known_checkpoint=newest_checkpoint(trail)).ok
        states.append(state(trail, folder))
        if death > mortal.steps:
            break
    assert death > 20
    assert all(each == states[0] for each in states)
