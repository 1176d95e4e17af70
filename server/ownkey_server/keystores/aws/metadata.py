"""What AWS says about a key: what kind it is, in what state, where its relatives are, and whether it rotates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ownkey_server.keystores.aws.answers import DENIED, STATES, advice, code, may_not_look, require, say
from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.findings import Finding, Outcome, Telling

_ORIGINS = {
    "AWS_CLOUDHSM": "each use goes to the customer's CloudHSM cluster: milliseconds more, and what the cluster can do a"
    " second is the limit",
    "EXTERNAL_KEY_STORE": "each use goes to the customer's external key store: AWS gives it 250 ms, and takes 1,800"
    " requests a second for the whole store unless the proxy takes fewer",
}


def describe(
    arn: KeyArn, kms: Any, given: Sequence[KeyArn], now: datetime, *, by_role: bool
) -> Telling[Mapping[str, Any]]:
    """What DescribeKey says, and returns; ``given`` are the keys that are checked together."""
    try:
        key: Mapping[str, Any] = kms.describe_key(KeyId=str(arn))["KeyMetadata"]
    except (ClientError, BotoCoreError) as error:
        missing = code(error) == "NotFoundException"
        yield Finding(
            arn.region,
            "DescribeKey",
            Outcome.FAIL if missing or code(error) != DENIED else Outcome.WARN,
            say(error),
            "check the ARN and the region"
            if missing
            else advice(
                error,
                "kms:DescribeKey",
                by_role=by_role,
                otherwise="allow kms:DescribeKey, which has no context condition",
            ),
        )
        return {}
    yield Finding(arn.region, "DescribeKey", Outcome.PASS, "is allowed")
    yield from _metadata(arn.region, key, now)
    yield from _relatives(arn, key, given)
    return key


def _metadata(place: str, key: Mapping[str, Any], now: datetime) -> Iterator[Finding]:
    spec, usage = key.get("KeySpec", key.get("CustomerMasterKeySpec", "")), key.get("KeyUsage", "")
    yield require(place, "key spec", spec == "SYMMETRIC_DEFAULT", spec, "make a key with spec SYMMETRIC_DEFAULT")
    yield require(place, "usage", usage == "ENCRYPT_DECRYPT", usage, "make a key with usage ENCRYPT_DECRYPT")
    state = key.get("KeyState", "")
    until = f", deletion on {_day(key['DeletionDate'])}" if key.get("DeletionDate") else ""
    yield require(place, "state", state in {"Enabled", "Updating"}, state + until, STATES.get(state, ""))
    origin = key.get("Origin", "")
    if origin == "EXTERNAL":
        yield _imported(place, key, now)
    elif origin in _ORIGINS:
        yield Finding(place, "origin", Outcome.WARN, f"{origin}: {_ORIGINS[origin]}", "plan for its limits")
    else:
        yield Finding(place, "origin", Outcome.PASS, origin)


def _imported(place: str, key: Mapping[str, Any], now: datetime) -> Finding:
    if key.get("ExpirationModel") != "KEY_MATERIAL_EXPIRES":
        return Finding(place, "origin", Outcome.PASS, "EXTERNAL: imported material that does not expire")
    valid_to: datetime = key["ValidTo"]
    days = (valid_to - now).days
    return Finding(
        place,
        "origin",
        Outcome.WARN,
        f"EXTERNAL: the imported material expires on {_day(valid_to)}, in {days} days",
        "import the same material again before, in each region",
    )


def rotation(arn: KeyArn, kms: Any, key: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether its material is rotated."""
    check = "rotation"
    if key.get("Origin", "AWS_KMS") != "AWS_KMS":
        yield Finding(arn.region, check, Outcome.PASS, "not automatic for this origin; on demand, by the customer")
        return
    if key.get("MultiRegionConfiguration", {}).get("MultiRegionKeyType") == "REPLICA":
        yield Finding(arn.region, check, Outcome.PASS, "as the primary key's: related keys share it")
        return
    try:
        told = kms.get_key_rotation_status(KeyId=str(arn))
    except (ClientError, BotoCoreError) as error:
        yield may_not_look(arn.region, check, error, "kms:GetKeyRotationStatus")
        return
    if told.get("KeyRotationEnabled"):
        days = told.get("RotationPeriodInDays")
        yield Finding(arn.region, check, Outcome.PASS, f"automatic{f', every {days} days' if days else ''}")
    else:
        yield Finding(
            arn.region, check, Outcome.WARN, "not automatic", "aws kms enable-key-rotation, of the primary key"
        )


def _relatives(arn: KeyArn, key: Mapping[str, Any], given: Sequence[KeyArn]) -> Iterator[Finding]:
    check = "multi-Region"
    if not key.get("MultiRegion"):
        yield Finding(arn.region, check, Outcome.PASS, "a key of one region: an outage there is an outage of the key")
        return
    told = key.get("MultiRegionConfiguration", {})
    known = [told.get("PrimaryKey", {}), *told.get("ReplicaKeys", [])]
    regions = sorted({one["Region"] for one in known if one.get("Region")})
    kind = str(told.get("MultiRegionKeyType", "")).lower() or "part"
    named = {one.region for one in given if one.is_same_key(arn)}
    left_out = [region for region in regions if region not in named]
    others = {one.region for one in given} - named
    seen = f"{kind} of a key in {', '.join(regions) or arn.region}"
    for words, missing in (
        ("not checked here", [region for region in left_out if region not in others]),
        ("another key was given in", [region for region in left_out if region in others]),
    ):
        seen += f"; {words}: {', '.join(missing)}" if missing else ""
    if left_out:
        yield Finding(
            arn.region,
            check,
            Outcome.WARN,
            seen,
            "give their ARNs too: each has a policy and a state of its own, and must be revoked on its own",
        )
    else:
        yield Finding(arn.region, check, Outcome.PASS, seen)


def _day(time: datetime) -> str:
    return time.date().isoformat()
