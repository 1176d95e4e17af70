"""The tenants that a server knows, as the services ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ownkey_server.domain.errors import TenantNotFound
from ownkey_server.domain.tenants import CustomerKey, Tenant


@dataclass(frozen=True, slots=True)
class Directory:
    """Every tenant by id, and the provider's own key."""

    tenants: Mapping[str, Tenant]
    provider_key: CustomerKey

    def tenant(self, tenant_id: str) -> Tenant:
        """The tenant of that id.

        Raises:
            TenantNotFound: There is none.
        """
        try:
            return self.tenants[tenant_id]
        except KeyError:
            raise TenantNotFound(tenant_id) from None

    def all_keys(self) -> tuple[CustomerKey, ...]:
        """Every key that this server may use, the provider's last."""
        keys = [key for tenant in self.tenants.values() for key in tenant.keys.values()]
        return (*keys, self.provider_key)
