"""What a chain says of a revocation, and of whom nothing is claimed."""

from __future__ import annotations

import pytest

from ownkey_server.domain.receipts import Standing, standing_of


@pytest.mark.parametrize(
    ("effect", "knew", "stopped", "silent", "standing"),
    [
        (True, False, False, 0, Standing.IN_FORCE),
        (True, False, True, 9999, Standing.IN_FORCE),
        (False, True, False, 9999, Standing.SINCE_START),
        (False, False, True, 9999, Standing.STOPPED),
        (False, False, False, 0, Standing.SILENT),
        (False, False, False, 599, Standing.SILENT),
        (False, False, False, 600, Standing.GONE),
    ],
)
def test_what_a_chain_says(effect: bool, knew: bool, stopped: bool, silent: float, standing: Standing) -> None:
    found = standing_of(effect=effect, knew=knew, stopped=stopped, silent_seconds=silent, gone_seconds=600)
    assert found is standing
    assert found.is_proved is (effect or knew or stopped)
