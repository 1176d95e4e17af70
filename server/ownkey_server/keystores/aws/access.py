"""Access to AWS: clients, one a region, and by whose credentials each call is signed.

Clients cost tens of milliseconds and megabytes, credentials next to nothing. So tenants share the clients, and each
call is signed by the credentials of its own tenant's role: as many clients as regions, however many tenants.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from ownkey_server.keystores.aws import log_filter
from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.aws.principal import Principal
from ownkey_server.keystores.aws.roles import AssumedRole, RoleSession
from ownkey_server.keystores.aws.shares import TenantShare

_RENEWALS = 4
# Twice as many as AWS has regions, for KMS and STS: only settings that name regions of another kind need more.
MOST_CLIENTS = 128
# An answer that is on its way at the end is taken, so that no connection is left to nobody.
CLOSING_SECONDS = 1.0


class Access:
    """Gives clients and credentials. Used by many threads.

    Args:
        options: How AWS is reached.
        clock: The time of day, in seconds, by which sessions end.
    """

    def __init__(self, options: AwsKmsOptions, clock: Callable[[], float] = time.time) -> None:
        log_filter.silence()
        self._options = options
        self._clock = clock
        self._session: Any = None
        self._clients: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        self._signing = threading.local()
        self._closed = False
        self._under_way: set[Future[None]] = set()
        self.principal = Principal(self._access_key, self._caller)
        self._renewals = ThreadPoolExecutor(_RENEWALS, "aws-credentials")

    def kms(self, region: str) -> Any:
        """The client of KMS in a region. Signs by our own credentials, and by others inside of :meth:`signing_by`."""
        return self._client("kms", region)

    def role(self, tenant: str, share: TenantShare, key: KeyArn) -> AssumedRole | None:
        """The role by which a tenant's key is used; None for our own credentials, as for the provider's keys."""
        session = self._session_of(tenant, key)
        if session is None:
            return None

        def make() -> AssumedRole:
            return AssumedRole(partial(self.assume, session, key.region), self.later, self._clock)

        return share.roles.get((key.account, key.region), make)

    def role_identity(self, tenant: str, key: KeyArn) -> str:
        """By which role a tenant's key is used, and how it is asked for; empty where our own credentials do it."""
        session = self._session_of(tenant, key)
        return "" if session is None else session.identity

    def assume(self, session: RoleSession, region: str) -> Mapping[str, Any]:
        """The credentials of a new session, asked for by our own."""
        answer: Mapping[str, Any] = self._client("sts", region).assume_role(**session.request())["Credentials"]
        return answer

    @contextmanager
    def signing_by(self, credentials: ReadOnlyCredentials | None) -> Iterator[None]:
        """Let this thread's calls of KMS be signed by these credentials."""
        before = getattr(self._signing, "credentials", None)
        self._signing.credentials = credentials
        try:
            yield
        finally:
            self._signing.credentials = before

    def close(self) -> None:
        """Renew nothing more, and close idle connections; waits a moment for what is under way."""
        self._closed = True
        self._renewals.shutdown(wait=False, cancel_futures=True)
        wait(tuple(self._under_way), CLOSING_SECONDS)
        self._close_clients()

    def later(self, work: Callable[[], None]) -> None:
        """Do something in the background; nothing more once this is closed."""

        def run() -> None:
            try:
                work()
            finally:
                if self._closed:  # meanwhile: what this has connected to is nobody's to close but ours
                    self._close_clients()

        with suppress(RuntimeError):  # closed
            future = self._renewals.submit(run)
            self._under_way.add(future)
            future.add_done_callback(self._under_way.discard)

    def _close_clients(self) -> None:
        with self._lock:
            for client in self._clients.values():
                client.close()

    def _session_of(self, tenant: str, key: KeyArn) -> RoleSession | None:
        if not tenant or self._options.role_name is None:
            return None
        return RoleSession.of_tenant(
            tenant,
            partition=key.partition,
            account=key.account,
            role_name=self._options.role_name,
            prefix=self._options.external_id_prefix,
            tags=self._options.session_tags,
        )

    def _access_key(self) -> str | None:
        session = self._session
        try:
            credentials = None if session is None else session.get_credentials()
            return None if credentials is None else str(credentials.get_frozen_credentials().access_key)
        except (BotoCoreError, ClientError):
            return None  # whoever signs by them will be told

    def _caller(self, region: str) -> str | None:
        try:
            return str(self._client("sts", region).get_caller_identity()["Arn"])
        except (BotoCoreError, ClientError, ResponseParserError, KeyError, ValueError):
            return None

    def _client(self, service: str, region: str) -> Any:
        client = self._clients.get((service, region))
        if client is None:
            with self._lock:  # sessions are not thread-safe; clients are
                client = self._clients.get((service, region))
                if client is None:
                    if len(self._clients) >= MOST_CLIENTS:
                        # Whoever is using it still gets an answer; it keeps no connection after that.
                        self._clients.pop(next(iter(self._clients))).close()
                    client = self._clients[service, region] = self._make(service, region)
        return client

    def _make(self, service: str, region: str) -> Any:
        options = self._options
        if self._session is None:
            session = botocore.session.Session(profile=options.profile)
            session.set_config_variable("sts_regional_endpoints", "regional")
            self._session = session
        client = self._session.create_client(
            service,
            region_name=region,
            endpoint_url=_endpoint(options, service, region),
            config=Config(
                connect_timeout=options.connect_timeout,
                read_timeout=options.read_timeout,
                max_pool_connections=options.threads,
                tcp_keepalive=True,
                # The second attempt is made in calls.py, where the caller's time is known.
                retries={"mode": "standard", "total_max_attempts": 1},
                use_fips_endpoint=options.use_fips or None,
                user_agent_extra="ownkey",
            ),
        )
        if service == "kms":
            client.meta.events.register("before-sign.kms", self._sign)
        return client

    def _sign(self, request: Any, **_: Any) -> None:
        credentials = getattr(self._signing, "credentials", None)
        if credentials is not None:
            request.context.setdefault("signing", {})["request_credentials"] = _Frozen(credentials)


class _Frozen:
    """Credentials as botocore's signer asks for them."""

    def __init__(self, credentials: ReadOnlyCredentials) -> None:
        self._credentials = credentials

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return self._credentials


def _endpoint(options: AwsKmsOptions, service: str, region: str) -> str | None:
    own = options.endpoint_urls.get(region, options.endpoint_url)
    endpoint = options.sts_endpoint_url if service == "sts" else own
    return endpoint.replace("{region}", region) if endpoint else None
