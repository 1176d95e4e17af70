"""How many streams there may be."""

from __future__ import annotations

import contextlib

import pytest

from ownkey_server.domain.errors import Overloaded
from ownkey_server.service.admission import Admission
from support.admission import BACKGROUND, LIMITS, LIVE, PLAYBACK, Clock


def test_streams_are_counted_and_background_streams_are_refused_first() -> None:
    admission = Admission(LIMITS, Clock())
    with contextlib.ExitStack() as stack:
        for number in range(4):
            stack.enter_context(admission.stream(BACKGROUND, f"tenant-{number}"))
        with pytest.raises(Overloaded, match="4 media streams run"):
            stack.enter_context(admission.stream(BACKGROUND, "acme"))
        for _ in range(2):
            stack.enter_context(admission.stream(PLAYBACK, "acme"))
        with pytest.raises(Overloaded):
            stack.enter_context(admission.stream(PLAYBACK, "globex"))
        for _ in range(2):
            stack.enter_context(admission.stream(LIVE, "globex"))
        with pytest.raises(Overloaded):
            stack.enter_context(admission.stream(LIVE, "initech"))
        assert admission.streams == 8
    assert admission.streams == 0


def test_one_tenant_has_only_its_share_of_the_streams() -> None:
    admission = Admission(LIMITS, Clock())
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(admission.stream(LIVE, "globex"))
        with pytest.raises(Overloaded, match="the tenant has 4 media streams"):
            stack.enter_context(admission.stream(LIVE, "globex"))
        stack.enter_context(admission.stream(LIVE, "acme"))
