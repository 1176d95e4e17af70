"""Who watches keys, and what became of them, over the database of the settings."""

from __future__ import annotations

from ownkey_server.composition.core import Core
from ownkey_server.domain.key_history import KeyTransition
from ownkey_server.service.key_changes import KeyChanges
from ownkey_server.service.key_status import KeyStatus
from ownkey_server.service.key_watch import KeyWatches, Missed
from ownkey_server.service.view_cache import on_thread
from ownkey_server.storage import key_states


def open_watches(core: Core, key_status: KeyStatus) -> tuple[KeyWatches, KeyChanges]:
    """The watches of this process, told by what the database tells it; and the history."""

    async def history(tenant: str, after: int, last: int, most: int) -> Missed:
        def work() -> Missed:
            with core.database.reading() as connection:
                # A number that is not reached is of another database, or of a newer copy of this.
                if not key_states.pruned(connection) <= after <= key_states.newest(connection):
                    return Missed((), whole=False)
                found = key_states.transitions(connection, tenant, after=after, limit=most + 1)
            changes = [one for one in found if one.sequence <= last]
            return Missed(changes if len(found) <= most else (), whole=len(found) <= most)

        return await on_thread(core.executor, work)

    def read(tenant: str, key: str, before: int | None, limit: int) -> list[KeyTransition]:
        with core.database.reading() as connection:
            return key_states.transitions(connection, tenant, before=before, key=key, limit=limit)

    watches = KeyWatches(core.directory, core.board, key_status, history, core.clock)
    watches.number = core.board.known
    core.shared_states.on_transitions(watches.heard)
    core.directory.on_change(watches.changed)
    return watches, KeyChanges(core.directory, read, core.executor)
