"""What the services know of tenants, and the provider's own key (``view_cache.py`` says how fresh it is)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from concurrent.futures import Executor

from ownkey_server.domain.errors import TenantNotFound
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.service.view_cache import ViewCache
from ownkey_server.storage.tables import ID_PATTERN
from ownkey_server.storage.views import PROVIDER, Changes, TenantViews

MAX_SHOWN = 64
_ID = re.compile(ID_PATTERN)


class Directory:
    """Tenants by id, and the provider's own key. Belongs to one event loop.

    Args:
        views: Where they are loaded from.
        executor: Where loading waits for the database.
        capacity: How many tenants are kept; whoever was not asked for the longest goes first.
        max_age: Seconds without word from the database after which nothing is decided any more.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(
        self,
        views: TenantViews,
        executor: Executor,
        *,
        capacity: int,
        max_age: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = views
        self._monotonic = monotonic
        self._tenants = ViewCache(views.load, executor, capacity=capacity, max_age=max_age, monotonic=monotonic)
        self._provider_key: CustomerKey | None = None
        self._on_change: list[Callable[[Collection[str] | None], None]] = []

    @property
    def provider_key(self) -> CustomerKey:
        """The provider's own key."""
        if self._provider_key is None:
            raise RuntimeError("the directory was not started")
        return self._provider_key

    @property
    def age(self) -> float:
        """Seconds since the views were last known to be whole."""
        return self._tenants.age

    @property
    def size(self) -> int:
        """How many tenants are kept."""
        return self._tenants.size

    async def start(self) -> None:
        """Learn the provider's key.

        Raises:
            DatabaseUnavailable: The database does not answer.
            LookupError: There is no provider key yet.
        """
        began = self._monotonic()
        key = await self._tenants.on_thread(self._source.provider_key)
        if key is None:
            raise LookupError("the database holds no provider key")
        self._provider_key = key
        self._tenants.whole(began)

    async def tenant(self, tenant_id: str) -> Tenant:
        """The tenant of that id.

        Raises:
            TenantNotFound: There is none.
            ViewStale: What is known of it is too old.
            DatabaseUnavailable: It is not known yet, and the database does not answer.
        """
        if not self._tenants.knows(tenant_id) and not _ID.fullmatch(tenant_id):
            raise TenantNotFound(tenant_id[:MAX_SHOWN])  # whatever it is, it is worth neither a question nor a place
        tenant = await self._tenants.get(tenant_id)
        if tenant is None:
            raise TenantNotFound(tenant_id)
        return tenant

    def last_known(self, tenant_id: str) -> Tenant | None:
        """The tenant as it was last seen, however long ago: for emergency calls alone."""
        return self._tenants.last_known(tenant_id)

    def keys_in_use(self, within: float) -> list[CustomerKey]:
        """The keys of every tenant that was asked for within so many seconds, and the provider's."""
        keys = [key for tenant in self._tenants.used(within) for key in tenant.keys.values()]
        return [*keys, self.provider_key]

    async def changed(self, began: float, changes: Changes) -> None:
        """Take note of what changed.

        Args:
            began: When the question for it began, by the monotonic clock: until then everything is whole afterwards.
            changes: What the database told.

        Raises:
            DatabaseUnavailable: The provider's key changed, and could not be read.
        """
        if changes.tenants is None:
            self._tenants.forget_all()
        else:
            for tenant in changes.tenants:
                self._tenants.forget(tenant)
        if changes.tenants is None or PROVIDER in changes.tenants:
            self._provider_key = await self._tenants.on_thread(self._source.provider_key) or self._provider_key
        self._tenants.whole(began)
        if changes.tenants is None or changes.tenants:
            for tell in self._on_change:
                tell(changes.tenants)

    def on_change(self, tell: Callable[[Collection[str] | None], None]) -> None:
        """Have ``tell`` called with those tenants that changed, when that is taken note of; None when it may be any."""
        self._on_change.append(tell)

    def forget(self, tenant_id: str) -> None:
        """Load the tenant anew when it is asked for next. Until then, its last view serves emergency calls alone."""
        self._tenants.forget(tenant_id)
