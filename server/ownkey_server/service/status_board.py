"""What was last seen of every key. Answers come from memory; no question here reaches a key store."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.domain.key_state import STATE_OF_ERROR, KeyEvidence, KeyState, combine
from ownkey_server.domain.tenants import CustomerKey

_log = logging.getLogger(__name__)

MANY = 10_000


class StatusBoard:
    """The latest evidence about each replica of each key.

    Args:
        max_age: Evidence older than this proves nothing any more: the key's state is then ``UNKNOWN``.
    """

    def __init__(self, max_age: timedelta) -> None:
        self._max_age = max_age
        self._evidence: dict[tuple[str, str], KeyEvidence] = {}

    def saw(self, key_name: str, replica: str, state: KeyState, cause: str, now: datetime) -> None:
        """Note what a use of the key has just shown.

        Args:
            key_name: Name of the key.
            replica: Name of the key store where it was used.
            state: What that says of the key there.
            cause: Why it is not available; empty when it is.
            now: The present time (UTC).
        """
        before = self._evidence.get((key_name, replica))
        self._evidence[key_name, replica] = KeyEvidence(state, cause, now)
        if before is None or before.state is not state:
            # However it was seen, by a probe or by traffic, the operator reads of every change exactly once.
            level = logging.INFO if state is KeyState.AVAILABLE else logging.WARNING
            _log.log(level, "key %s is %s in %s%s", key_name, state, replica, f": {cause}" if cause else "")

    def saw_error(self, key_name: str, error: KeyStoreError, now: datetime) -> None:
        """Note what a failed use of the key has shown, if it has shown anything."""
        state = STATE_OF_ERROR[type(error)]
        if state is not None:
            self.saw(key_name, error.replica, state, error.cause, now)

    def prune(self, now: datetime) -> None:
        """Let go of evidence that is too old to prove anything, once there is much of it."""
        if len(self._evidence) > MANY:
            self._evidence = {
                place: evidence
                for place, evidence in self._evidence.items()
                if now - evidence.observed_at <= self._max_age
            }

    def of_replica(self, key_name: str, replica: str, now: datetime) -> KeyEvidence | None:
        """What is known of the key in one replica: ``UNKNOWN`` when it is too long ago, None when there is nothing."""
        evidence = self._evidence.get((key_name, replica))
        if evidence is not None and now - evidence.observed_at > self._max_age:
            cause = f"no evidence since it was last seen {evidence.state}"
            return KeyEvidence(KeyState.UNKNOWN, cause, evidence.observed_at)
        return evidence

    def of(self, key: CustomerKey, now: datetime) -> KeyEvidence | None:
        """What is known of the key as a whole; None when there is nothing."""
        return combine([(one.name, self.of_replica(key.name, one.name, now)) for one in key.replicas])
