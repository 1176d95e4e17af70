"""How `ownkey aws verify` reaches keys: by the credentials of the key store's settings, in a tenant's name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ownkey_server.domain.errors import KeyMisconfigured
from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.identity import Identity, principal_of
from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.aws.roles import RoleSession


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
        session = self._role(arn, self._tenant)
        if session is None:
            return ""
        tags = "".join(f", session tag {name}={value}" for name, value in session.tags.items())
        return f"role {session.role}, external id {session.external_id}{tags}"

    def kms(self, arn: KeyArn) -> Any:
        """A client of KMS in the key's region."""
        endpoint = self._options.endpoint_urls.get(arn.region, self._options.endpoint_url)
        return self._client(self._session(arn), "kms", arn.region, endpoint)

    def identity(self, arn: KeyArn) -> Identity:
        """As whom the key is used; a role is assumed for it."""
        session, asked = self._session(arn), self._role(arn, self._tenant)
        caller, trouble = "", None
        try:
            sts = self._client(session, "sts", arn.region, self._options.sts_endpoint_url)
            caller = str(sts.get_caller_identity()["Arn"])
        except (ClientError, BotoCoreError) as error:
            trouble = error
        if asked is None:
            how = "by the key policy alone: no role is assumed"
            return Identity(caller, principal_of(caller), how, trouble=trouble)
        return Identity(caller, asked.role, f"by {self.asks_for(arn)}", by_role=True, trouble=trouble)

    def become(self, arn: KeyArn, tenant: str) -> None:
        """Assume the key's role once, as the key store would in the name of any tenant.

        Raises:
            ClientError: AWS refuses it.
        """
        asked = self._role(arn, tenant)
        assert asked is not None  # noqa: S101
        self._assume(arn, asked)

    def _role(self, arn: KeyArn, tenant: str) -> RoleSession | None:
        """What the key store would ask for, but for the session's name, which CloudTrail shows; None without a role."""
        options = self._options
        if options.role_name is None:
            return None
        session = RoleSession.of_tenant(
            tenant,
            partition=arn.partition,
            account=arn.account,
            role_name=options.role_name,
            prefix=options.external_id_prefix,
            tags=options.session_tags,
        )
        return replace(session, name=f"ownkey-verify-{tenant}"[:64])

    def _session(self, arn: KeyArn) -> Any:
        asked = self._role(arn, self._tenant)
        if asked is None:
            return self._own
        if asked.role not in self._sessions:
            if not self._tenant:
                cause = "the role's external id is made of the tenant's id: say --tenant"
                raise KeyMisconfigured(self._name, str(arn), cause)
            made = self._assume(arn, asked)
            self._sessions[asked.role] = boto3.session.Session(
                made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"]
            )
        return self._sessions[asked.role]

    def _assume(self, arn: KeyArn, asked: RoleSession) -> dict[str, str]:
        sts = self._client(self._own, "sts", arn.region, self._options.sts_endpoint_url)
        made: dict[str, str] = sts.assume_role(**asked.request())["Credentials"]
        return made

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
