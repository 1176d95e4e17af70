"""What happens when a session ends beneath us, when somebody logs out, when the module starts anew."""

from __future__ import annotations

from collections.abc import Callable

from pkcs11 import exceptions as p11

from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import CONTEXT, Bench
from ownkey_server.hsm.check.cryptoki import Refused
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.hsm.check.steps.use import subjects
from ownkey_server.keystores.pkcs11.ways import Way

_DATA_KEY = bytes(32)
_REPORT = "report it to the vendor"
_RECOVERY = "a server would not serve again after such a moment without a restart"


def look(bench: Bench, notes: Notes) -> None:
    """End things."""
    ways = bench.ways()
    _look_at_closed_session(bench, notes, ways)
    _look_at_logout(bench, notes, ways)
    title = "The module started anew"
    notes.alive(title)
    _look_at_recovery(bench, notes, ways, "reinitialized", title, bench.start_anew)


def _look_at_closed_session(bench: Bench, notes: Notes, ways: list[Way]) -> None:
    title = "A session that is closed beneath us"
    assert bench.session is not None  # noqa: S101 - logged in first
    other = bench.open_another()
    other.close()
    try:
        other.generate_random(8)
    except p11.PKCS11Error as error:
        notes.passed("closed_session", title, f"the token answers {answer_of(error)}")
    else:
        why = "a session that is gone goes on to answer: whose it is nobody knows"
        notes.warned("closed_session", title, "the token goes on to answer in it", why, _REPORT)
    title = "Keys of a session end with it"
    if not ways:
        notes.noted("session_keys", title, "not looked at: there is no mechanism")
        return
    second = bench.open_another()
    label, _ = bench.make_kek(ways[0], session=second)
    second.close()
    left = len(bench.keys_of(label))
    why = "what is made for a moment stays until the program ends, and fills the token's memory"
    notes.decided(
        not left,
        "session_keys",
        title,
        "still there" if left else "gone",
        why,
        "restart servers from time to time",
        mild=True,
    )
    title = "A new session after one was lost"
    _look_at_recovery(bench, notes, ways, "new_session", title, bench.store_token.open_anew)


def _look_at_logout(bench: Bench, notes: Notes, ways: list[Way]) -> None:
    title = "Keys cannot be used after a logout"
    if not ways:
        notes.noted("logout", title, "not looked at: there is no mechanism")
        return
    way = ways[0]
    # As the key store does it, in the session that it has: handles and all.
    wrapped = {label: bench.wrap(label, _DATA_KEY, CONTEXT, way) for label in subjects(bench, way)}
    try:
        bench.cryptoki.log_out(bench.own_session)
    except Refused as error:
        notes.warned("logout", title, f"a logout was answered {answer_of(error)}", "nobody can log out", _REPORT)
        return
    used, answers = [], set()
    for label, one in wrapped.items():
        try:
            bench.unwrap(label, one, CONTEXT)
        except p11.PKCS11Error as error:
            answers.add(answer_of(error))
        else:
            used.append(label)
    kept = [label for label in used if label in bench.plan.keys]
    said = f"the token answers {', '.join(sorted(answers))}" if answers else "there was none to try"
    notes.decided(
        not used,
        "logout",
        title,
        f"used: {', '.join(kept)}" if kept else "a key of the session was used" if used else said,
        "the PIN protects nothing: whoever reaches the module uses the keys"
        if kept
        else "keys of a session outlive the login; whether those that are kept do is seen with --key",
        "make keys with CKA_PRIVATE true, on a token that needs a login" if kept else "name a key with --key",
        mild=not kept,
    )
    _look_at_recovery(bench, notes, ways, "login_again", "A login after a logout", bench.forget)


def _look_at_recovery(
    bench: Bench, notes: Notes, ways: list[Way], name: str, title: str, end: Callable[[], None]
) -> None:
    try:
        end()
        assert bench.session is not None  # noqa: S101 - opened at its use
        if ways:
            label, _ = bench.make_kek(ways[0])
            wrapped = bench.wrap(label, _DATA_KEY, CONTEXT, ways[0])
            good = bench.unwrap(label, wrapped, CONTEXT) == _DATA_KEY
        else:
            good = bool(bench.token)
    except Exception as error:  # noqa: BLE001 - whatever it is, it did not recover
        notes.failed(name, title, f"the token answered {answer_of(error)}", _RECOVERY, _REPORT)
        return
    notes.decided(good, name, title, "it serves" if good else "other bytes came back", _RECOVERY, _REPORT)
