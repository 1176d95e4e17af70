"""What both clients know of a watch, without any I/O: what a message means, and when to try again."""

from __future__ import annotations

import random
from collections.abc import Callable

from ownkey import errors
from ownkey._exchange import customer_key_status, key_state_change, sendable
from ownkey.models import KeyWatchEvent
from ownkey.v1 import key_status_pb2

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
# Without a word for so long, heartbeats among them, a connection is given up.
SILENCE = 35.0
# What another try would meet again.
FINAL = (errors.InvalidRequest, errors.NotFound, errors.PermissionDenied)


class Tries:
    """When to connect again, and whether."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._pause = FIRST_PAUSE
        self._heard = False

    def begin(self) -> None:
        """A try begins."""
        self._heard = False

    def heard(self) -> None:
        """The service has answered it."""
        self._heard, self._pause = True, FIRST_PAUSE

    def failed(self, error: errors.OwnkeyError) -> float:
        """How many seconds to wait after a try that ended so.

        Raises:
            OwnkeyError: There is no sense in another.
        """
        # Whose token has just ended is let in with the next one; who never was is not.
        if isinstance(error, FINAL) or (isinstance(error, errors.NotAuthenticated) and not self._heard):
            raise error
        pause = self._pause * (0.5 + self._chance() / 2)
        self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        return pause


class Watching:
    """Where a watch of keys is. One thread or task at a time."""

    def __init__(
        self,
        tenant: str,
        key: str,
        resume_token: str,
        request_id: str,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._tenant = tenant
        self._key = key
        self._request_id = request_id
        self._tries = Tries(chance)
        self.token = resume_token

    def request(self) -> key_status_pb2.WatchKeyStatusRequest:
        """The request of the next try."""
        self._tries.begin()
        with sendable():
            return key_status_pb2.WatchKeyStatusRequest(
                tenant=self._tenant, key=self._key, request_id=self._request_id, resume_token=self.token
            )

    def events(self, message: key_status_pb2.WatchKeyStatusResponse) -> list[KeyWatchEvent]:
        """What a message tells."""
        self._tries.heard()
        self.token = message.resume_token
        return [self._event(message)]

    def _event(self, message: key_status_pb2.WatchKeyStatusResponse) -> KeyWatchEvent:
        match message.WhichOneof("event"):
            case "snapshot":
                keys = tuple(customer_key_status(one) for one in message.snapshot.keys)
                return KeyWatchEvent("snapshot", self.token, keys, changes_missed=message.snapshot.changes_missed)
            case "status":
                return KeyWatchEvent("status", self.token, (customer_key_status(message.status),))
            case "change":
                return KeyWatchEvent("change", self.token, change=key_state_change(message.change))
        return KeyWatchEvent("heartbeat", self.token)

    def failed(self, error: errors.OwnkeyError) -> tuple[KeyWatchEvent, float]:
        """What a try that ended means, and how many seconds to wait before the next.

        Raises:
            OwnkeyError: There is no sense in another.
        """
        pause = self._tries.failed(error)
        return KeyWatchEvent("disconnected", self.token, cause=str(error)), pause


def ended() -> errors.OwnkeyError:
    """That the service ended a watch, as it does when it is restarted."""
    return errors.ServiceUnavailable("the service ended the watch: it is being restarted")


def silent(seconds: float) -> errors.OwnkeyError:
    """That nothing came."""
    return errors.ServiceUnavailable(f"nothing was heard of the service for {seconds:g} s")
