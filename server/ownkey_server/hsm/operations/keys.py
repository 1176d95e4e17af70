"""Making keys, publishing them, and taking their rights away.

A key is made under a label that no key store looks for, and gets its own only when it has been proved and recorded.
What was cut off on the way is pending, and nobody uses it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pkcs11 import Attribute, KeyType
from pkcs11 import exceptions as p11

from ownkey_server.domain.key_labels import pending
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.facts import KeyFacts
from ownkey_server.hsm.templates import KEY_BITS, RIGHTS, choose, kek_template
from ownkey_server.hsm.trust import try_untrusted

if TYPE_CHECKING:
    from ownkey_server.hsm.bench import Bench

_WRAP_RIGHTS = (Attribute.ENCRYPT, Attribute.WRAP)


@dataclass(frozen=True, slots=True)
class Generate:
    """Make a key in the token, pending.

    Attributes:
        label: What it will be called.
        mechanism: How it wraps: ``auto``, or a way's word.
        exportable: It may leave the token, under keys alone that the security officer trusts.
    """

    label: str
    mechanism: str
    exportable: bool = False

    def run(self, bench: Bench) -> KeyFacts:
        """Make it."""
        way = choose(bench.ways, bench.profile, self.mechanism)
        bench.require_free(self.label, pending(self.label))
        if self.exportable:
            require_keeps_to_trust(bench)
        template = kek_template(way, bench.profile, exportable=self.exportable)
        key = bench.session.generate_key(
            KeyType.AES, KEY_BITS, label=pending(self.label), store=True, template=template
        )
        return proper(bench, key, self.label, exportable=self.exportable)


def require_keeps_to_trust(bench: Bench) -> None:
    """Refuse a token that would let an exportable key out under any other: by what is known of it, and by a trial.

    Raises:
        HsmError: It would, or nothing shows that it would not.
    """
    profile = bench.profile
    if not profile.honours_wrap_with_trusted:
        raise HsmError(
            f"tokens of its family ({profile.name}) are not known to keep to CKA_WRAP_WITH_TRUSTED: whoever has the PIN"
            " could take an exportable key along",
            Trouble.UNSUPPORTED,
            "`ownkey hsm check` (step export) tries it; if it holds, honours_wrap_with_trusted = true in a profile of"
            " your own says so",
        )
    trial = try_untrusted(bench.session, bench.offered)
    if not trial.refused:
        raise HsmError(f"the token would let an exportable key out: {trial.seen}", Trouble.UNSUPPORTED, _NOT_HERE)


_NOT_HERE = "make the key without --exportable"


def proper(bench: Bench, key: Any, label: str, *, exportable: bool = False) -> KeyFacts:
    """The facts of a key just made, once it is sure that the token made it as asked, and lets it be published.

    Raises:
        HsmError: It did not; the key is destroyed.
    """
    try:
        facts = bench.facts(key)
        if facts.unfit:
            raise HsmError(f"the token made the key otherwise than asked: {'; '.join(facts.unfit)}", Trouble.UNFIT)  # noqa: TRY301
        if facts.exportable is not exportable:
            what = "exportable, and it is not" if exportable else "not exportable, and it is"
            raise HsmError(f"the token made the key otherwise than asked: {what}", Trouble.UNFIT)  # noqa: TRY301
        # That labels can be changed is known before anything depends on it.
        key[Attribute.LABEL] = pending(label)
    except Exception as error:
        with contextlib.suppress(p11.PKCS11Error):
            key.destroy()
        if isinstance(error, p11.PKCS11Error):
            reason = f"the token does not let a key be renamed ({type(error).__name__})"
            raise HsmError(reason, Trouble.UNSUPPORTED, "make the key with the vendor's tool") from None
        raise
    return facts


@dataclass(frozen=True, slots=True)
class Publish:
    """Give a pending key its label: from now on it is used."""

    label: str

    def run(self, bench: Bench) -> None:
        """Rename it."""
        bench.require_free(self.label)
        bench.key(pending(self.label))[Attribute.LABEL] = self.label


@dataclass(frozen=True, slots=True)
class Discard:
    """Destroy a pending key, if there is one. It protects nothing: it was never used."""

    label: str

    def run(self, bench: Bench) -> bool:
        """Destroy it."""
        found = bench.secret_keys(pending(self.label))
        for key in found:
            key.destroy()
        return bool(found)


@dataclass(frozen=True, slots=True)
class LookAtKey:
    """One key."""

    label: str

    def run(self, bench: Bench) -> KeyFacts:
        """Look."""
        return bench.facts(bench.key(self.label))


@dataclass(frozen=True, slots=True)
class TakeRights:
    """Take rights from a key: to wrap, and to open too.

    Attributes:
        was: The key as it was seen and confirmed; nothing is done if it is another by now.
        opening: Take the right to open as well, and whatever other rights there are.
    """

    was: KeyFacts
    opening: bool

    def run(self, bench: Bench) -> KeyFacts:
        """Take them."""
        key = _as_it_was(bench, self.was)
        for right in RIGHTS if self.opening else _WRAP_RIGHTS:
            if not key[right]:
                continue
            try:
                key[right] = False
            except p11.PKCS11Error as error:
                raise HsmError(
                    f"the token does not let the right to {right.name.lower()} be taken ({type(error).__name__})",
                    Trouble.UNSUPPORTED,
                    "set `retired = true` for the key in the tenants file; only destroying it ends it in the token",
                ) from None
            if key[right]:
                raise HsmError(f"the key has the right to {right.name.lower()} all the same", Trouble.UNFIT)
        return bench.facts(key)


@dataclass(frozen=True, slots=True)
class Destroy:
    """Destroy a key for good: what it wrapped, nobody opens again.

    Attributes:
        was: The key as it was seen and confirmed; nothing is done if it is another by now.
    """

    was: KeyFacts

    def run(self, bench: Bench) -> None:
        """Destroy it."""
        _as_it_was(bench, self.was).destroy()
        if bench.secret_keys(self.was.label):
            raise HsmError("the token still has the key", Trouble.UNSUPPORTED)


def _as_it_was(bench: Bench, was: KeyFacts) -> Any:
    key = bench.key(was.label)
    if bench.facts(key) != was:
        raise HsmError("the key is not as it was when it was looked at", Trouble.TAKEN, "run the command again")
    return key
