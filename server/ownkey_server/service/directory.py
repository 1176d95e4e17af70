"""What the services know of tenants: loaded when first needed, kept in a bounded cache, and never older than allowed.

The feed of changes says when this knowledge was last known to be whole. While the database is away that moment falls
back; up to the set age the last view serves, and beyond it nothing does.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from ownkey_server.domain.errors import DatabaseUnavailable, TenantNotFound, ViewStale
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.storage.documents import ID_PATTERN
from ownkey_server.storage.views import PROVIDER, Changes, TenantViews

T = TypeVar("T")

LOAD_SECONDS = 5.0
MAX_SHOWN = 64
MAX_ABSENT = 1000
_ID = re.compile(ID_PATTERN)


class _View:
    """A tenant, when it was last asked for, and whether it was changed since it was loaded."""

    __slots__ = ("stale", "tenant", "used")

    def __init__(self, tenant: Tenant, used: float) -> None:
        self.tenant = tenant
        self.used = used
        self.stale = False


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
        self._executor = executor
        self._capacity = capacity
        self._max_age = max_age
        self._monotonic = monotonic
        self._views: OrderedDict[str, _View] = OrderedDict()
        # Ids of no tenant, apart from the tenants: whoever asks for many of them drives nobody out.
        self._absent: OrderedDict[str, None] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Tenant | None]] = {}
        # Tenants that changed while they were being loaded.
        self._overtaken: set[str] = set()
        self._whole_at = float("-inf")
        self._provider_key: CustomerKey | None = None

    @property
    def provider_key(self) -> CustomerKey:
        """The provider's own key."""
        if self._provider_key is None:
            raise RuntimeError("the directory was not started")
        return self._provider_key

    @property
    def age(self) -> float:
        """Seconds since the views were last known to be whole."""
        return self._monotonic() - self._whole_at

    @property
    def size(self) -> int:
        """How many tenants are kept."""
        return len(self._views)

    async def start(self) -> None:
        """Learn the provider's key.

        Raises:
            DatabaseUnavailable: The database does not answer.
            LookupError: There is no provider key yet.
        """
        began = self._monotonic()
        key = await self._load(self._source.provider_key)
        if key is None:
            raise LookupError("the database holds no provider key")
        self._provider_key = key
        self._whole_at = began

    async def tenant(self, tenant_id: str) -> Tenant:
        """The tenant of that id.

        Raises:
            TenantNotFound: There is none.
            ViewStale: What is known of it is too old.
            DatabaseUnavailable: It is not known yet, and the database does not answer.
        """
        now = self._monotonic()
        view = self._views.get(tenant_id)
        if (view is None or view.stale) and tenant_id not in self._absent:
            if not _ID.fullmatch(tenant_id):
                raise TenantNotFound(
                    tenant_id[:MAX_SHOWN]
                )  # whatever it is, it is worth neither a question nor a place
            tenant = await self._load_once(tenant_id)
        else:
            if now - self._whole_at > self._max_age:
                raise ViewStale(tenant_id, now - self._whole_at)
            tenant = None
            if view is not None and tenant_id not in self._absent:
                view.used = now
                self._views.move_to_end(tenant_id)
                tenant = view.tenant
        if tenant is None:
            raise TenantNotFound(tenant_id)
        return tenant

    def last_known(self, tenant_id: str) -> Tenant | None:
        """The tenant as it was last seen, however long ago: for emergency calls alone."""
        view = self._views.get(tenant_id)
        return view.tenant if view else None

    def keys_in_use(self, within: float) -> list[CustomerKey]:
        """The keys of every tenant that was asked for within so many seconds, and the provider's."""
        now = self._monotonic()
        keys: list[CustomerKey] = []
        for view in reversed(self._views.values()):
            if now - view.used > within:
                break
            keys += view.tenant.keys.values()
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
            for view in self._views.values():
                view.stale = True
            self._absent.clear()
            self._overtaken.update(self._loading)
        else:
            for tenant in changes.tenants:
                self.forget(tenant)
        if changes.tenants is None or PROVIDER in changes.tenants:
            self._provider_key = await self._load(self._source.provider_key) or self._provider_key
        self._whole_at = max(self._whole_at, began)

    def forget(self, tenant_id: str) -> None:
        """Load the tenant anew when it is asked for next. Until then, its last view serves emergency calls alone."""
        view = self._views.get(tenant_id)
        if view is not None:
            view.stale = True
        self._absent.pop(tenant_id, None)
        if tenant_id in self._loading:
            self._overtaken.add(tenant_id)

    async def _load_once(self, tenant_id: str) -> Tenant | None:
        """However many ask at once, the database is asked once."""
        task = self._loading.get(tenant_id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._load_whole(tenant_id))
            self._loading[tenant_id] = task
            # Whoever asked may have stopped waiting; what became of it is told to whoever asks next.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _load_whole(self, tenant_id: str) -> Tenant | None:
        try:
            while True:
                self._overtaken.discard(tenant_id)
                tenant = await self._load(lambda: self._source.load(tenant_id))
                if tenant_id not in self._overtaken:
                    break
        finally:
            del self._loading[tenant_id]
        # Kept only while changes to it will be heard of; otherwise it serves this once.
        if self.age <= self._max_age:
            if tenant is None:
                self._views.pop(tenant_id, None)
                self._absent[tenant_id] = None
            else:
                self._views[tenant_id] = _View(tenant, self._monotonic())
                self._views.move_to_end(tenant_id)
            for kept, most in ((self._views, self._capacity), (self._absent, MAX_ABSENT)):
                while len(kept) > most:
                    kept.popitem(last=False)
        return tenant

    async def _load(self, question: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._executor, question), LOAD_SECONDS)
        except TimeoutError:
            raise DatabaseUnavailable(f"no answer within {LOAD_SECONDS:g} s") from None
