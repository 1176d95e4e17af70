"""Taking the rights of a key, step by step, and destroying it at last: each by a ceremony."""

from __future__ import annotations

from collections.abc import Sequence

from ownkey_server.domain.ceremonies import Action
from ownkey_server.hsm.ceremony_log import CeremonyLog, Intent
from ownkey_server.hsm.custodians import Confirming
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import KeyFacts, KeyUse
from ownkey_server.hsm.making import Made, outcome
from ownkey_server.hsm.operations.keys import Destroy, TakeRights
from ownkey_server.hsm.work import TokenAtWork


def take_rights(
    log: CeremonyLog,
    custodians: Sequence[Confirming],
    tokens: Sequence[TokenAtWork],
    keys: Sequence[KeyFacts],
    *,
    opening: bool,
) -> Made:
    """Take from a key the right to wrap, and with ``opening`` all of its rights, in each token.

    Doing it again is no fault: a token that was not reached the first time is caught up with.

    Raises:
        HsmError: It cannot be.
    """
    label = keys[0].label
    action = Action.RETIRE if opening else Action.CLOSE
    intent = Intent(action, tuple(token.facts.identity for token in tokens), label, outcome(tokens, keys))
    ceremony = log.begin(intent, custodians)
    try:
        left = [token.ask(TakeRights(key, opening)) for token, key in zip(tokens, keys, strict=True)]
    except HsmError as error:
        ceremony.failed(str(error))
        raise
    return Made(label, tuple(left), ceremony.number, ceremony.done(outcome(tokens, left)))


def require_destroyable(keys: Sequence[KeyFacts]) -> None:
    """Refuse a key that still opens something: taking rights can be undone, and shows what would be missed.

    Raises:
        HsmError: It does.
    """
    for key in keys:
        if key.use is not KeyUse.RETIRED:
            raise HsmError(
                f"{key.label!r} is not retired: it is {key.use.value}",
                Trouble.TAKEN,
                f"`ownkey hsm retire {key.label}` first, and see for a while that nobody misses it",
            )


def destroy(
    log: CeremonyLog, custodians: Sequence[Confirming], tokens: Sequence[TokenAtWork], keys: Sequence[KeyFacts]
) -> Made:
    """Destroy a retired key, in each token.

    Raises:
        HsmError: It cannot be.
    """
    require_destroyable(keys)
    label = keys[0].label
    intent = Intent(Action.DESTROY, tuple(token.facts.identity for token in tokens), label, outcome(tokens, keys))
    ceremony = log.begin(intent, custodians)
    try:
        for token, key in zip(tokens, keys, strict=True):
            token.ask(Destroy(key))
    except HsmError as error:
        ceremony.failed(str(error))
        raise
    return Made(label, tuple(keys), ceremony.number, ceremony.done({"destroyed": [token.name for token in tokens]}))
