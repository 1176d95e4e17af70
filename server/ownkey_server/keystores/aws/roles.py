"""A role in a customer's account, assumed in a tenant's name, with credentials that are fresh before they must be.

The external id is made here from the tenant's id, never taken from the customer: who talks us into naming another
customer's role still shows the wrong external id (the IAM User Guide's "confused deputy problem").
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from botocore.credentials import ReadOnlyCredentials

# Whoever lost the trust of a role keeps its last session for this long: as short as STS allows.
SESSION_SECONDS = 900
# In the place of a tenant's id; no tenant can have one with a dot.
CANARY_NAME = "provider.canary"
# Of one tenant, by account and region; more are assumed again when they are used again.
MOST_ROLES = 32
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
        return cls._made(f"arn:{partition}:iam::{account}:role/{role_name}", tenant, prefix, tags=tags)

    @classmethod
    def of_canary(cls, role: str, *, prefix: str, tags: bool) -> RoleSession:
        """The session of a role of the provider's own, asked for just as a tenant's."""
        return cls._made(role, CANARY_NAME, prefix, tags=tags)

    @classmethod
    def _made(cls, role: str, name: str, prefix: str, *, tags: bool) -> RoleSession:
        return cls(
            role,
            _NO_NAME.sub("-", f"ownkey-{name}")[:64],
            f"{prefix}-{name}",
            {"ownkey:tenant": name} if tags else {},
        )

    @property
    def identity(self) -> str:
        """Who we are to the role's account: all that its trust policy can ask for."""
        return f"{self.role} {self.external_id} {'tagged' if self.tags else 'untagged'}"

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


@dataclass(frozen=True, slots=True)
class _Session:
    credentials: ReadOnlyCredentials
    expires: float
    renew_from: float


class AssumedRole:
    """The credentials of a role's session. They are renewed in the background when a third of their time is left.

    A renewal that fails leaves the old session in use until it ends, but for one case: what refuses it is known to be
    the customer's own act. The old session would still do, and is given up.

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
        self._session: _Session | None = None
        self._asking: Future[ReadOnlyCredentials] | None = None
        self._renewing = False
        self._not_before = 0.0

    def credentials(self, wait: float, withdrawn: Callable[[Exception], bool]) -> ReadOnlyCredentials:
        """Credentials that hold for now. When there are none, one caller asks STS, and the others wait for its answer.

        Args:
            wait: Seconds to wait for another's answer.
            withdrawn: Whether an error of a renewal is the customer's own act; it may ask AWS.

        Raises:
            ClientError: STS says no.
            BotoCoreError: STS cannot be asked.
            TimeoutError: Another caller has no answer yet.
        """
        held = self._held()
        if held is not None:
            if self._clock() >= max(held.renew_from, self._not_before) and self._begin_renewal():
                self._later(partial(self._renew, held.credentials, withdrawn))
            return held.credentials
        with self._lock:
            held = self._held()
            if held is not None:
                return held.credentials
            asked = self._asking
            mine = Future[ReadOnlyCredentials]()
            if asked is None:
                self._asking = mine
        if asked is not None:
            return asked.result(max(0.0, wait))
        return self._ask(mine)

    @property
    def has_session(self) -> bool:
        """Whether there is something that another, made later, would have to ask for."""
        return self._session is not None

    @property
    def idle(self) -> bool:
        """Whether nobody is asking STS for it."""
        return self._asking is None and not self._renewing

    def forget(self, refused: ReadOnlyCredentials) -> None:
        """Use these credentials no more: AWS does not take them, or the customer took them away."""
        with self._lock:
            if self._session is not None and self._session.credentials is refused:
                self._session = None

    def _held(self) -> _Session | None:
        held = self._session
        return held if held is not None and self._clock() < held.expires - _LEAST_SECONDS else None

    def _ask(self, mine: Future[ReadOnlyCredentials]) -> ReadOnlyCredentials:
        """Ask STS in this thread, without the lock: who comes meanwhile waits for no longer than it can."""
        try:
            made = self._take(self._assume())
        except BaseException as error:
            self._end_asking()
            mine.set_exception(error)
            raise
        self._end_asking()
        mine.set_result(made)
        return made

    def _end_asking(self) -> None:
        with self._lock:
            self._asking = None

    def _begin_renewal(self) -> bool:
        with self._lock:
            begins, self._renewing = not self._renewing, True
            return begins

    def _renew(self, old: ReadOnlyCredentials, withdrawn: Callable[[Exception], bool]) -> None:
        try:
            self._take(self._assume())
        except Exception as error:  # noqa: BLE001 - those there are may still hold: whoever needs others will be told
            self._not_before = self._clock() + _PAUSE_SECONDS
            if withdrawn(error):
                self.forget(old)
        finally:
            self._renewing = False

    def _take(self, answer: Mapping[str, Any]) -> ReadOnlyCredentials:
        until = answer["Expiration"]
        expires = until.timestamp() if isinstance(until, datetime) else float(until)
        made = ReadOnlyCredentials(answer["AccessKeyId"], answer["SecretAccessKey"], answer["SessionToken"])
        self._session = _Session(made, expires, expires - (expires - self._clock()) * _AHEAD)
        return made


class TenantRoles:
    """The roles of one tenant by account and region, those used last: who enrols keys names accounts as it likes.

    By region, because an outage of STS in one is no matter to another. Used by many threads.
    """

    def __init__(self, most: int = MOST_ROLES) -> None:
        self._most = most
        self._roles: OrderedDict[tuple[str, str], AssumedRole] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._roles)

    def get(self, at: tuple[str, str], make: Callable[[], AssumedRole]) -> AssumedRole:
        """The role of an account and region, made now if there is none."""
        with self._lock:
            found = self._roles.get(at)
            if found is None:
                self._make_room()
                found = self._roles[at] = make()
            self._roles.move_to_end(at)
            return found

    def refused(self, at: tuple[str, str], role: AssumedRole) -> None:
        """STS gave no session: without one there is nothing to keep."""
        with self._lock:
            if self._roles.get(at) is role and role.idle and not role.has_session:
                del self._roles[at]

    def _make_room(self) -> None:
        for at, role in tuple(self._roles.items()):
            if len(self._roles) < self._most:
                return
            if role.idle:
                del self._roles[at]
