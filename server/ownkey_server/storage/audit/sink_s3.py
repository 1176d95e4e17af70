"""The audit trail's copies in S3, under an object lock: until it ends, nobody can remove or replace a version."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

from ownkey_server.domain.clock import Clock, system_clock
from ownkey_server.storage.audit.sink import SinkConflict, SinkError

LockMode = Literal["GOVERNANCE", "COMPLIANCE"]

_ALREADY_THERE = frozenset({"PreconditionFailed", "412"})


class S3Sink:
    """A bucket with object lock. Credentials come from where boto3 finds them.

    Args:
        bucket: Its name.
        prefix: What the names of objects begin with, such as ``ownkey/``.
        region: Where it is; where boto3 finds it otherwise.
        endpoint_url: Of a service that is not Amazon's.
        retain_days: How long each object is locked.
        mode: ``COMPLIANCE``: nobody ends the lock early. ``GOVERNANCE``: who has the right to may.
        clock: The time that the locks begin.

    Raises:
        SinkError: The bucket cannot be used. The message says why.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        retain_days: int,
        mode: LockMode = "COMPLIANCE",
        clock: Clock = system_clock,
    ) -> None:
        # Only who keeps copies in S3 waits for it to load.
        import boto3  # noqa: PLC0415
        import botocore.exceptions  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        self._bucket = bucket
        self._prefix = prefix
        self._retain = timedelta(days=retain_days)
        self._mode = mode
        self._clock = clock
        self._errors = (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError)
        config = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
        try:
            self._client: Any = boto3.client("s3", region_name=region, endpoint_url=endpoint_url, config=config)
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise SinkError(f"bucket {bucket}: S3 cannot be used: {error}") from error
        self._require_lock()

    def put(self, name: str, content: bytes) -> None:
        """Put an object there, locked."""
        key = self._prefix + name
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=content,
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=base64.b64encode(hashlib.sha256(content).digest()).decode(),
                IfNoneMatch="*",
                ObjectLockMode=self._mode,
                ObjectLockRetainUntilDate=self._clock() + self._retain,
            )
        except self._errors as error:
            if _code(error) not in _ALREADY_THERE:
                raise SinkError(f"s3://{self._bucket}/{key}: cannot be written: {error}") from error
            self._require_same(key, content)

    def _require_same(self, key: str, content: bytes) -> None:
        try:
            there = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._errors as error:
            raise SinkError(f"s3://{self._bucket}/{key}: is there already, and cannot be read: {error}") from error
        if there != content:
            raise SinkConflict(f"s3://{self._bucket}/{key}: is there already, and holds something else")

    def _require_lock(self) -> None:
        place = f"bucket {self._bucket}"
        try:
            answer = self._client.get_object_lock_configuration(Bucket=self._bucket)
        except self._errors as error:
            match _code(error):
                case "ObjectLockConfigurationNotFoundError":
                    raise SinkError(
                        f"{place}: has no object lock, so that what is put there could be removed; make a bucket with:"
                        " aws s3api create-bucket --object-lock-enabled-for-bucket"
                    ) from error
                case "NoSuchBucket" | "404":
                    raise SinkError(f"{place}: there is no such bucket") from error
                case "AccessDenied" | "403":
                    raise SinkError(
                        f"{place}: access denied; needed are s3:GetBucketObjectLockConfiguration, s3:PutObject,"
                        " s3:PutObjectRetention and s3:GetObject"
                    ) from error
            raise SinkError(f"{place}: cannot be asked for its object lock: {error}") from error
        if answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise SinkError(f"{place}: its object lock is not enabled")


def _code(error: Exception) -> str:
    response: Mapping[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))
