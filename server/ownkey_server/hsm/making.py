"""Making a key by a ceremony, in one token or the same key in several.

The order is what keeps a key that is half made from being used: intended and confirmed; made under a pending label;
proved; recorded and confirmed; given its label. Whatever is cut off leaves a pending key, and :func:`settle` ends it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ownkey_server.domain.ceremonies import Action
from ownkey_server.domain.key_labels import KeyLabel, LabelInvalid, pending, pending_for, versions_of
from ownkey_server.hsm.ceremony_check import Head
from ownkey_server.hsm.ceremony_log import CeremonyLog, Intent
from ownkey_server.hsm.custodians import Confirming
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import KeyFacts
from ownkey_server.hsm.operations.keys import Discard, Generate, LookAtKey, Publish
from ownkey_server.hsm.operations.proofs import OpenProbe, WrapProbe
from ownkey_server.hsm.operations.tokens import Labels
from ownkey_server.hsm.operations.transport import SECONDS as TRANSPORT_SECONDS
from ownkey_server.hsm.operations.transport import EndPair, GenerateFor, MakeWrappingPair, Unwrap
from ownkey_server.hsm.work import TokenAtWork

PROBE_LENGTH = 32
TRANSPORT_BITS = 3072
SESSION_PAIR = "ownkey transport"

Approve = Callable[[Sequence[KeyFacts]], bool]


@dataclass(frozen=True, slots=True)
class Made:
    """A key that was made.

    Attributes:
        label: Its label: the reference for the tenants file.
        keys: Its facts in each token.
        ceremony: The ceremony's number.
        head: The log's head afterwards.
    """

    label: str
    keys: tuple[KeyFacts, ...]
    ceremony: int
    head: Head


def first_version(tokens: Sequence[TokenAtWork], label: KeyLabel) -> KeyLabel:
    """The label of a name's first version.

    Raises:
        HsmError: There is a version already.
    """
    label = label if label.version else label.with_version(1)
    for token in tokens:
        there = versions_of(label.name, _labels(token))
        if there:
            raise HsmError(
                f"{token.name} has {', '.join(map(str, there))} already",
                Trouble.TAKEN,
                f"`ownkey hsm rotate {label.name}` makes the next version",
            )
    return label


def free_version(tokens: Sequence[TokenAtWork], label: KeyLabel) -> KeyLabel:
    """The label itself if it has a version, which is then to be free; else the next version of the name, or the first.

    Raises:
        HsmError: A token has a key of that label already.
    """
    there = [version for token in tokens for version in versions_of(label.name, _labels(token))]
    if not label.version:
        return label.with_version(max(there).version + 1 if there else 1)
    if label in there:
        raise HsmError(f"a token has a key {str(label)!r} already: none is ever overwritten", Trouble.TAKEN)
    return label


def next_version(tokens: Sequence[TokenAtWork], label: KeyLabel) -> tuple[KeyLabel, KeyLabel]:
    """The newest version of a name in the tokens, and the one after it.

    Raises:
        HsmError: There is none yet, or the name has a version.
    """
    if label.version:
        raise HsmError("name the key without its version: the next one is made", hint=f"ownkey hsm rotate {label.name}")
    there = [version for token in tokens for version in versions_of(label.name, _labels(token))]
    if not there:
        hint = f"`ownkey hsm keygen {label.name}` makes the first version; `ownkey hsm list` shows what is there"
        raise HsmError(f"no token has a key {label.name!r}", Trouble.NOT_FOUND, hint)
    newest = max(there)
    try:
        return newest, newest.with_version(newest.version + 1)
    except LabelInvalid as error:
        raise HsmError(str(error)) from None


def generate(tokens: Sequence[TokenAtWork], label: str, *, exportable: bool = False) -> list[KeyFacts]:
    """Make a key, pending, in one token; or one key in several, which passes between them wrapped under RSA.

    Args:
        tokens: The tokens.
        label: What it will be called.
        exportable: It may leave each of them again, under keys alone that its security officer trusts.

    Raises:
        HsmError: It cannot be made.
    """
    if len(tokens) == 1:
        return [tokens[0].ask(Generate(label, tokens[0].place.mechanism, exportable))]
    pairs = []
    for token in tokens:
        public = token.ask(MakeWrappingPair(SESSION_PAIR, TRANSPORT_BITS, keep=False), TRANSPORT_SECONDS)
        if not public.hashes:
            raise HsmError(
                f"{token.name} cannot unwrap a key by RSA-OAEP, so that it cannot share one with another token",
                Trouble.UNSUPPORTED,
                "have the customer's own key imported into each, or use what its vendor has for copies",
            )
        pairs.append((public, public.hashes))
    # Each blob is made by the first token, by a hash that it and the other both have.
    common = [next((name for name in names if name in pairs[0][1]), "") for _, names in pairs]
    if not all(common):
        raise HsmError("the tokens have no hash for RSA-OAEP in common", Trouble.UNSUPPORTED)
    keys = tuple((public, name) for (public, _), name in zip(pairs, common, strict=True))
    blobs = tokens[0].ask(GenerateFor(keys))
    made = []
    for token, blob, name in zip(tokens, blobs, common, strict=True):
        operation = Unwrap(label, token.place.mechanism, SESSION_PAIR, blob, "rsa-oaep", name, exportable=exportable)
        made.append(token.ask(operation))
        token.ask(EndPair(SESSION_PAIR))
    return made


def make(
    log: CeremonyLog,
    custodians: Sequence[Confirming],
    action: Action,
    tokens: Sequence[TokenAtWork],
    label: str,
    stage: Callable[[], Sequence[KeyFacts]],
    approve: Approve,
    detail: Mapping[str, Any] | None = None,
) -> Made:
    """Make a key by a ceremony.

    Args:
        log: The ceremony log.
        custodians: Who confirm.
        action: What it is to be called in the log.
        tokens: All that are to have the key.
        label: The key's label.
        stage: Makes it, pending, in each token.
        approve: Shown the key's facts before it is recorded; whether they are as they should be.
        detail: What else the log is to say.

    Raises:
        HsmError: Nothing came of it.
    """
    require_settled(tokens, label)
    intent = Intent(action, tuple(token.facts.identity for token in tokens), label, detail)
    ceremony = log.begin(intent, custodians)
    try:
        keys = list(stage())
        prove(tokens, pending(label))
        require_same(tokens, keys)
        if not approve(keys):
            raise HsmError("it was not agreed to: the key was destroyed before it was used", Trouble.REFUSED)  # noqa: TRY301
        keys = [replace(key, label=label) for key in keys]
        record = ceremony.agreed(outcome(tokens, keys))
    except BaseException as error:
        for token in tokens:
            with contextlib.suppress(HsmError):
                token.ask(Discard(label))
        ceremony.failed(str(error) if isinstance(error, HsmError) else type(error).__name__)
        raise
    head = record()
    for token in tokens:
        token.ask(Publish(label))
    return Made(label, tuple(keys), ceremony.number, head)


def outcome(tokens: Sequence[TokenAtWork], keys: Sequence[KeyFacts]) -> Mapping[str, Any]:
    """What the log says of a key that was made or changed."""
    return {
        "keys": [
            {
                "check_values": dict(key.check_values),
                "exportable": key.exportable,
                "extractable": key.extractable,
                "local": key.local,
                "rights": list(key.rights),
                "sensitive": key.sensitive,
                "serial": token.facts.serial,
                "use": key.use.value,
            }
            for token, key in zip(tokens, keys, strict=True)
        ]
    }


def prove(tokens: Sequence[TokenAtWork], label: str) -> None:
    """Have every token wrap throw-away bytes under its key, and every token open what each has wrapped.

    Raises:
        HsmError: One does not.
    """
    probe = secrets.token_bytes(PROBE_LENGTH)
    for wrapping in tokens:
        wrapped = wrapping.ask(WrapProbe(label, probe))
        for opening in tokens:
            same_kind = opening is wrapping or opening.place.mechanism == wrapping.place.mechanism
            try:
                opened = opening.ask(OpenProbe(label, wrapped))
            except HsmError as error:
                what = f"{opening.name} does not open what {wrapping.name} wrapped: {error}"
                hint = "" if same_kind else "give both key stores the same `mechanism`"
                raise HsmError(what, Trouble.UNFIT, hint or error.hint) from None
            if opened != probe:
                raise HsmError(f"{opening.name} opens what {wrapping.name} wrapped to other bytes", Trouble.UNFIT)


def require_same(tokens: Sequence[TokenAtWork], keys: Sequence[KeyFacts]) -> None:
    """Refuse keys of which two have different check values by the same method.

    Raises:
        HsmError: Two have.
    """
    for token, key in zip(tokens[1:], keys[1:], strict=True):
        for method, value in key.check_values.items():
            first = keys[0].check_values.get(method, value)
            if first != value:
                raise HsmError(
                    f"the check values differ: {first} in {tokens[0].name}, {value} in {token.name}", Trouble.UNFIT
                )


def require_settled(tokens: Sequence[TokenAtWork], label: str) -> None:
    """Refuse a label of which a ceremony that was cut off left something.

    Raises:
        HsmError: There is.
    """
    for token in tokens:
        if pending(label) in _labels(token):
            hint = "`ownkey hsm settle` ends what was cut off"
            raise HsmError(f"{token.name} has {label!r} half made, from before", Trouble.TAKEN, hint)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of pending keys."""

    published: tuple[str, ...]
    discarded: tuple[str, ...]


def settle(log: CeremonyLog, token: TokenAtWork) -> Settled:
    """End what ceremonies that were cut off have left in a token: publish what was recorded, destroy what was not.

    Neither needs custodians: what is published was confirmed, and what is destroyed was never used.
    """
    left = sorted({name for name in map(pending_for, _labels(token)) if name})
    published, discarded = [], []
    if not left:
        return Settled((), ())
    ceremony = log.begin(Intent(Action.SETTLE, (token.facts.identity,), detail={"pending": left}), ())
    taken = set(_labels(token))
    for label in left:
        if label not in taken and _was_recorded(log, token, label):
            token.ask(Publish(label))
            published.append(label)
        else:
            token.ask(Discard(label))
            discarded.append(label)
    ceremony.done({"published": published, "discarded": discarded})
    return Settled(tuple(published), tuple(discarded))


def _was_recorded(log: CeremonyLog, token: TokenAtWork, label: str) -> bool:
    """Whether the log says that this very key was made in this very token."""
    record = log.checked.published(label, token.facts.serial)
    if record is None:
        return False
    values = dict(token.ask(LookAtKey(pending(label))).check_values)
    return any(
        key.get("serial") == token.facts.serial and key.get("check_values") == values and values
        for key in record.detail.get("keys", ())
    )


def _labels(token: TokenAtWork) -> list[str]:
    return token.ask(Labels())


def parsed(name: str) -> KeyLabel:
    """A key's name, with its version or without.

    Raises:
        HsmError: It will not do.
    """
    try:
        return KeyLabel.parse(name)
    except LabelInvalid as error:
        raise HsmError(f"the key's name {error}") from None
