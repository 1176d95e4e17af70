"""Keys and roles of the provider's own that prove our identity good: what works there would work for a tenant.

A canary key is used by our own credentials, and speaks for its own region alone: what keeps us out of another (a
condition on the region, the policy of a VPC endpoint) does not show there. A canary role is assumed in the region of
what was denied, with an external id and tags as a tenant's, so that it shows our right to ``sts:AssumeRole`` and
``sts:TagSession`` too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from ownkey_server.domain.errors import KeyMisconfigured
from ownkey_server.keystores.aws import errors as aws_errors
from ownkey_server.keystores.aws.access import Access
from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.errors import When
from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.aws.roles import RoleSession

CANARY_CONTEXT = {"ownkey:probe": "canary"}


class Canary:
    """A key or a role of the provider's own: while it works, our identity is good. Used by many threads.

    Args:
        use: Uses it once, by our own credentials.
    """

    def __init__(self, use: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._use = use
        self._clock = clock
        self._lock = threading.Lock()
        self._begun = float("-inf")
        self._finding = When.CANARY_SILENT

    def since(self, denied_at: float, wait: float) -> When:
        """What the canary showed after a denial: one use of it serves all denials that came before it.

        Args:
            denied_at: When that was, on the monotonic clock.
            wait: Seconds to wait for others who are asking it.
        """
        if not self._lock.acquire(timeout=max(0.0, wait)):
            return When.CANARY_SILENT
        try:
            if self._begun < denied_at:
                # When asking breaks off, nothing was shown, and nothing that was shown before may stand for it.
                self._begun, self._finding = self._clock(), When.CANARY_SILENT
                self._finding = self._ask()
            return self._finding
        finally:
            self._lock.release()

    def _ask(self) -> When:
        try:
            self._use()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            ours = code in aws_errors.DENIALS or issubclass(aws_errors.by_code(code).kind, KeyMisconfigured)
            return When.CANARY_DENIED if ours else When.CANARY_SILENT
        except (BotoCoreError, ResponseParserError) as error:
            ours = issubclass(aws_errors.by_exception(error).kind, KeyMisconfigured)
            return When.CANARY_DENIED if ours else When.CANARY_SILENT
        return When.CANARY_WORKS


@dataclass(frozen=True, slots=True)
class Canaries:
    """What the settings have to prove our identity by.

    Attributes:
        keys: By region, the one that is asked after a denied use of a key there.
        role: The canary of a region, asked after a denied AssumeRole there; None where there is none.
    """

    keys: Mapping[str, Canary] = field(default_factory=dict)
    role: Callable[[str], Canary] | None = None

    def of(self, sign: str, region: str) -> Canary | None:
        """The one that a denial is measured by."""
        if sign == aws_errors.KEY_DENIED:
            return self.keys.get(region)
        return None if self.role is None else self.role(region)


def canaries(options: AwsKmsOptions, access: Access) -> Canaries:
    """The canaries that the settings name."""
    return Canaries(
        {key.region: Canary(partial(_use_key, access, key)) for key in map(KeyArn.parse, options.all_canary_keys)},
        None if options.canary_role is None else _CanaryRole(options.canary_role, options, access).in_region,
    )


def _use_key(access: Access, key: KeyArn) -> None:
    with access.signing_by(None):
        access.kms(key.region).generate_data_key(KeyId=str(key), KeySpec="AES_256", EncryptionContext=CANARY_CONTEXT)


class _CanaryRole:
    """A role of the provider's own, with a canary for each region: each has an STS, and a way to it, of its own."""

    def __init__(self, role: str, options: AwsKmsOptions, access: Access) -> None:
        self._session = RoleSession.of_canary(role, prefix=options.external_id_prefix, tags=options.session_tags)
        self._access = access
        self._regions: dict[str, Canary] = {}

    def in_region(self, region: str) -> Canary:
        found = self._regions.get(region)
        if found is None:
            found = self._regions.setdefault(region, Canary(partial(self._use, region)))
        return found

    def _use(self, region: str) -> None:
        self._access.assume(self._session, region)
