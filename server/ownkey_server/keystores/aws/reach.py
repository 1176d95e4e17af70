"""How `ownkey aws verify` reaches keys: by the credentials of the key store's settings, in a tenant's name."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ownkey_server.domain.encryption_context import TENANT
from ownkey_server.domain.errors import KeyMisconfigured
from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.identity import Identity, principal_of
from ownkey_server.keystores.aws.options import AwsKmsOptions

_SESSION_SECONDS = 900


class SettingsReach:
    """Clients as the key store makes them, for one person who waits: made anew for each run of a command.

    Args:
        tenant: In whose name roles are assumed.
    """

    def __init__(self, name: str, options: AwsKmsOptions, tenant: str) -> None:
        self._name = name
        self._options = options
        self._tenant = tenant
        self._own = boto3.session.Session(profile_name=options.profile)
        self._sessions: dict[str, Any] = {}

    def asks_for(self, arn: KeyArn) -> str:
        """The role that is assumed, and what is said to get it; empty without a role."""
        role = self._role(arn)
        if role is None:
            return ""
        tag = f", session tag {TENANT}={self._tenant}" if self._options.session_tags else ""
        return f"role {role}, external id {self._external_id(self._tenant)}{tag}"

    def kms(self, arn: KeyArn) -> Any:
        """A client of KMS in the key's region."""
        endpoint = self._options.endpoint_urls.get(arn.region, self._options.endpoint_url)
        return self._client(self._session(arn), "kms", arn.region, endpoint)

    def identity(self, arn: KeyArn) -> Identity:
        """As whom the key is used; a role is assumed for it."""
        session, role = self._session(arn), self._role(arn)
        caller, trouble = "", None
        try:
            sts = self._client(session, "sts", arn.region, self._options.sts_endpoint_url)
            caller = str(sts.get_caller_identity()["Arn"])
        except (ClientError, BotoCoreError) as error:
            trouble = error
        if role is None:
            how = "by the key policy alone: no role is assumed"
            return Identity(caller, principal_of(caller), how, trouble=trouble)
        return Identity(caller, role, f"by {self.asks_for(arn)}", by_role=True, trouble=trouble)

    def become(self, arn: KeyArn, tenant: str) -> None:
        """Assume the key's role once, as the key store would in the name of any tenant.

        Raises:
            ClientError: AWS refuses it.
        """
        role = self._role(arn)
        assert role is not None  # noqa: S101
        self._assume(arn, role, tenant)

    def _role(self, arn: KeyArn) -> str | None:
        name = self._options.role_name
        return f"arn:{arn.partition}:iam::{arn.account}:role/{name}" if name else None

    def _session(self, arn: KeyArn) -> Any:
        role = self._role(arn)
        if role is None:
            return self._own
        if role not in self._sessions:
            if not self._tenant:
                cause = "the role's external id is made of the tenant's id: say --tenant"
                raise KeyMisconfigured(self._name, str(arn), cause)
            made = self._assume(arn, role, self._tenant)
            self._sessions[role] = boto3.session.Session(
                made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"]
            )
        return self._sessions[role]

    def _assume(self, arn: KeyArn, role: str, tenant: str) -> dict[str, str]:
        sts = self._client(self._own, "sts", arn.region, self._options.sts_endpoint_url)
        tags = [{"Key": TENANT, "Value": tenant}]
        made: dict[str, str] = sts.assume_role(
            RoleArn=role,
            RoleSessionName=f"ownkey-verify-{tenant}"[:64],
            ExternalId=self._external_id(tenant),
            DurationSeconds=_SESSION_SECONDS,
            **({"Tags": tags} if self._options.session_tags else {}),
        )["Credentials"]
        return made

    def _external_id(self, tenant: str) -> str:
        return f"{self._options.external_id_prefix}-{tenant}"

    def _client(self, session: Any, service: str, region: str, endpoint: str | None) -> Any:
        return session.client(
            service,
            region_name=region,
            endpoint_url=endpoint.replace("{region}", region) if endpoint else None,
            config=Config(
                connect_timeout=self._options.connect_timeout,
                read_timeout=self._options.read_timeout,
                retries={"mode": "standard", "total_max_attempts": 2},
                use_fips_endpoint=self._options.use_fips or None,
                user_agent_extra="ownkey",
            ),
        )
