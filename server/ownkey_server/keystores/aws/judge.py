"""What an error of AWS means for a key, where the error alone does not tell: asks AWS again before it says "revoked".

AWS denies a call alike whether the customer withdrew a permission or our own is at fault. So a denial counts as the
customer's act only if a key of the provider's own, the canary, worked *after* it by our own credentials.
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

from ownkey_server.domain.errors import KeyMisconfigured, KeyStoreError
from ownkey_server.keystores.aws import errors as aws_errors
from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.errors import Row, When
from ownkey_server.keystores.aws.material import Materials

CANARY_CONTEXT = {"ownkey:probe": "canary"}
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
    """

    place: str
    key: KeyArn
    tenant: str
    kms: Any
    error: ClientError | BotoCoreError | ResponseParserError
    at: float
    deadline: float


class Canary:
    """A key of the provider's own: while it works, our identity is good. Used by many threads.

    Args:
        use: Uses it once, by our own credentials.
    """

    def __init__(self, use: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._use = use
        self._clock = clock
        self._lock = threading.Lock()
        self._begun = float("-inf")
        self._finding = When.CANARY_SILENT

    def since(self, denied_at: float, wait: float) -> When:
        """What the canary showed after a denial: one use of it serves all denials that came before it.

        Args:
            denied_at: When that was, on the monotonic clock.
            wait: Seconds to wait for others who are asking it.
        """
        if not self._lock.acquire(timeout=max(0.0, wait)):
            return When.CANARY_SILENT
        try:
            if self._begun < denied_at:
                self._begun = self._clock()
                self._finding = self._ask()
            return self._finding
        finally:
            self._lock.release()

    def _ask(self) -> When:
        try:
            self._use()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            ours = code in aws_errors.DENIALS or aws_errors.by_code(code).kind is KeyMisconfigured
            return When.CANARY_DENIED if ours else When.CANARY_SILENT
        except (BotoCoreError, ResponseParserError) as error:
            ours = aws_errors.by_exception(error).kind is KeyMisconfigured
            return When.CANARY_DENIED if ours else When.CANARY_SILENT
        return When.CANARY_WORKS


class Judge:
    """Turns what botocore raises into our own errors. Used by many threads.

    Args:
        canary: None where the settings have none.
        materials: What is known of imported key material.
    """

    def __init__(
        self, canary: Canary | None, materials: Materials, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._canary = canary
        self._materials = materials
        self._clock = clock
        self._worked: OrderedDict[str, None] = OrderedDict()
        self._verdicts: OrderedDict[tuple[str, str, str], tuple[float, Row]] = OrderedDict()
        self._lock = threading.Lock()

    def worked(self, key: KeyArn) -> None:
        """A key has just worked."""
        name = str(key)
        if name not in self._worked:
            with self._lock:
                self._worked[name] = None
                if len(self._worked) > _MOST_REMEMBERED:
                    self._worked.popitem(last=False)

    def row(self, failure: Failure) -> Row:
        """The row of the table that a failure is."""
        error = failure.error
        if not isinstance(error, ClientError):
            return aws_errors.by_exception(error)
        code = str(error.response["Error"]["Code"])
        if code in aws_errors.DENIALS:
            return self._denied(failure, code, str(error.operation_name))
        if code == "NotFoundException":
            return aws_errors.by_code(code, When.WORKED if str(failure.key) in self._worked else When.NEVER_WORKED)
        if code == aws_errors.INVALID_STATE:
            return self._in_state(failure, str(error.response["Error"].get("Message", "")))
        return aws_errors.by_code(code)

    def error(self, failure: Failure, row: Row) -> KeyStoreError:
        """The failure in our own words."""
        return row.kind(failure.place, str(failure.key), row.cause)

    def _denied(self, failure: Failure, code: str, operation: str) -> Row:
        if operation.startswith("AssumeRoleWith") or operation == "GetSessionToken":
            return aws_errors.by_code(code, When.ASKING)
        if self._canary is None:
            return aws_errors.by_code(code, When.NO_CANARY)
        about = (failure.tenant, str(failure.key), code)
        known = self._verdict(about, failure.at, _DENIAL_SECONDS)
        if known is not None:
            return known
        when = self._canary.since(failure.at, failure.deadline - self._clock())
        row = aws_errors.by_code(code, when)
        if when is When.CANARY_WORKS:
            self._remember(about, row)
        return row

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
