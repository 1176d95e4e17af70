"""What is left behind: nothing."""

from __future__ import annotations

from pkcs11 import exceptions as p11

from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import Bench
from ownkey_server.hsm.check.notes import Notes

_TITLE = "The token holds what it held"


def look(bench: Bench, notes: Notes) -> None:
    """Compare with the beginning."""
    left = bench.left_behind(notes.alive)
    if left:
        try:
            bench.remove_left(notes.alive)
            became = "and were removed"
        except p11.PKCS11Error as error:
            became = f"and could not be removed ({answer_of(error)})"
        seen = f"{left} keys that were to end with their session were kept, {became}"
        why = "the token keeps what it is told not to keep: data keys too, where AES key wrap makes objects of them"
        to_do = f"look for objects whose label begins with {bench.plan.throw_away}, and report it to the vendor"
        notes.failed("objects", _TITLE, seen, why, to_do)
        return
    now, before = bench.inventory(notes.alive), bench.began_with
    notes.decided(
        now == before,
        "objects",
        _TITLE,
        now if now == before else f"{before} before, {now} now; none is of this check",
        "somebody else has made, changed or deleted objects meanwhile",
        "check again when nobody else works on the token, if you want to be sure",
        mild=True,
    )
