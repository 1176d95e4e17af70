from __future__ import annotations

from ownkey_server.keystores.aws.shares import FAILURE_SECONDS, Pulse


class Now:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_a_failure_counts_until_an_answer_and_not_for_ever() -> None:
    now = Now()
    pulse = Pulse(5.0, now)
    assert not pulse.unwell
    pulse.says(answered=False)
    now.seconds += FAILURE_SECONDS - 0.1
    assert pulse.unwell
    now.seconds += 0.1
    assert not pulse.unwell
    pulse.says(answered=False)
    pulse.says(answered=True)
    assert not pulse.unwell


def test_a_call_that_hangs_counts_for_as_long_as_it_does() -> None:
    now = Now()
    pulse = Pulse(5.0, now)
    with pulse.beat():
        assert not pulse.unwell
        now.seconds += 1000
        assert pulse.unwell
    assert not pulse.unwell
