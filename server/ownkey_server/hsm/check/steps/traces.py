"""What is left behind: nothing."""

from __future__ import annotations

from ownkey_server.hsm.check.bench import Bench
from ownkey_server.hsm.check.notes import Notes

_TITLE = "The token holds what it held"


def look(bench: Bench, notes: Notes) -> None:
    """Compare with the beginning."""
    left = bench.left_behind()
    if left:
        why = "keys of the session are to end with it; the token has kept some"
        to_do = f"delete the objects whose label begins with {bench.plan.throw_away}, and report it to the vendor"
        notes.failed("objects", _TITLE, f"{left} keys of this check are in the token", why, to_do)
        return
    now, before = bench.inventory(), bench.began_with
    notes.decided(
        now == before,
        "objects",
        _TITLE,
        now if now == before else f"{before} before, {now} now; none is of this check",
        "somebody else has made, changed or deleted objects meanwhile",
        "check again when nobody else works on the token, if you want to be sure",
        mild=True,
    )
