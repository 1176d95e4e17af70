"""What is looked at, in this order. Each step finds the token as the one before it left it: as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ownkey_server.hsm.check.bench import Bench
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.hsm.check.steps import (
    export,
    fips,
    keys,
    library,
    lifecycle,
    login,
    mechanisms,
    randomness,
    sessions,
    tamper,
    token,
    traces,
    use,
)

Look = Callable[[Bench, Notes], None]


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        title: What it looks at, for people.
        look: Does it.
        is_first: Without it there is nothing more to look at: what ends here, ends the check.
    """

    title: str
    look: Look
    is_first: bool = False


STEPS: Mapping[str, Step] = {
    "library": Step("The library", library.look, is_first=True),
    "token": Step("The token", token.look, is_first=True),
    "login": Step("The login", login.look, is_first=True),
    "mechanisms": Step("Mechanisms", mechanisms.look),
    "keys": Step("Keys", keys.look),
    "use": Step("Wrap and unwrap", use.look),
    "tamper": Step("Changed bytes", tamper.look),
    "export": Step("Getting a key out", export.look),
    "random": Step("Random bytes", randomness.look),
    "sessions": Step("Sessions", sessions.look),
    "lifecycle": Step("Logout and lost sessions", lifecycle.look),
    "fips": Step("FIPS hints", fips.look),
    "traces": Step("What is left behind", traces.look),
}
SPEED = "speed"
SPEED_TITLE = "Speed"


def title_of(step: str) -> str:
    """What a step looks at, for people."""
    return SPEED_TITLE if step == SPEED else STEPS[step].title if step in STEPS else step
