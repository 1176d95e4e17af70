"""How long audit records are kept: the settings say it, and less than was agreed can take two persons.

The settings are a file of one machine, which one person can change. So what was agreed stands in the database: a longer
retention of the settings is agreed to as soon as a server starts with it; a shorter one too, unless that takes two
persons. Then the keeper goes by what was agreed until they have made it less.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

from ownkey_server.domain.approvals import Danger, Effect
from ownkey_server.domain.errors import EtagMismatch
from ownkey_server.service.administration.desk import Act, Dangerous, Desk, Done
from ownkey_server.storage.audit import retention_agreement
from ownkey_server.storage.audit.retention_agreement import Agreement, is_less, longer
from ownkey_server.storage.records import ANY_ETAG
from ownkey_server.storage.registry import Change, Reader

_log = logging.getLogger(__name__)

RESOURCE = "auditRetention"
NEVER_AGREED = "0"
"""The etag of an agreement that there is not yet."""
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Kept:
    """How long records are kept; None is for ever.

    Attributes:
        configured: As the settings of this instance say.
        in_force: What counts here.
        guarded: Whether it takes two persons to agree to less.
    """

    agreed: timedelta | None
    configured: timedelta | None
    in_force: timedelta | None
    guarded: bool
    etag: str


class AuditRetention:
    """What can be done about it.

    Args:
        configured: As the settings say; None for ever.
        guarded: Whether it takes two persons to agree to less.
    """

    def __init__(self, desk: Desk, configured: timedelta | None, *, guarded: bool) -> None:
        self._desk = desk
        self._configured = configured // _MICROSECOND if configured is not None else None
        self._guarded = guarded

    async def get(self) -> Kept:
        """How long records are kept."""
        return await self._desk.read(self._kept)

    async def update(self, act: Act, etag: str, age: timedelta | None) -> Kept:
        """Agree to how long records are kept at least; None for ever.

        Raises:
            EtagMismatch: Something else was agreed since it was read.
        """
        wanted = age // _MICROSECOND if age is not None else None

        def work(change: Change) -> Done:
            before = self._agreed(change)
            if etag not in (ANY_ETAG, before.etag):
                raise EtagMismatch(RESOURCE)
            effect = Effect(Danger.RETENTION, RESOURCE, _shown(before.age), _shown(wanted))
            said = f"keep audit records {_said(wanted)}, and no longer {_said(before.age)}"
            dangerous = Dangerous("", RESOURCE, said, [effect], field="agreed")
            less = is_less(wanted, before.age)
            agreed = self._desk.require_agreement(change, act, dangerous) if less else {}
            retention_agreement.agree(change.connection, wanted, change.number)
            return Done(self._kept(change), {**agreed, "before": _shown(before.age), "after": _shown(wanted)})

        changed: Kept = await self._desk.change(act, "update_audit_retention", "", RESOURCE, work)
        return changed

    async def settle(self, act: Act) -> None:
        """Agree to what the settings say, as far as they may: for the start of a server."""
        if not await self._desk.read(self._is_news):
            return

        def work(change: Change) -> Done:
            found = retention_agreement.agreed(change.connection)
            if self._is_news(change):  # of several instances that start at once, one
                retention_agreement.agree(change.connection, self._configured, change.number)
            before = _shown(found.age) if found is not None else None
            return Done(None, {"before": before, "after": _shown(self._configured)})

        await self._desk.change(act, "update_audit_retention", "", RESOURCE, work)

    def _is_news(self, reader: Reader) -> bool:
        """Whether the settings say something else than was agreed, and count."""
        found = retention_agreement.agreed(reader.connection)
        if found is None:
            return self._guarded or self._configured is not None
        if is_less(self._configured, found.age) and self._guarded:
            _log.warning(
                "audit records are kept %s, as was agreed, and not %s: two persons must agree to that first: ownkey"
                " admin retention agree",
                _said(found.age),
                _said(self._configured),
            )
            return False
        return self._configured != found.age

    def _agreed(self, reader: Reader) -> Agreement:
        found = retention_agreement.agreed(reader.connection)
        return found if found is not None else Agreement(self._configured, NEVER_AGREED)

    def _kept(self, reader: Reader) -> Kept:
        found = self._agreed(reader)
        in_force = longer(self._configured, found.age) if self._guarded else self._configured
        return Kept(_time(found.age), _time(self._configured), _time(in_force), self._guarded, found.etag)


def _time(age: int | None) -> timedelta | None:
    return age * _MICROSECOND if age is not None else None


def _shown(age: int | None) -> dict[str, object]:
    return {"keep": _said(age)}


def _said(age: int | None) -> str:
    return f"for {age * _MICROSECOND / timedelta(days=1):g} days" if age is not None else "for ever"
