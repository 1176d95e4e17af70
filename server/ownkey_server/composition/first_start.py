"""What a server serves when it starts: what is in the database, or for the first time what the tenants file says."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from ownkey_server.composition.core import Core
from ownkey_server.domain.audit import SERVER
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.service.administration.desk import Act
from ownkey_server.storage import tenants_file
from ownkey_server.storage.documents import TenantsDocument
from ownkey_server.storage.views import TenantViews

_log = logging.getLogger(__name__)

FIRST_ACT = Act(SERVER, reason="the first start")


async def first_view(core: Core, views: TenantViews) -> int:
    """Learn what there is to serve, taken over from the tenants file when there is nothing yet; gives its revision.

    Raises:
        As :func:`~ownkey_server.main.running_server`.
    """
    revision = await core.desk.on_thread(views.revision)
    try:
        await core.directory.start()
    except LookupError:
        await _take_over_tenants(core)
        await core.directory.start()
    core.roster.start()
    return revision


async def _take_over_tenants(core: Core) -> None:
    path = core.settings.storage.tenants_file
    text = tenants_file.read(path)
    document = tenants_file.parse(text, str(path), core.kinds)
    places = [document.provider_key]
    places += [place for tenant in document.tenants for key in tenant.keys for place in (key, *key.replicas)]
    with contextlib.ExitStack() as firsts:
        embedded = {name: store for name, store in core.stores.items() if isinstance(store, EmbeddedKeyStore)}
        # In a store that has, or had, keys, a missing one is not made anew: its content would be lost without a word.
        new = {name for name, store in embedded.items() if firsts.enter_context(store.first_start())}
        for place in places:
            if place.key_store in new and not embedded[place.key_store].has(place.reference):
                await embedded[place.key_store].create(place.reference)
                _log.info("made key %r in key store %r", place.reference, place.key_store)
        await _apply_first(core, text, path, document)


async def _apply_first(core: Core, text: str, path: Path, document: TenantsDocument) -> None:
    plan = await core.configuration().apply(FIRST_ACT, text, dry_run=False, most=None)
    if plan.applied:
        _log.info(
            "took over %s, with the tenants: %s", path, ", ".join(one.id for one in document.tenants[:10]) or "none"
        )
