"""The operations of the fake of AWS KMS: from a request's JSON to the answer's (KMS API Reference)."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from support import fake_kms_policy as policies
from support.fake_kms_keys import AwsError, FakeKey, key_id_of

if TYPE_CHECKING:
    from support.fake_kms import FakeKms

Request: TypeAlias = Mapping[str, Any]
Operation: TypeAlias = Callable[["FakeKms", str, dict[str, str], str, Request], dict[str, Any]]


def _key(kms: FakeKms, region: str, reference: Any) -> FakeKey:
    """The key that a request names, by its id or ARN, in the region that was asked."""
    if not isinstance(reference, str) or not reference:
        raise AwsError("ValidationException", "KeyId is missing")
    if reference.startswith("arn:"):
        if reference.split(":")[3] != region:
            raise AwsError("NotFoundException", f"Invalid arn {reference.split(':')[3]}")
        return kms.key(reference)
    found = kms.keys.get((region, reference))
    if found is None:
        raise AwsError("NotFoundException", f"Key '{reference}' does not exist")
    return found


def _made_by(kms: FakeKms, region: str, blob: bytes) -> FakeKey:
    """The key that made a blob, in the region that was asked."""
    found = kms.keys.get((region, key_id_of(blob)))
    if found is None:
        raise AwsError("InvalidCiphertextException")
    return found


def _authorize(
    kms: FakeKms,
    key: FakeKey,
    principal: str,
    tags: Mapping[str, str],
    action: str,
    context: Mapping[str, str] | None = None,
) -> None:
    if key.policy is None:
        return
    facts: dict[str, str | list[str]] = {
        "aws:PrincipalArn": policies.role_of(principal),
        "aws:PrincipalAccount": policies.account_of(principal),
        "kms:CallerAccount": policies.account_of(principal),
        **{f"aws:PrincipalTag/{name}": value for name, value in tags.items()},
        **({"aws:SourceVpce": kms.came_through} if kms.came_through else {}),
    }
    if context:
        facts |= {f"kms:EncryptionContext:{name}": value for name, value in context.items()}
        facts["kms:EncryptionContextKeys"] = list(context)
    identity_policy = kms.identity_policies.get(policies.role_of(principal))
    if not policies.allows_use(key.policy, key.account, identity_policy, principal, f"kms:{action}", facts):
        raise AwsError(
            "AccessDeniedException",
            f"User: {principal} is not authorized to perform: kms:{action} on resource: {key.arn} because no"
            " policy allows the action, or one denies it",
        )


def _context(request: Request, name: str = "EncryptionContext") -> dict[str, str]:
    context: dict[str, str] = request.get(name) or {}
    if sum(len(pair) + len(value) for pair, value in context.items()) > 8192:
        raise AwsError("ValidationException", "the encryption context is too long")
    return context


def _dry_run(request: Request) -> None:
    if request.get("DryRun"):
        raise AwsError("DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")


def _generate(
    kms: FakeKms, principal: str, tags: dict[str, str], region: str, request: Request, action: str = "GenerateDataKey"
) -> dict[str, Any]:
    key, context = _key(kms, region, request.get("KeyId")), _context(request)
    _authorize(kms, key, principal, tags, action, context)
    key.require_usable()
    sizes = {"AES_256": 32, "AES_128": 16}
    if ("KeySpec" in request) == ("NumberOfBytes" in request):
        raise AwsError("ValidationException", "Please specify either number of bytes or key spec.")
    size = request.get("NumberOfBytes") or sizes[request["KeySpec"]]
    _dry_run(request)
    plaintext = os.urandom(size)
    blob = key.material.wrap(plaintext, context)
    return {"CiphertextBlob": _text(blob), "Plaintext": _text(plaintext), "KeyId": key.arn}


def _generate_without_plaintext(
    kms: FakeKms, principal: str, tags: dict[str, str], region: str, request: Request
) -> dict[str, Any]:
    made = _generate(kms, principal, tags, region, request, "GenerateDataKeyWithoutPlaintext")
    del made["Plaintext"]
    return made


def _encrypt(kms: FakeKms, principal: str, tags: dict[str, str], region: str, request: Request) -> dict[str, Any]:
    key, context = _key(kms, region, request.get("KeyId")), _context(request)
    _authorize(kms, key, principal, tags, "Encrypt", context)
    key.require_usable()
    plaintext = base64.b64decode(request["Plaintext"])
    if not 1 <= len(plaintext) <= 4096:
        raise AwsError("ValidationException", "Member must have length less than or equal to 4096")
    _dry_run(request)
    blob = key.material.wrap(plaintext, context)
    return {"CiphertextBlob": _text(blob), "KeyId": key.arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}


def _open(
    kms: FakeKms,
    principal: str,
    tags: dict[str, str],
    region: str,
    request: Request,
    *,
    action: str,
    key_field: str,
    context_field: str,
) -> tuple[FakeKey, bytes]:
    blob = base64.b64decode(request["CiphertextBlob"])
    if not 1 <= len(blob) <= 6144:
        raise AwsError("ValidationException", "Member must have length less than or equal to 6144")
    context = _context(request, context_field)
    named = _key(kms, region, request[key_field]) if request.get(key_field) else None
    if named is not None:
        # Permission and state are those of the key that the request names, before its ciphertext is looked at.
        _authorize(kms, named, principal, tags, action, context)
        named.require_usable()
    made_by = _made_by(kms, region, blob)
    if named is not None and named is not made_by:
        raise AwsError(
            "IncorrectKeyException",
            "The key ID in the request does not identify a CMK that can perform this operation.",
        )
    if named is None:
        _authorize(kms, made_by, principal, tags, action, context)
        made_by.require_usable()
    return made_by, made_by.material.unwrap(blob, context)


def _decrypt(kms: FakeKms, principal: str, tags: dict[str, str], region: str, request: Request) -> dict[str, Any]:
    key, plaintext = _open(
        kms, principal, tags, region, request, action="Decrypt", key_field="KeyId", context_field="EncryptionContext"
    )
    _dry_run(request)
    return {"Plaintext": _text(plaintext), "KeyId": key.arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}


def _re_encrypt(kms: FakeKms, principal: str, tags: dict[str, str], region: str, request: Request) -> dict[str, Any]:
    target = _key(kms, region, request.get("DestinationKeyId"))
    context = _context(request, "DestinationEncryptionContext")
    source, plaintext = _open(
        kms,
        principal,
        tags,
        region,
        request,
        action="ReEncryptFrom",
        key_field="SourceKeyId",
        context_field="SourceEncryptionContext",
    )
    _authorize(kms, target, principal, tags, "ReEncryptTo", context)
    target.require_usable()
    _dry_run(request)
    blob = target.material.wrap(plaintext, context)
    return {"CiphertextBlob": _text(blob), "SourceKeyId": source.arn, "KeyId": target.arn}


def _describe(kms: FakeKms, principal: str, tags: dict[str, str], region: str, request: Request) -> dict[str, Any]:
    key = _key(kms, region, request.get("KeyId"))
    _authorize(kms, key, principal, tags, "DescribeKey")
    return {"KeyMetadata": key.metadata([one.region for one in kms.keys.values() if one.key_id == key.key_id])}


def _create(kms: FakeKms, principal: str, tags: dict[str, str], region: str, request: Request) -> dict[str, Any]:
    arn = kms.create_key(
        region,
        multi_region=bool(request.get("MultiRegion")),
        origin=request.get("Origin", "AWS_KMS"),
        spec=request.get("KeySpec", "SYMMETRIC_DEFAULT"),
        policy=json.loads(request["Policy"]) if "Policy" in request else None,
    )
    return {"KeyMetadata": kms.key(arn).metadata([region])}


def _replicate(kms: FakeKms, principal: str, tags: dict[str, str], region: str, request: Request) -> dict[str, Any]:
    key = _key(kms, region, request.get("KeyId"))
    arn = kms.replicate(key.arn, request["ReplicaRegion"])
    return {"ReplicaKeyMetadata": kms.key(arn).metadata([region, request["ReplicaRegion"]])}


def _held_by(action: str, work: Callable[[FakeKms, FakeKey, Request], dict[str, Any] | None]) -> Operation:
    """An operation on a key's state by its holder."""

    def operation(kms: FakeKms, principal: str, tags: dict[str, str], region: str, request: Request) -> dict[str, Any]:
        key = _key(kms, region, request.get("KeyId"))
        _authorize(kms, key, principal, tags, action)
        return work(kms, key, request) or {}

    return operation


def _set_enabled(*, enabled: bool) -> Callable[[FakeKms, FakeKey, Request], None]:
    def work(kms: FakeKms, key: FakeKey, request: Request) -> None:
        if key.state not in {"Enabled", "Disabled"}:
            raise AwsError("KMSInvalidStateException", f"{key.arn} is {key.state}.")
        key.state = "Enabled" if enabled else "Disabled"

    return work


def _schedule(kms: FakeKms, key: FakeKey, request: Request) -> dict[str, Any]:
    days = int(request.get("PendingWindowInDays", 30))
    if not 7 <= days <= 30:
        raise AwsError("ValidationException", "PendingWindowInDays must be 7 to 30")
    kms.schedule_deletion(key.arn, days)
    return {"KeyId": key.arn, "KeyState": key.state, "DeletionDate": key.deletion_date, "PendingWindowInDays": days}


def _cancel(kms: FakeKms, key: FakeKey, request: Request) -> dict[str, Any]:
    kms.cancel_deletion(key.arn)
    return {"KeyId": key.arn}


def _put_policy(kms: FakeKms, key: FakeKey, request: Request) -> None:
    try:
        policy = json.loads(request["Policy"])
    except ValueError:
        raise AwsError("MalformedPolicyDocumentException") from None
    kms.set_policy(key.arn, policy)


def _get_policy(kms: FakeKms, key: FakeKey, request: Request) -> dict[str, Any]:
    root = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
    return {"Policy": json.dumps(key.policy or {"Version": "2012-10-17", "Statement": [root]}), "PolicyName": "default"}


def _set_rotation(*, on: bool) -> Callable[[FakeKms, FakeKey, Request], None]:
    def work(kms: FakeKms, key: FakeKey, request: Request) -> None:
        key.rotation = on

    return work


def _rotation(kms: FakeKms, key: FakeKey, request: Request) -> dict[str, Any]:
    return {
        "KeyId": key.arn,
        "KeyRotationEnabled": key.rotation,
        **({"RotationPeriodInDays": 365} if key.rotation else {}),
    }


def _rotate(kms: FakeKms, key: FakeKey, request: Request) -> dict[str, Any]:
    kms.rotate(key.arn)
    return {"KeyId": key.arn}


def unknown(kms: FakeKms, principal: str, tags: dict[str, str], region: str, request: Request) -> dict[str, Any]:
    """What is no operation here."""
    raise AwsError("UnknownOperationException")


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


OPERATIONS: Mapping[str, Operation] = {
    "GenerateDataKey": _generate,
    "GenerateDataKeyWithoutPlaintext": _generate_without_plaintext,
    "Encrypt": _encrypt,
    "Decrypt": _decrypt,
    "ReEncrypt": _re_encrypt,
    "DescribeKey": _describe,
    "CreateKey": _create,
    "ReplicateKey": _replicate,
    "EnableKey": _held_by("EnableKey", _set_enabled(enabled=True)),
    "DisableKey": _held_by("DisableKey", _set_enabled(enabled=False)),
    "ScheduleKeyDeletion": _held_by("ScheduleKeyDeletion", _schedule),
    "CancelKeyDeletion": _held_by("CancelKeyDeletion", _cancel),
    "PutKeyPolicy": _held_by("PutKeyPolicy", _put_policy),
    "GetKeyPolicy": _held_by("GetKeyPolicy", _get_policy),
    "EnableKeyRotation": _held_by("EnableKeyRotation", _set_rotation(on=True)),
    "DisableKeyRotation": _held_by("DisableKeyRotation", _set_rotation(on=False)),
    "GetKeyRotationStatus": _held_by("GetKeyRotationStatus", _rotation),
    "RotateKeyOnDemand": _held_by("RotateKeyOnDemand", _rotate),
}
