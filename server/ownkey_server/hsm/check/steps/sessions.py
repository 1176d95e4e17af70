"""Sessions: how many there may be, and that many are possible. A token in service keeps half of what it has free."""

from __future__ import annotations

from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import Bench
from ownkey_server.hsm.check.cryptoki import Refused
from ownkey_server.hsm.check.notes import Notes

_WANTED = 8
_NEEDED = 2
_WHY = "each server process has one, and one more while it is looked at; the token must have them for all instances"
_TO_DO = "let the token have more sessions, or run fewer workers"


def look(bench: Bench, notes: Notes) -> None:
    """Open sessions."""
    slot = bench.token.slot.slot_id
    assert bench.own_session  # noqa: S101 - opened before it is counted
    before = bench.cryptoki.counts(slot)
    # A family's own limit counts where the token tells of none.
    limit = before.most_sessions or bench.profile.max_sessions or None
    told = f"at most {limit}" if limit else "there is no limit" if before.unlimited else "the token does not say"
    notes.decided(
        limit is None or limit >= _WANTED,
        "limit",
        "Limit of sessions",
        told if before.sessions is None else f"{told}; {before.sessions} are open here",
        _WHY,
        _TO_DO,
        mild=True,
    )
    most = bench.plan.sessions
    if limit is not None:
        most = min(most, max(_NEEDED, (limit - (before.sessions or 0)) // 2))
    opened: list[int] = []
    ended = ""
    is_logged_in = True
    try:
        while len(opened) < most:
            opened.append(bench.open_own())
            is_logged_in &= "user logged in" in bench.cryptoki.state(opened[-1])
            notes.alive(f"{len(opened)} sessions")
    except Refused as error:
        ended = answer_of(error)
    finally:
        not_closed = _close(bench, opened)
    title = "Sessions at the same time"
    seen = f"{len(opened)} were opened" + (f", then the token answered {ended}" if ended else ", and all could be")
    if len(opened) < _NEEDED:
        notes.failed("opened", title, seen, _WHY, _TO_DO)
    else:
        notes.decided(len(opened) >= _WANTED or not ended, "opened", title, seen, _WHY, _TO_DO, mild=True)
    title = "A login holds for every session of a program"
    seen = "yes" if is_logged_in else "no"
    why = "the standard says so, and ownkey opens sessions without the PIN where it has logged in"
    notes.decided(is_logged_in, "login", title, seen, why, "report it to the vendor", mild=True)
    title = "Sessions that were closed are free again"
    after = bench.cryptoki.counts(slot).sessions
    is_free = not not_closed and (after is None or before.sessions is None or after <= before.sessions)
    seen = (
        f"{not_closed} could not be closed"
        if not_closed
        else "yes"
        if is_free
        else f"{after} open, {before.sessions} before"
    )
    why = "each lost connection would cost a session, until there are none"
    notes.decided(is_free, "closed", title, seen, why, "report it to the vendor", mild=True)


def _close(bench: Bench, opened: list[int]) -> int:
    not_closed = 0
    for session in opened:
        try:
            bench.cryptoki.close(session)
        except Refused:
            not_closed += 1
    return not_closed
