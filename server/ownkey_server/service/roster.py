"""Who may do what: the grants of each principal, as the registry and the settings say."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import Executor

from ownkey_server.domain.errors import ViewStale
from ownkey_server.domain.roles import EVERYWHERE, Grant, Role, principal_name
from ownkey_server.service.view_cache import ViewCache
from ownkey_server.storage.views import Changes, PrincipalViews

OPERATOR = (Grant(Role.OPERATOR, EVERYWHERE),)
# Of whoever calls a server in development, which tells nobody apart.
EVERY_ROLE = tuple(Grant(role, EVERYWHERE) for role in Role)
CAPACITY = 10_000


class Roster:
    """Grants by principal. Belongs to one event loop.

    Args:
        views: Where they are loaded from.
        executor: Where loading waits for the database.
        operators: Principals that the settings make operators, whatever the registry says: somebody must be the first.
        development: Name of the principal that holds every role; None outside development.
        max_age: Seconds without word from the database after which nothing is decided any more.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(
        self,
        views: PrincipalViews,
        executor: Executor,
        *,
        operators: Collection[str],
        development: str | None,
        max_age: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fixed: dict[str, tuple[Grant, ...]] = dict.fromkeys(operators, OPERATOR)
        if development is not None:
            self._fixed[development] = EVERY_ROLE
        self._monotonic = monotonic
        self._grants = ViewCache(views.grants, executor, capacity=CAPACITY, max_age=max_age, monotonic=monotonic)

    async def grants(self, principal: str) -> tuple[Grant, ...]:
        """All that the principal holds; nothing for one that nobody knows.

        Raises:
            ServiceImpaired: It is not known for certain.
        """
        fixed = self._fixed.get(principal, ())
        if fixed is EVERY_ROLE:
            return fixed
        try:
            found = await self._grants.get(principal_name(principal))
        except ViewStale as error:
            raise ViewStale("", error.age) from None
        return (*fixed, *(found or ()))

    def of_settings(self, principal: str) -> tuple[Grant, ...]:
        """What the principal holds whatever the registry says."""
        return self._fixed.get(principal, ())

    def start(self) -> None:
        """From now on, :meth:`changed` tells of every change."""
        self._grants.whole(self._monotonic())

    def changed(self, began: float, changes: Changes) -> None:
        """Take note of what changed; arguments as for the directory."""
        if changes.tenants is None:
            self._grants.forget_all()
        else:
            for name in changes.tenants:
                self._grants.forget(name)
        self._grants.whole(began)

    def forget(self, name: str) -> None:
        """Load the principal of that resource name anew when it is asked for next."""
        self._grants.forget(name)
