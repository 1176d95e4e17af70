"""One call of AWS KMS, in a thread: signed for its tenant, tried again where that helps, and judged when it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from ownkey_server.domain.errors import KeyRevoked, KeyStoreError, KeyStoreThrottled, KeyUnreachable
from ownkey_server.keystores.aws import errors as aws_errors
from ownkey_server.keystores.aws import retries as aws_retries
from ownkey_server.keystores.aws.access import Access
from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.errors import Row
from ownkey_server.keystores.aws.judge import Failure, Judge
from ownkey_server.keystores.aws.roles import AssumedRole
from ownkey_server.keystores.aws.shares import RegionShare, TenantShare

T = TypeVar("T")

# For the renewal of a session, for which no caller waits.
_JUDGING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be called, and for whom.

    Attributes:
        place: Name of the replica.
        about: Of several keys, the one that an error is about; None for ``key``.
        background: Whether nobody waits for it.
        opens: Whether it opens something: such a call shows that the key works in full, for something was wrapped.
    """

    place: str
    tenant: str
    key: KeyArn
    background: bool = False
    about: Callable[[str], KeyArn] | None = None
    opens: bool = False


class Calls:
    """Makes calls. Used by many threads."""

    def __init__(self, access: Access, judge: Judge) -> None:
        self._access = access
        self._judge = judge

    def make(
        self, order: Order, share: TenantShare, region: RegionShare, deadline: float, work: Callable[[Any], T]
    ) -> T:
        """What ``work`` gives with a client of KMS.

        Raises:
            KeyStoreError: It was not served.
        """
        with region.pulse.beat():
            again = False
            while True:
                if time.monotonic() >= deadline:
                    raise KeyStoreThrottled(order.place, str(order.key), "no time was left to ask", ours=True)
                role = self._access.role(order.tenant, share, order.key)
                try:
                    answer, error = self._attempt(order, region, role, deadline, work)
                    if error is not None and role is not None:
                        share.roles.refused((order.key.account, order.key.region), role)
                except (KeyError, ValueError) as nonsense:
                    region.pulse.says(answered=False)
                    cause = "what answers at the endpoint is not AWS"
                    raise KeyUnreachable(order.place, str(order.key), cause) from nonsense
                if error is None:
                    region.retries.served(again=again)
                    region.pulse.says(answered=True)
                    if order.opens:
                        self._judge.worked(order.tenant, order.key)
                    assert answer is not None  # noqa: S101 - one of the two is there
                    return answer
                if again or not self._helps(error, order, region, deadline):
                    raise error.told from error.cause
                again = True

    def _attempt(
        self,
        order: Order,
        region: RegionShare,
        role: AssumedRole | None,
        deadline: float,
        work: Callable[[Any], T],
    ) -> tuple[T | None, _Refused | None]:
        credentials: ReadOnlyCredentials | None = None
        kms: Any = None
        try:
            kms = self._access.kms(order.key.region)
            if role is not None:
                left = deadline - time.monotonic()
                credentials = role.credentials(left, partial(self._withdrawn, order))
            with self._access.signing_by(credentials):
                return work(kms), None
        except TimeoutError:
            cause = "no time was left to wait for a session of the role"
            raise KeyStoreThrottled(order.place, str(order.key), cause, ours=True) from None
        except (ClientError, BotoCoreError, ResponseParserError) as error:
            failed_at = time.monotonic()
            region.pulse.says(answered=isinstance(error, ClientError))
            key = order.key
            if order.about is not None and isinstance(error, ClientError):
                key = order.about(str(error.response["Error"].get("Message", "")))
            by_role = credentials is not None
            failure = Failure(order.place, key, order.tenant, kms, error, failed_at, deadline, by_role)
            with self._access.signing_by(credentials) if credentials is not None else nullcontext():
                row = self._judge.row(failure)
            stale = isinstance(error, ClientError) and error.response["Error"]["Code"] in aws_errors.STALE
            if stale and role is not None and credentials is not None:
                role.forget(credentials)
                return None, _Refused(row, self._judge.error(failure, row), error, renewed=True)
            return None, _Refused(row, self._judge.error(failure, row), error)

    def _withdrawn(self, order: Order, error: Exception) -> bool:
        """Whether a session of a role was refused by the customer's own act, beyond doubt."""
        if not isinstance(error, ClientError):
            return False
        now = time.monotonic()
        failure = Failure(order.place, order.key, order.tenant, None, error, now, now + _JUDGING_SECONDS)
        return self._judge.row(failure).kind is KeyRevoked

    def _helps(self, refused: _Refused, order: Order, region: RegionShare, deadline: float) -> bool:
        """Whether the same call should be made once more, now."""
        if refused.renewed:
            return True
        if not refused.row.again or (order.background and refused.row.kind is KeyStoreThrottled):
            return False
        pause = aws_retries.pause()
        if time.monotonic() + pause >= deadline or not region.retries.take():
            return False
        time.sleep(pause)
        return True


@dataclass(frozen=True, slots=True)
class _Refused:
    row: Row
    told: KeyStoreError
    cause: Exception
    renewed: bool = False
