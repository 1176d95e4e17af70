"""A role in a customer's account, assumed in a tenant's name, with credentials that are fresh before they must be.

The external id is made here from the tenant's id, never taken from the customer: who talks us into naming another
customer's role still shows the wrong external id (the IAM User Guide's "confused deputy problem").
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from botocore.credentials import ReadOnlyCredentials

# Whoever lost the trust of a role keeps its last session for this long: as short as STS allows.
SESSION_SECONDS = 900
_AHEAD = 1 / 3
_LEAST_SECONDS = 5.0
_PAUSE_SECONDS = 10.0
_NO_NAME = re.compile(r"[^\w+=,.@-]", re.ASCII)


@dataclass(frozen=True, slots=True)
class RoleSession:
    """What a session of a role is asked for by.

    Attributes:
        role: ARN of the role.
        name: Name of the session, which stands in the customer's CloudTrail.
        external_id: What the role's trust policy demands to be told.
        tags: Tags of the session, which policies may speak of; needs ``sts:TagSession`` in the trust policy.
    """

    role: str
    name: str
    external_id: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_tenant(
        cls, tenant: str, *, partition: str, account: str, role_name: str, prefix: str, tags: bool
    ) -> RoleSession:
        """The session by which a tenant's keys in an account are used."""
        return cls(
            f"arn:{partition}:iam::{account}:role/{role_name}",
            _NO_NAME.sub("-", f"ownkey-{tenant}")[:64],
            f"{prefix}-{tenant}",
            {"ownkey:tenant": tenant} if tags else {},
        )

    def request(self) -> dict[str, Any]:
        """The arguments of AssumeRole."""
        asked: dict[str, Any] = {
            "RoleArn": self.role,
            "RoleSessionName": self.name,
            "ExternalId": self.external_id,
            "DurationSeconds": SESSION_SECONDS,
        }
        if self.tags:
            asked["Tags"] = [{"Key": name, "Value": value} for name, value in self.tags.items()]
        return asked


class AssumedRole:
    """The credentials of a role's session. They are renewed in the background when a third of their time is left.

    Args:
        assume: Asks STS; gives the ``Credentials`` of its answer.
        later: Runs something in the background.
        clock: The time of day, in seconds.
    """

    def __init__(
        self,
        assume: Callable[[], Mapping[str, Any]],
        later: Callable[[Callable[[], None]], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._assume = assume
        self._later = later
        self._clock = clock
        self._lock = threading.Lock()
        self._credentials: ReadOnlyCredentials | None = None
        self._expires = 0.0
        self._renew_from = 0.0
        self._renewing = False

    def credentials(self) -> ReadOnlyCredentials:
        """Credentials that hold for now. Asks STS in this thread only when there are none.

        Raises:
            ClientError: STS says no.
            BotoCoreError: STS cannot be asked.
        """
        now, held = self._clock(), self._credentials
        if held is not None and now < self._expires - _LEAST_SECONDS:
            if now >= self._renew_from and self._begin():
                self._later(self._renew)
            return held
        with self._lock:
            held = self._credentials
            if held is None or self._clock() >= self._expires - _LEAST_SECONDS:
                held = self._take(self._assume())
            return held

    def forget(self, refused: ReadOnlyCredentials) -> None:
        """Use these credentials no more: AWS does not take them."""
        with self._lock:
            if self._credentials is refused:
                self._credentials = None

    def _begin(self) -> bool:
        with self._lock:
            begins, self._renewing = not self._renewing, True
            return begins

    def _renew(self) -> None:
        try:
            answer = self._assume()
        except Exception:  # noqa: BLE001 - those there are still hold: whoever needs others will be told
            with self._lock:
                self._renew_from = self._clock() + _PAUSE_SECONDS
        else:
            with self._lock:
                self._take(answer)
        finally:
            self._renewing = False

    def _take(self, answer: Mapping[str, Any]) -> ReadOnlyCredentials:
        until = answer["Expiration"]
        self._expires = until.timestamp() if isinstance(until, datetime) else float(until)
        self._renew_from = self._expires - (self._expires - self._clock()) * _AHEAD
        made = ReadOnlyCredentials(answer["AccessKeyId"], answer["SecretAccessKey"], answer["SessionToken"])
        self._credentials = made
        return made
