"""What an error of AWS means for a key, where the error alone does not tell: asks AWS again before it says "revoked".

AWS denies a call alike whether the customer withdrew a permission or our own is at fault. So a denial counts as the
customer's act only if AWS does not name a policy of our own side, the key has worked before in that tenant's name for
us as we are now, and a canary of the provider's own worked *after* the denial: for a key, a key that our credentials
may use; for a role, a role that they may assume, with an external id and tags as a tenant's.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.keystores.aws import denials
from ownkey_server.keystores.aws import errors as aws_errors
from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.canaries import Canaries
from ownkey_server.keystores.aws.errors import Row, When
from ownkey_server.keystores.aws.history import History
from ownkey_server.keystores.aws.material import Materials

# So long a verdict on a denied key, and a state, stand without asking again.
_DENIAL_SECONDS = 5.0
_STATE_SECONDS = 1.0
_MOST_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that AWS did not serve.

    Attributes:
        place: Name of the replica.
        tenant: In whose name it was made.
        kms: The client that made it, to ask about the key by.
        at: When it failed, on the monotonic clock.
        deadline: Until when there is time to ask.
        by_role: Whether the call was made as a role in the customer's account.
    """

    place: str
    key: KeyArn
    tenant: str
    kms: Any
    error: ClientError | BotoCoreError | ResponseParserError
    at: float
    deadline: float
    by_role: bool = False


class Judge:
    """Turns what botocore raises into our own errors. Used by many threads.

    Args:
        canaries: What our identity is proven by.
        materials: What is known of imported key material.
        history: Which keys have ever worked for us as we are.
    """

    def __init__(
        self,
        canaries: Canaries,
        materials: Materials,
        history: History,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._canaries = canaries
        self._materials = materials
        self._history = history
        self._clock = clock
        self._verdicts: OrderedDict[tuple[str, str, str], tuple[float, Row]] = OrderedDict()
        self._lock = threading.Lock()

    def worked(self, tenant: str, key: KeyArn) -> None:
        """A key has just opened something in a tenant's name."""
        self._history.worked(tenant, key)

    def row(self, failure: Failure) -> Row:
        """The row of the table that a failure is."""
        error = failure.error
        if not isinstance(error, ClientError):
            return aws_errors.by_exception(error)
        code = str(error.response["Error"]["Code"])
        if code in aws_errors.DENIALS:
            return self._denied(failure, error)
        if code == "NotFoundException":
            return aws_errors.by_code(code, When.WORKED if self._has_worked(failure) else When.NEVER_WORKED)
        if code == aws_errors.INVALID_STATE:
            return self._in_state(failure, str(error.response["Error"].get("Message", "")))
        return aws_errors.by_code(code)

    def error(self, failure: Failure, row: Row) -> KeyStoreError:
        """The failure in our own words."""
        response = failure.error.response if isinstance(failure.error, ClientError) else {}
        request_id = str(response.get("ResponseMetadata", {}).get("RequestId", ""))
        return row.kind(failure.place, str(failure.key), row.cause, request_id=request_id)

    def _denied(self, failure: Failure, error: ClientError) -> Row:
        operation = str(error.operation_name)
        if operation.startswith("AssumeRoleWith") or operation == "GetSessionToken":
            return aws_errors.by_code(str(error.response["Error"]["Code"]), When.ASKING)
        sign = aws_errors.ROLE_DENIED if operation == "AssumeRole" else aws_errors.KEY_DENIED
        ours = denials.by_ours(str(error.response["Error"].get("Message", "")), by_role=failure.by_role)
        if ours is not None:
            return aws_errors.by_code(sign, ours)
        about = (failure.tenant, str(failure.key), sign)
        known = self._verdict(about, failure.at, _DENIAL_SECONDS)
        if known is not None:
            return known
        when = self._by_evidence(failure, sign)
        row = aws_errors.by_code(sign, when)
        if when in {When.CANARY_WORKS, When.NEVER_WORKED}:
            self._remember(about, row)
        return row

    def _by_evidence(self, failure: Failure, sign: str) -> When:
        if not self._has_worked(failure):
            return When.NEVER_WORKED
        canary = self._canaries.of(sign, failure.key.region)
        if canary is None:
            return When.NO_CANARY
        return canary.since(failure.at, failure.deadline - self._clock())

    def _has_worked(self, failure: Failure) -> bool:
        left = max(0.0, failure.deadline - self._clock())
        return self._history.has_worked(failure.tenant, failure.key, left)

    def _in_state(self, failure: Failure, message: str) -> Row:
        row = aws_errors.by_message(message)
        if row is not None:
            return row
        about = (failure.tenant, str(failure.key), aws_errors.INVALID_STATE)
        row = self._verdict(about, failure.at, _STATE_SECONDS)
        if row is None:
            row = self._ask_state(failure) or self._of_state(failure.key, aws_errors.state_in(message))
            if row is not None:
                self._remember(about, row)
        return row or aws_errors.OTHER_MESSAGE

    def _ask_state(self, failure: Failure) -> Row | None:
        if self._clock() >= failure.deadline:
            return None
        try:
            described = failure.kms.describe_key(KeyId=str(failure.key))["KeyMetadata"]
        except (ClientError, BotoCoreError, ResponseParserError):
            return None  # the right to ask is not needed for anything else
        self._materials.saw(failure.key, described)
        return self._of_state(failure.key, str(described.get("KeyState", "")))

    def _of_state(self, key: KeyArn, state: str) -> Row | None:
        return aws_errors.by_state(state, self._materials.fate(key) if state == "PendingImport" else When.ALWAYS)

    def _verdict(self, about: tuple[str, str, str], at: float, lasts: float) -> Row | None:
        known = self._verdicts.get(about)
        return known[1] if known is not None and at - known[0] <= lasts else None

    def _remember(self, about: tuple[str, str, str], row: Row) -> None:
        with self._lock:
            self._verdicts[about] = (self._clock(), row)
            self._verdicts.move_to_end(about)
            if len(self._verdicts) > _MOST_REMEMBERED:
                self._verdicts.popitem(last=False)
