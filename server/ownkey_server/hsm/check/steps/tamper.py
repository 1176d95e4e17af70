"""Changed bytes: each byte of a wrapped key flipped, every shorter length, some more: all of it must be refused.

On keys of the session alone: a token in service may well count such attempts against a key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from pkcs11 import exceptions as p11

from ownkey.container import EncryptedDataKey
from ownkey.container.raw_aes import IV_LENGTH
from ownkey_server.hsm.check.answers import answer_of
from ownkey_server.hsm.check.bench import CONTEXT, WAY_NAMES, Bench
from ownkey_server.hsm.check.notes import Notes
from ownkey_server.hsm.check.steps.use import prefix_of
from ownkey_server.keystores.pkcs11.ways import Way

_FLIP = 0xFF
_BETWEEN_SIGNS = 16
_MOST_SHOWN = 5
_LIKE_AN_OUTAGE = {
    "CKR_DEVICE_ERROR",
    "CKR_DEVICE_REMOVED",
    "CKR_SESSION_CLOSED",
    "CKR_SESSION_HANDLE_INVALID",
    "CKR_TOKEN_NOT_PRESENT",
    "CKR_USER_NOT_LOGGED_IN",
}


def look(bench: Bench, notes: Notes) -> None:
    """Change bytes."""
    for way in bench.ways():
        try:
            label, _ = bench.make_kek(way)
            wrapped = bench.wrap(label, bench.store_token.random(32), CONTEXT, way)
        except Exception as error:  # noqa: BLE001 - said in full by the steps before
            notes.noted("key", f"{WAY_NAMES[way]}: changed bytes", f"not looked at: no key for it ({answer_of(error)})")
            continue
        _look_at(bench, notes, way, label, wrapped)


def _look_at(bench: Bench, notes: Notes, way: Way, label: str, wrapped: EncryptedDataKey) -> None:
    name = WAY_NAMES[way]
    prefix = prefix_of(way)
    answers: Counter[str] = Counter()
    opened, surprising = [], set()
    for number, (what, changed) in enumerate(_changes(wrapped, way)):
        if number % _BETWEEN_SIGNS == 0:
            notes.alive(f"{name}: {what}")
        try:
            bench.unwrap(label, changed, CONTEXT)
        except p11.PKCS11Error as error:
            answers[answer_of(error)] += 1
            if not bench.profile.suspects_bytes(error):
                surprising.add(answer_of(error))
        except Exception as error:  # noqa: BLE001 - the binding's own, of bytes that it does not even hand on
            answers[type(error).__name__] += 1
        else:
            opened.append(what)
    tried = answers.total() + len(opened)
    title = f"{name}: no changed byte, shorter or longer text is opened"
    seen = f"{tried} tried, {tried - len(opened)} refused"
    if opened:
        seen += f"; opened: {', '.join(opened[:_MOST_SHOWN])}{' and more' if len(opened) > _MOST_SHOWN else ''}"
    notes.decided(
        not opened,
        f"{prefix}.refused",
        title,
        seen,
        "whoever changes stored bytes gets another data key in place of an error",
        "report it to the vendor, and do not use the token",
    )
    said = ", ".join(f"{answer} ({count})" for answer, count in answers.most_common())
    doubtful = _LIKE_AN_OUTAGE & set(answers)
    notes.decided(
        not doubtful,
        f"{prefix}.answers",
        f"{name}: the answer for a bad ciphertext",
        said or "none",
        "the token answers changed bytes as it answers a lost session: each of them costs a new login",
        "ownkey tells them apart by a round trip on other bytes; expect such calls to be slow",
        mild=True,
    )
    if surprising - doubtful:
        notes.warned(
            f"{prefix}.profile",
            f"{name}: the token's profile knows the answer for a bad ciphertext",
            f"not {', '.join(sorted(surprising - doubtful))} ({bench.profile.name})",
            "each of them costs a new session before the bytes are suspected",
            "add it to errors.bad_ciphertext in a profile of your own (docs/key-stores.md), and tell us",
        )
    try:
        bench.unwrap(label, wrapped, CONTEXT)
        answered = "it does"
    except Exception as error:  # noqa: BLE001
        answered = answer_of(error)
    notes.decided(
        answered == "it does",
        f"{prefix}.still_answers",
        f"{name}: the token opens good bytes afterwards",
        answered,
        "a caller who sends rubbish ends the session for everybody",
        "report it to the vendor",
    )


def _changes(wrapped: EncryptedDataKey, way: Way) -> Iterator[tuple[str, EncryptedDataKey]]:
    text, info = wrapped.ciphertext, wrapped.provider_info
    for at in range(len(text)):
        yield f"byte {at} flipped", replace(wrapped, ciphertext=_flipped(text, at))
    if way is Way.GCM:
        for at in range(len(info) - IV_LENGTH, len(info)):
            changed = replace(wrapped, provider_info=_flipped(info, at))
            yield f"byte {at - len(info) + IV_LENGTH} of the IV flipped", changed
    for length in range(len(text)):
        yield f"cut to {length} bytes", replace(wrapped, ciphertext=text[:length])
    for more in (1, 8, len(text)):
        yield f"{more} bytes longer", replace(wrapped, ciphertext=text + bytes(more))


def _flipped(text: bytes, at: int) -> bytes:
    return text[:at] + bytes([text[at] ^ _FLIP]) + text[at + 1 :]
