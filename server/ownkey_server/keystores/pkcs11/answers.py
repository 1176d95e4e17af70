"""What the answers of a PKCS#11 token mean for a key: taken away, gone for now, or never right.

Tokens answer an outage, a destroyed key and a changed ciphertext with the same few codes, so what a code means depends
on what has been seen before: whether the key ever worked, in which token, and since when it has been missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pkcs11 import exceptions as p11

from ownkey.container import EncryptedDataKey
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyExists,
    KeyMisconfigured,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    OperationUnsupported,
)
from ownkey_server.keystores.pkcs11.messages import Worked
from ownkey_server.keystores.pkcs11.module import LoadedModule, ModuleMissing
from ownkey_server.keystores.pkcs11.tokens import (
    KeyUnfit,
    LabelTaken,
    LoginSpent,
    MechanismUnusable,
    NoKey,
    Pkcs11Token,
    RightsMissing,
)
from ownkey_server.keystores.pkcs11.wrapping import TokenUnsuitable

# Seen of a session just opened, these are facts; starting the whole module anew would only disturb its other tokens.
_CERTAIN = (LoginSpent, KeyUnfit, RightsMissing, MechanismUnusable, TokenUnsuitable, ModuleMissing)
# A token that is being deleted has its keys gone first: seen, for some milliseconds, of SoftHSM.
SECONDS_MISSING = 0.5


class Answers:
    """The history of the keys of one token, and what a failure means in its light.

    Args:
        store: Name of the key store, for the errors.
        label: The token's label.
        monotonic: The clock, in seconds.
    """

    def __init__(
        self, store: str, label: str, token: Pkcs11Token, module: LoadedModule, monotonic: Callable[[], float]
    ) -> None:
        self._store = store
        self._label = label
        self._token = token
        self._module = module
        self._worked: dict[str, Worked] = {}
        self._monotonic = monotonic
        # In which generation of the module a key was first found missing, and when.
        self._missing_since: dict[str, tuple[int, float]] = {}

    def note_success(self, reference: str, provider_id: str) -> None:
        """The key has just wrapped or unwrapped in this way."""
        before = self._worked.get(reference)
        ways = before.ways if before and self._works_here(reference) else frozenset()
        self._worked[reference] = Worked(self._token.serial, ways | {provider_id}, before.proofs if before else ())
        self._missing_since.pop(reference, None)

    def learn(self, reference: str, worked: Worked) -> bool:
        """Take over where and how the key has worked, which others of its store may have seen; whether it is news."""
        news = reference not in self._worked
        self._worked[reference] = worked
        return news

    def forget(self, reference: str) -> None:
        """Let go of all that is known of a key: from now on it is another."""
        self._worked.pop(reference, None)
        self._missing_since.pop(reference, None)

    def keep_proofs(self, reference: str, proofs: tuple[EncryptedDataKey, ...]) -> None:
        """Keep what shows later that the key is still the one that has just worked."""
        self._worked[reference] = replace(self._worked[reference], proofs=proofs)

    def proofs_of(self, reference: str) -> tuple[EncryptedDataKey, ...]:
        """What :meth:`keep_proofs` kept."""
        worked = self._worked.get(reference)
        return worked.proofs if worked else ()

    def worked(self, reference: str) -> Worked | None:
        """Where and how the key has worked; None if it never has."""
        return self._worked.get(reference)

    def note_failure(self, reference: str, error: Exception) -> None:
        """The key has just failed in a session opened for this look."""
        if isinstance(error, NoKey):
            self._first_missed(reference)

    def is_certain(self, reference: str, error: Exception) -> bool:
        """Whether a failure in a session just opened needs no look at a reinitialized module."""
        if isinstance(error, NoKey):
            # A key that never worked is looked for again at the next call; one that did is not given up that easily.
            return reference not in self._worked
        kind = isinstance(error, (*_CERTAIN, p11.MultipleTokensReturned))
        return kind or self._refuses_pin(error) or self._is(error, self._token.profile.errors.unsupported)

    def is_of_whole_token(self, error: Exception) -> bool:
        """Whether a failure is the same for every key of the token."""
        kind = isinstance(error, (ModuleMissing, p11.MultipleTokensReturned))
        return kind or self._is_absent(error) or self._refuses_pin(error)

    def unsettled(self, reference: str) -> float:
        """Seconds until it can be told whether a missing key was destroyed; 0 when that is known, or it is there.

        Until then a use of it has failed as in an outage, and it may be none.
        """
        missing = self._missing_since.get(reference)
        if missing is None or not self._works_here(reference):
            return 0.0
        generation, at = missing
        left = SECONDS_MISSING - (self._monotonic() - at)
        if generation == self._module.generation:
            left = max(left, self._module.rests_for)
        return max(left, 0.0)

    def meaning(self, reference: str, error: Exception, doubtful: str = "") -> KeyStoreError:
        """What a failure means that remained after recovery.

        Args:
            reference: The key.
            error: What the token answered.
            doubtful: Provider id of the bytes that were to be opened, if any.
        """
        kind: type[KeyStoreError]
        match error:
            case NoKey():
                kind, cause = self._meaning_of_no_key(reference)
            case RightsMissing():
                kind, cause = self._taken_away_or_never_right(reference), str(error)
            case MechanismUnusable():
                # Unless the key has done it here, the bytes claim a way that is not the key's: that is all they show.
                done = self._works_here(reference) and doubtful in self._worked[reference].ways
                kind, cause = (KeyRevoked if done else CiphertextInvalid), str(error)
            case LabelTaken():
                kind, cause = KeyExists, str(error)
            case KeyUnfit() | LoginSpent() | ModuleMissing() | TokenUnsuitable():
                kind, cause = KeyMisconfigured, str(error)
            case p11.MultipleTokensReturned():
                kind, cause = KeyMisconfigured, f"several tokens have the label {self._label!r}"
            case _ if self._is_absent(error):
                kind, cause = KeyUnreachable, f"there is no token {self._label!r}"
            case _ if self._refuses_pin(error):
                kind, cause = KeyMisconfigured, f"the token refuses the PIN ({type(error).__name__})"
            case _ if self._is(error, self._token.profile.errors.unsupported):
                kind, cause = OperationUnsupported, "the token cannot do this"
            case _:
                kind, cause = (
                    KeyUnreachable,
                    f"the token answered {self._token.profile.answer_of(error) or type(error).__name__}",
                )
        return kind(self._store, reference, cause)

    def _meaning_of_no_key(self, reference: str) -> tuple[type[KeyStoreError], str]:
        if reference in self._worked:
            if not self._works_here(reference):
                return KeyMisconfigured, "the token was initialized anew, and has no key of this label"
            # Missing before and after a reinitialization that shows the key's own token, and for a while. Once is not
            # enough: a token that is being taken out shows no keys either.
            generation, at = self._first_missed(reference)
            if generation == self._module.generation or self._monotonic() - at < SECONDS_MISSING:
                # Neither an outage nor a revocation, yet.
                return KeyStoreThrottled, "the key is not seen in its token at this moment"
            if not self._token.profile.serial_identifies:
                unknown = "the token has no key of this label, and its serial number does not tell if it ever had"
                return KeyMisconfigured, unknown
        return self._taken_away_or_never_right(reference), "the token has no key of this label"

    def _is_absent(self, error: Exception) -> bool:
        return isinstance(error, p11.NoSuchToken) or self._is(error, self._token.profile.errors.gone)

    def _refuses_pin(self, error: Exception) -> bool:
        kind = isinstance(error, (LoginSpent, p11.UserPinNotInitialized))
        return kind or self._is(error, self._token.profile.errors.pin_refused)

    def _is(self, error: Exception, answers: frozenset[str]) -> bool:
        return self._token.profile.answer_of(error) in answers

    def _first_missed(self, reference: str) -> tuple[int, float]:
        return self._missing_since.setdefault(reference, (self._module.generation, self._monotonic()))

    def _taken_away_or_never_right(self, reference: str) -> type[KeyStoreError]:
        return KeyRevoked if self._works_here(reference) else KeyMisconfigured

    def _works_here(self, reference: str) -> bool:
        """Only the token that had the key can show that it was taken away: another by its label never had it."""
        return reference in self._worked and self._worked[reference].serial == self._token.serial
