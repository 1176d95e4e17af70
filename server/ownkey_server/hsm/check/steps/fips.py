"""Hints for those who must keep to FIPS 140. None is a verdict: what is validated, a certificate says."""

from __future__ import annotations

import secrets

from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11 import exceptions as p11

from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import Bench
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.keystores.pkcs11.profiles import GcmIv
from ownkey_server.keystores.pkcs11.ways import Way

_SHORTEST_PIN = 7


def look(bench: Bench, notes: Notes) -> None:
    """Give hints."""
    token, library = bench.token, bench.library
    said = (library.library_description, library.manufacturer_id, token.label, token.model, token.slot.slot_description)
    speaks = [one for one in said if "fips" in one.lower()]
    notes.noted(
        "mode",
        "Approved mode",
        f"they speak of FIPS: {'; '.join(speaks)}" if speaks else "neither library nor token speaks of FIPS",
        "PKCS#11 tells neither the mode nor the certificate",
        "look up module and firmware in NIST's list of validated modules, and the mode with the vendor's tool",
    )
    ways = bench.ways()
    if ways and ways[0] is Way.GCM and bench.profile.gcm_iv is GcmIv.TOKEN:
        notes.noted("iv", "IV of AES-GCM", "made by the token", "as an approved module does (FIPS 140-3 IG C.H)")
    elif ways and ways[0] is Way.GCM:
        notes.noted(
            "iv",
            "IV of AES-GCM",
            "drawn from the token's generator and handed back to it",
            "an approved module makes the IV inside (FIPS 140-3 IG C.H); one in FIPS mode may refuse ours",
            'mechanism = "aes-key-wrap" needs no IV (SP 800-38F), or take a profile whose token makes it',
        )
    elif ways:
        notes.noted("iv", "AES key wrap", "needs no IV", "approved by SP 800-38F")
    shortest = bench.cryptoki.counts(token.slot.slot_id).shortest_pin
    if shortest is not None and shortest < _SHORTEST_PIN:
        why = "a login that is guessed in one of a million tries is too easy for FIPS 140"
        notes.noted("pin", "Shortest PIN", f"{shortest} characters", why, "choose a longer one yourself")
    _look_at_clear_keys(bench, notes)


def _look_at_clear_keys(bench: Bench, notes: Notes) -> None:
    title = "Keys handed in in clear"
    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
        Attribute.VALUE: secrets.token_bytes(32),
        Attribute.TOKEN: False,
        Attribute.LABEL: bench.new_label(),
    }
    try:
        bench.session.create_object(template).destroy()
    except p11.PKCS11Error as error:
        why = "as in FIPS mode; AES key wrap by session objects hands in data keys in clear, and so does not work here"
        notes.noted("clear_keys", title, f"refused: {answer_of(error)}", why, "use AES-GCM")
    else:
        notes.noted("clear_keys", title, "taken", "a module in its approved mode (level 3 and up) refuses them")
