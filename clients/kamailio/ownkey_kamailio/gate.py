"""The decision about one call: ownkey's answer, or what the settings say while there is none."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ownkey import errors
from ownkey.models import ASSET_CLASSES
from ownkey_kamailio.facts import Facts
from ownkey_kamailio.service import SAID_NO, Answer
from ownkey_kamailio.settings import REFUSE, Settings
from ownkey_kamailio.workers import Workers

REMEMBERED = 20_000
# Of several answers about one call the strictest counts; of two refusals, the one that trying again will not change.
_STRICTNESS = ("allow", "allow_no_recording", "refuse")


class Asking(Protocol):
    """Whoever knows the answer."""

    def ask(self, facts: Facts, timeout: float) -> Answer:
        """Ask about a call; raises :class:`ownkey.errors.OwnkeyError`."""

    def connect(self) -> None:
        """Begin anew."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What Kamailio does with the call.

    Attributes:
        decision: ``allow``, ``allow_no_recording``, ``refuse`` or ``emergency``.
        status: For ``refuse``.
        retry_after: Seconds, for 503.
        why: For the log.
    """

    decision: str
    why: str
    status: int = 0
    retry_after: int = 0


class Gate:
    """Decides about calls, one after the other.

    Args:
        settings: What it was told.
        asking: Asks ownkey.
        workers: The other processes.
        monotonic: A clock for how long something took.
        now: The clock of the day, in seconds of the epoch.
        log: Takes a line that an operator must read.
    """

    def __init__(
        self,
        settings: Settings,
        asking: Asking,
        workers: Workers,
        *,
        monotonic: Callable[[], float],
        now: Callable[[], float],
        log: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._asking = asking
        self._workers = workers
        self._monotonic = monotonic
        self._now = now
        self._log = log
        self._answers: OrderedDict[Facts, tuple[float, Answer]] = OrderedDict()
        self._silent = False

    def decide(self, calls: Sequence[Facts]) -> Decision:
        """Decide about a call from its facts, for each tenant that it is a call of, within one timeout for all."""
        deadline = self._monotonic() + self._settings.service.timeout
        decisions = [self._decide(facts, deadline) for facts in calls]
        return max(decisions, key=lambda one: (_STRICTNESS.index(one.decision), one.status == 403))

    def refused(self, why: str) -> Decision:
        """A refusal that trying again later may change."""
        return Decision(REFUSE, why, 503, self._settings.no_answer.retry_after)

    def _decide(self, facts: Facts, deadline: float) -> Decision:
        for name in facts.stores:
            if name not in ASSET_CLASSES:
                return self.refused(f"X-Ownkey-Stores names {name!r:.40}, which is no asset class")
        try:
            answer = self._ask(facts, deadline)
        except SAID_NO as error:
            # Not to be turned into a call that is let through: whoever calls could bring it about.
            self._log(f"ownkey would not decide about a call of {facts.tenant}: {error}")
            return self.refused(f"{type(error).__name__}: {error}")
        except errors.OwnkeyError as error:
            return self._without(facts, f"{type(error).__name__}: {error}")
        if answer is None:
            return self._without(facts, "ownkey was not asked")
        return self._told(answer, answer.reason)

    def _ask(self, facts: Facts, deadline: float) -> Answer | None:
        """The answer; None when ownkey is not to be asked just now."""
        with self._workers.waiting() as may:
            left = deadline - self._monotonic()
            if not may or left <= 0:
                return None
            try:
                answer = self._asking.ask(facts, left)
            except SAID_NO:
                self._heard()
                raise
            except errors.OwnkeyError as error:
                self._not_heard(error)
                raise
        self._heard()
        self._remember(facts, answer)
        return answer

    def _heard(self) -> None:
        self._workers.answered()
        if self._silent:
            self._silent = False
            self._log("ownkey answers again")

    def _not_heard(self, error: errors.OwnkeyError) -> None:
        pause = self._workers.did_not_answer()
        if not self._silent:
            self._silent = True
            self._log(f"ownkey gives no answer, {self._settings.no_answer.behaviour} holds: {error}")
        if pause:
            # Whatever became of the old connection, such as a firewall that has forgotten it.
            self._asking.connect()

    def _remember(self, facts: Facts, answer: Answer) -> None:
        seconds = min(answer.valid_until - self._now(), self._settings.no_answer.last_answer)
        key = facts.without_id()
        self._answers.pop(key, None)
        self._answers[key] = (self._monotonic() + seconds, answer)
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)

    def _without(self, facts: Facts, why: str) -> Decision:
        until, last = self._answers.get(facts.without_id(), (0.0, None))
        if last is not None and self._monotonic() < until:
            return self._told(last, f"{last.reason}, by the last answer, for {why}")
        behaviour = self._settings.no_answer.behaviour
        return self.refused(why) if behaviour == REFUSE else Decision(behaviour, why)

    def _told(self, answer: Answer, why: str) -> Decision:
        if answer.decision != REFUSE:
            return Decision(answer.decision, why)
        retry_after = 0 if answer.status == 403 else answer.retry_after or self._settings.no_answer.retry_after
        return Decision(REFUSE, why, answer.status, retry_after)
