"""How AWS KMS is reached. Apart from the rest, so that boto3 is loaded by those alone who use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AwsKmsOptions:
    """How AWS KMS is reached.

    Attributes:
        profile: Named profile of the AWS configuration; None for the default chain (environment, web identity,
            container, instance role).
        role_name: Name of the role, in the account of each key, that is assumed to use the key, with an external id
            of the tenant's own; None to use keys as whoever the credentials are.
        external_id_prefix: What external ids begin with: ``PREFIX-TENANT``.
        session_tags: Tag the sessions of roles with the tenant; their trust policies must allow ``sts:TagSession``.
        require_tenant_context: Without a role, take a key for a tenant only if it refuses the contexts of others.
        regions: The only regions in which keys are used; empty for all.
        endpoint_url: Where KMS is, for emulators and VPC endpoints; ``{region}`` stands for the key's region.
        endpoint_urls: The same for single regions, before ``endpoint_url``.
        sts_endpoint_url: Where STS is.
        use_fips: Use the FIPS endpoints.
        canary_key: ARN of a key of the provider's own, by which our own identity is proven in the key's region.
        canary_keys: More of them, for other regions: one each.
        canary_role: ARN of a role of the provider's own, by which our right to assume roles is proven.
        concurrency: Calls of one tenant at once in one region.
        threads: Calls of all tenants at once.
        calls_per_second: Calls of one tenant, with a burst of twice as many; None without limit.
        connect_timeout: Seconds for a connection.
        read_timeout: Seconds for an answer.
    """

    profile: str | None = None
    role_name: str | None = None
    external_id_prefix: str = "ownkey"
    session_tags: bool = True
    require_tenant_context: bool = True
    regions: tuple[str, ...] = ()
    endpoint_url: str | None = None
    endpoint_urls: Mapping[str, str] = field(default_factory=dict)
    sts_endpoint_url: str | None = None
    use_fips: bool = False
    canary_key: str | None = None
    canary_keys: tuple[str, ...] = ()
    canary_role: str | None = None
    concurrency: int = 8
    threads: int = 64
    calls_per_second: float | None = None
    connect_timeout: float = 1.0
    read_timeout: float = 2.0

    @property
    def all_canary_keys(self) -> tuple[str, ...]:
        """Every canary key, however it was set."""
        return (*([self.canary_key] if self.canary_key else []), *self.canary_keys)
