"""What brings a notice to a receiver, whatever kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from ownkey_server.domain.notifications import Channel, Notice
from ownkey_server.domain.secret_bytes import SecretBytes

MAX_TOLD = 200


class DeliveryFailed(Exception):
    """A receiver has not taken a notice, or is not known to have. The message is for its tenant, and holds no secret.

    Attributes:
        retry_after: What the receiver asked for.
    """

    def __init__(self, message: str, retry_after: timedelta = timedelta()) -> None:
        super().__init__(message[:MAX_TOLD])
        self.retry_after = retry_after


class Sender(Protocol):
    """One kind of channel."""

    async def send(self, channel: Channel, secrets: Sequence[SecretBytes], notice: Notice, *, slow: bool) -> str:
        """Make one attempt, of bounded length.

        Args:
            channel: Where to.
            secrets: What of it is secret, in clear, the newest first.
            notice: What to tell.
            slow: Whether it was slow, or failed, when it was asked last: it must then wait behind such alone.

        Returns:
            What the receiver said, in a few words.

        Raises:
            DeliveryFailed: It was not taken.
        """
