"""Clients of AWS KMS: one for each region and set of credentials, made once and shared by threads.

boto3 is asked for one attempt at a time (``retries``), within times that are set here; what a caller's deadline makes
of that is the key store's business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config

from ownkey_server.keystores.aws_options import AwsKmsOptions


class Clients:
    """Makes clients, and keeps them."""

    def __init__(self, options: AwsKmsOptions, session: Callable[[], Any] | None = None) -> None:
        self._options = options
        self._make_session = session or (lambda: boto3.session.Session(profile_name=options.profile))
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def kms(self, region: str) -> Any:
        """The client of a region, by our own credentials."""
        client = self._clients.get(region)
        if client is None:
            with self._lock:  # sessions are not thread-safe; clients are
                client = self._clients.get(region)
                if client is None:
                    client = self._clients[region] = self._make(region)
        return client

    def _make(self, region: str) -> Any:
        options = self._options
        if self._session is None:
            self._session = self._make_session()
        endpoint = options.endpoint_urls.get(region, options.endpoint_url)
        return self._session.client(
            "kms",
            region_name=region,
            endpoint_url=endpoint.replace("{region}", region) if endpoint else None,
            config=Config(
                connect_timeout=options.connect_timeout,
                read_timeout=options.read_timeout,
                max_pool_connections=options.threads,
                retries={"mode": "standard", "total_max_attempts": 2},
                use_fips_endpoint=options.use_fips or None,
                user_agent_extra="ownkey",
            ),
        )
