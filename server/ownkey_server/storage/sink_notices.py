"""The audit trail's sink, as the provider is told of it: when it fails, and when it can be used again, once each."""

from __future__ import annotations

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.notifications import NoticeKind
from ownkey_server.storage import outbox
from ownkey_server.storage.database import Database
from ownkey_server.storage.registry import PROVIDER

_KINDS = frozenset({NoticeKind.AUDIT_SINK_FAILING, NoticeKind.AUDIT_SINK_RECOVERED})


class SinkNotices:
    """Tells of the sink, for all instances together: one that fails here and there is told of once.

    Not thread-safe. Every method raises :class:`~ownkey_server.domain.errors.DatabaseUnavailable`; what could not be
    told is told at the next call.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        # At the start it is not known: a sink that failed before may have been mended with this very start.
        self._failing: bool | None = None

    def failed(self, cause: str) -> None:
        """The sink could not be used just now."""
        if self._failing is not True:
            self._tell(NoticeKind.AUDIT_SINK_FAILING, cause)
            self._failing = True

    def works(self) -> None:
        """The sink could be used just now."""
        if self._failing is not False:
            self._tell(NoticeKind.AUDIT_SINK_RECOVERED, "")
            self._failing = False

    def _tell(self, kind: NoticeKind, cause: str) -> None:
        with self._database.writing() as connection:
            outbox.look_again(connection)  # first: from here on no other instance tells
            last = outbox.last_of(connection, PROVIDER, _KINDS)
            if last is kind or (last is None and kind is NoticeKind.AUDIT_SINK_RECOVERED):
                return
            outbox.put(connection, outbox.new_notice(PROVIDER, kind, self._clock(), cause=cause))
