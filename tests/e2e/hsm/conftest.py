"""An operator with a token of their own and a log, alone or with custodians."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hsm_operator import Operator, everything_written, needles
from support.softhsm import SoftHsm

_numbers = itertools.count()


@pytest.fixture
def operator(softhsm: SoftHsm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Operator]:
    operator = Operator(tmp_path, softhsm, capsys, f"ceremony-{next(_numbers)}")
    yield operator
    # Whatever a test was about: no secret is ever printed or written.
    written = everything_written(operator)
    assert not [needle for needle in needles(operator) if needle in written]


@pytest.fixture
def alone(operator: Operator) -> Operator:
    """With a token, and a log without custodians."""
    operator.softhsm.make_token(operator.token)
    operator.open_log()
    return operator


@pytest.fixture
def two(operator: Operator) -> Operator:
    """With a token, and a log of two custodians who confirm everything."""
    operator.softhsm.make_token(operator.token)
    operator.open_log("alice", "bob")
    return operator
