"""Random bytes: whether the token makes any, and that nothing gross is wrong with them."""

from __future__ import annotations

from pkcs11 import TokenFlag
from pkcs11 import exceptions as p11

from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import Bench
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.hsm.check.statistics import judge
from ownkey_server.keystores.pkcs11.profiles import RandomFrom

_NONE = "the token has no generator"
_SAMPLE = 16 * 1024
_AT_ONCE = 1024


def look(bench: Bench, notes: Notes) -> None:
    """Draw random bytes."""
    title = "Data keys are drawn in the token"
    source = bench.profile.random
    if source is RandomFrom.SYSTEM or (source is RandomFrom.FLAG and not bench.token.flags & TokenFlag.RNG):
        why = "data keys come from the system's generator instead, which is good, but not the token's"
        seen = f"not by the token's profile ({bench.profile.name})" if source is RandomFrom.SYSTEM else _NONE
        notes.warned("generator", title, seen, why, "nothing, unless your rules want the token's")
        return
    sample = bytearray()
    try:
        while len(sample) < _SAMPLE:
            sample += bench.session.generate_random(_AT_ONCE * 8)
            notes.alive(f"{len(sample)} random bytes")
    except p11.PKCS11Error as error:
        seen = f"the token has a generator, and answered {answer_of(error)}"
        why = "ownkey draws data keys and IVs from a token that says that it has a generator"
        notes.failed("generator", title, seen, why, "look at the token's state with the vendor's tool")
        return
    notes.passed("generator", title, f"{len(sample)} bytes were drawn")
    found = judge(bytes(sample))
    notes.decided(
        found.is_sane,
        "sanity",
        "Random bytes: sanity test",
        f"frequency p = {found.frequency:.3g}, runs p = {found.runs:.3g}, {found.repeated} repeated blocks,"
        f" in {found.size} bytes",
        "only gross faults show here (a generator that stands still, or counts); that it passes proves no quality"
        if found.is_sane
        else "data keys and IVs from this generator can be guessed, or come twice",
        "do not use the token; let the vendor look at it",
    )
