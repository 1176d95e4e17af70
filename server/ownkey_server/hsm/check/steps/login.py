"""The login: one try with the PIN, and what that opens. Nobody else tries a PIN that was refused here."""

from __future__ import annotations

import time

from pkcs11 import exceptions as p11

from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import Bench
from ownkey_server.hsm.check.cryptoki import Refused
from ownkey_server.hsm.check.notes import Notes

_SLOW_SECONDS = 2.0
_TO_DO = {
    "CKR_PIN_INCORRECT": "write the right PIN where --pin or the settings say; tokens lock after a few wrong ones",
    "CKR_PIN_LOCKED": "the security officer unlocks it with the SO PIN, by the vendor's tool",
    "CKR_PIN_EXPIRED": "set a new PIN with the vendor's tool",
    "CKR_SESSION_COUNT": "end what holds sessions of the token, or let it have more",
}


def look(bench: Bench, notes: Notes) -> None:
    """Log in."""
    _look_without(bench, notes)
    writes = bench.profile.read_write_sessions
    title = "The PIN opens a session" if writes else "The PIN opens a session that only reads"
    began = time.monotonic()
    try:
        assert bench.session is not None  # noqa: S101 - it is opened here
    except p11.PKCS11Error as error:
        answer = answer_of(error)
        to_do = _TO_DO.get(answer, "look at the vendor's log and at the state of the token")
        notes.failed("pin", title, f"the token answered {answer}", "without a login no key can be used", to_do)
        notes.tell("stop", "nobody is logged in")
        return
    seconds = time.monotonic() - began
    notes.decided(
        seconds < _SLOW_SECONDS,
        "pin",
        title,
        f"in {seconds * 1000:.0f} ms",
        "ownkey takes a login that lasts longer for a module that has hung",
        "look at the network between here and the token",
        mild=True,
    )
    state = bench.cryptoki.state(bench.own_session)
    notes.decided(
        state == ("read-write, user logged in" if writes else "read-only, user logged in"),
        "state",
        "State of the session",
        state,
        "the module has another idea of the login than it answered",
        "report it to the vendor",
        mild=True,
    )
    bench.began_with = bench.inventory(notes.alive)
    notes.tell("inventory", bench.began_with)


def _look_without(bench: Bench, notes: Notes) -> None:
    """Whether the keys that were named can be seen by whoever has no PIN."""
    if not bench.plan.keys:
        return
    try:
        with bench.open_another() as session:
            seen = [label for label in bench.plan.keys if bench.is_seen(session, label)]
    except (p11.PKCS11Error, Refused):
        return  # a token that lets nobody look without a login is the better one
    notes.decided(
        not seen,
        "private",
        "Keys are hidden without the PIN",
        f"seen without it: {', '.join(seen)}" if seen else "none is seen",
        "CKA_PRIVATE is false: on many tokens whoever reaches the module uses such a key without a PIN",
        "make a new key with CKA_PRIVATE true (`ownkey hsm keygen` does), and move to it",
    )
