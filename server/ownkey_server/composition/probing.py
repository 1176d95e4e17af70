"""How keys are asked after, as the settings say: by one instance at a time."""

from __future__ import annotations

import uuid
from datetime import timedelta

from ownkey_server.composition.core import Core
from ownkey_server.service.probes import Probes
from ownkey_server.service.view_cache import on_thread
from ownkey_server.storage import probe_leases


def open_probes(core: Core) -> Probes:
    """The probes of this process."""
    holder = uuid.uuid4().hex
    keys = core.settings.keys

    async def claim(names: list[str], seconds: float) -> frozenset[str]:
        def work() -> frozenset[str]:
            with core.database.writing() as connection:
                return probe_leases.claim(connection, holder, names, seconds)

        return await on_thread(core.executor, work)

    return Probes(
        core.directory,
        core.ring,
        core.board,
        core.clock,
        timedelta(seconds=keys.probe_interval_seconds),
        claim=claim,
        # Long enough for both looks of a probe that finds nobody, and then some.
        lease=2 * keys.timeout_seconds + 2.0,
        rate=keys.probes_per_second,
    )
