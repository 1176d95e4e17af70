"""What became of a tenant's keys in the past."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

from ownkey_server.domain.errors import KeyNotFound
from ownkey_server.domain.key_history import KeyTransition
from ownkey_server.service.directory import Directory
from ownkey_server.service.view_cache import on_thread

Read = Callable[[str, str, int | None, int], list[KeyTransition]]
"""Of a tenant, of one of its keys (all, when empty), the newest first from before a sequence, at most so many."""


class KeyChanges:
    """Lists them.

    Args:
        read: Asks the database.
        executor: Where that waits.
    """

    def __init__(self, directory: Directory, read: Read, executor: Executor) -> None:
        self._directory = directory
        self._read = read
        self._executor = executor

    async def listed(self, tenant_id: str, key_id: str, before: int | None, limit: int) -> list[KeyTransition]:
        """The newest first, from before a sequence.

        Raises:
            TenantNotFound: There is no such tenant.
            KeyNotFound: The tenant has no such key.
            ServiceImpaired: The tenant is not known for certain, or the database does not answer.
        """
        tenant = await self._directory.tenant(tenant_id)
        if key_id and key_id not in tenant.keys:
            raise KeyNotFound(tenant_id, f"has no key {key_id!r}")
        name = tenant.keys[key_id].name if key_id else ""
        return await on_thread(self._executor, lambda: self._read(tenant_id, name, before, limit))
