"""What was last seen of every key. Answers come from memory; no question here reaches a key store."""

from __future__ import annotations

from datetime import datetime, timedelta

from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.domain.key_state import STATE_OF_ERROR, KeyEvidence, KeyState


class StatusBoard:
    """The latest evidence about each key, by the key's name.

    Args:
        max_age: Evidence older than this proves nothing any more: the key's state is then ``UNKNOWN``.
    """

    def __init__(self, max_age: timedelta) -> None:
        self._max_age = max_age
        self._evidence: dict[str, KeyEvidence] = {}

    def saw(self, key_name: str, state: KeyState, cause: str, now: datetime) -> None:
        """Note what a use of the key has just shown."""
        self._evidence[key_name] = KeyEvidence(state, cause, now)

    def saw_error(self, key_name: str, error: KeyStoreError, now: datetime) -> None:
        """Note what a failed use of the key has shown, if it has shown anything."""
        state = STATE_OF_ERROR[type(error)]
        if state is not None:
            self.saw(key_name, state, error.cause, now)

    def of(self, key_name: str, now: datetime) -> KeyEvidence | None:
        """What is known of the key: with state ``UNKNOWN`` when the evidence is too old, None when there is none."""
        evidence = self._evidence.get(key_name)
        if evidence is not None and now - evidence.observed_at > self._max_age:
            cause = f"no evidence since it was last seen {evidence.state}"
            return KeyEvidence(KeyState.UNKNOWN, cause, evidence.observed_at)
        return evidence
