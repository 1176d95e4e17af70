"""Which regions there are, and in which partition: who enrols a key writes its ARN, and each region costs a client."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping

import botocore.session

from ownkey_server.keystores.aws.arn import KeyArn


def complaint(key: KeyArn, allowed: Collection[str]) -> str:
    """Why a key's region cannot be used; empty when it can.

    Args:
        key: Whose region it is.
        allowed: The only regions that the settings allow; empty for all that AWS's library knows. One that it does not
            know yet is used when it is named here.
    """
    if allowed and key.region not in allowed:
        return f"{key.region} is not among the regions in the settings"
    partition = partition_of(key.region)
    if partition is None and not allowed:
        return f"no region {key.region} of AWS KMS is known here: check the ARN, or name the region in regions"
    if partition not in {None, key.partition}:
        return f"the region {key.region} is in partition {partition}, not {key.partition}: check the ARN"
    return ""


def load() -> None:
    """Read what AWS's library knows, which takes a tenth of a second: not at somebody's first call."""
    _partitions()


def partition_of(region: str) -> str | None:
    """The partition of a region; None where no such region, or none with KMS, is known here."""
    return _partitions().get(region)


@functools.cache
def _partitions() -> Mapping[str, str]:
    """The partition of each region that has KMS, from the data that comes with botocore."""
    session = botocore.session.Session()
    return {
        region: partition
        for partition in session.get_available_partitions()
        for region in session.get_available_regions("kms", partition)
    }
