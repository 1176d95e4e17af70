"""The wrapping keys of imports: one for each, and none that stays in the token when its import has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ownkey_server.domain.ceremonies import Action, Phase
from ownkey_server.hsm.ceremony_check import Checked
from ownkey_server.hsm.ceremony_log import CeremonyLog, Intent
from ownkey_server.hsm.errors import HsmError
from ownkey_server.hsm.operations.pairs import KeptPairs
from ownkey_server.hsm.operations.transport import EndPair
from ownkey_server.hsm.work import TokenAtWork

_PREFIX = "import of "


def pair_label(label: str) -> str:
    """What the wrapping key pair of an import is called in the token."""
    return f"{_PREFIX}{label}"


@dataclass(frozen=True, slots=True)
class Pending:
    """An import that has begun and not ended, as the log tells it."""

    scheme: str
    hash: str
    in_process: bool
    guarded: bool
    exportable: bool


def pending_imports(checked: Checked, serial: str) -> dict[str, Pending]:
    """The imports into a token that have begun and not ended, by the key's label."""
    found: dict[str, Pending] = {}
    for record in checked.records.values():
        if record.phase is not Phase.DONE or not _is_about(record.tokens, serial):
            continue
        if record.action is Action.BEGIN_IMPORT:
            detail = record.detail
            found[record.key] = Pending(
                str(detail["scheme"]),
                str(detail["hash"]),
                bool(detail["in_process"]),
                bool(detail.get("guarded")),
                bool(detail.get("exportable")),
            )
        elif record.action in (Action.IMPORT, Action.ABANDON_IMPORT):
            found.pop(record.key, None)
    return found


def wrapping_keys(checked: Checked | None, token: TokenAtWork) -> dict[str, str]:
    """The wrapping keys of imports in a token, by the label of the key that each was made for.

    Returns:
        For each ``waiting`` for its import, ``left`` by one that has ended or never begun, or ``unknown`` to the log.
    """
    there = [label.removeprefix(_PREFIX) for label in token.ask(KeptPairs(_PREFIX))]
    if checked is None:
        return dict.fromkeys(there, "unknown")
    waiting = pending_imports(checked, token.facts.serial)
    known = {
        record.key
        for record in checked.records.values()
        if record.action is Action.BEGIN_IMPORT and _is_about(record.tokens, token.facts.serial)
    }
    return {label: "waiting" if label in waiting else "left" if label in known else "unknown" for label in there}


def end_pair(log: CeremonyLog, token: TokenAtWork, label: str) -> str:
    """Destroy the wrapping key of an import that has ended; why it could not be, which is on record then.

    One key, one wrapping key: what was sent cannot be imported again under another name.
    """
    try:
        token.ask(EndPair(pair_label(label)))
    except HsmError as error:
        intent = Intent(Action.SETTLE, (token.facts.identity,), label, {"wrapping_keys": [label]})
        log.begin(intent, ()).failed(f"the wrapping key of the import could not be destroyed: {error}")
        return str(error)
    return ""


def settle_pairs(log: CeremonyLog, token: TokenAtWork) -> tuple[str, ...]:
    """Destroy the wrapping keys that imports have left; the labels of the keys that they were for.

    What another log may know of is let alone.

    Raises:
        HsmError: One cannot be destroyed.
    """
    left = sorted(label for label, state in wrapping_keys(log.checked, token).items() if state == "left")
    if not left:
        return ()
    ceremony = log.begin(Intent(Action.SETTLE, (token.facts.identity,), detail={"wrapping_keys": left}), ())
    try:
        for label in left:
            token.ask(EndPair(pair_label(label)))
    except HsmError as error:
        ceremony.failed(str(error))
        raise
    ceremony.done({"wrapping_keys": left})
    return tuple(left)


def _is_about(tokens: Sequence[Mapping[str, str]], serial: str) -> bool:
    return any(each.get("serial") == serial for each in tokens)
