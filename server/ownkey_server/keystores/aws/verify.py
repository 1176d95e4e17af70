"""The check of a customer's key before it is enrolled: what AWS says about it, and what it does when we use it.

Nothing here changes anything. The key is used on throw-away bytes, under contexts that say so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.encryption_context import TENANT
from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.keystores.aws.arn import ArnInvalid, KeyArn
from ownkey_server.keystores.aws.findings import Finding, Outcome, read_policy

T = TypeVar("T")
# Findings on the way, and what those who come after need to know.
Telling: TypeAlias = Generator[Finding, None, T]

PROBE = {"ownkey:probe": "verify"}
DENIED = "AccessDeniedException"
_LONGEST_MESSAGE = 300
_ORIGINS = {
    "AWS_CLOUDHSM": "each use goes to the customer's CloudHSM cluster: milliseconds more, and what the cluster can do a"
    " second is the limit",
    "EXTERNAL_KEY_STORE": "each use goes to the customer's external key store: AWS gives it 250 ms, and takes 1,800"
    " requests a second for the whole store unless the proxy takes fewer",
}
_STATES = {
    "Disabled": "enable it: aws kms enable-key",
    "PendingDeletion": "it will be deleted: aws kms cancel-key-deletion, then enable-key",
    "PendingReplicaDeletion": "it will be deleted after its replicas: aws kms cancel-key-deletion, then enable-key",
    "PendingImport": "import its key material, into each region: aws kms import-key-material",
    "Unavailable": "connect its custom key store: aws kms connect-custom-key-store",
    "Creating": "wait until AWS has made it",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are to a key.

    Attributes:
        caller: What STS calls us (GetCallerIdentity).
        principal: The role or user that a policy names; None when that is not known for certain.
        how: How we became it, in words.
    """

    caller: str
    principal: str | None
    how: str


class Reach(Protocol):
    """How keys are reached: by which credentials, and as whom. What AWS refuses, its errors say."""

    def kms(self, arn: KeyArn) -> Any:
        """A client of KMS in the key's region, by the credentials that the key store would use."""
        ...

    def identity(self, arn: KeyArn) -> Identity:
        """As whom it is used."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    arn: KeyArn
    kms: Any
    usable: bool = False


class Verification:
    """Checks keys as one tenant's.

    Args:
        regions: The only regions that the settings allow; empty for all.
        tenant: Whose keys they are; empty for nobody's in particular, and then nothing is said about other tenants.
    """

    def __init__(self, reach: Reach, clock: Clock, *, regions: Sequence[str], tenant: str) -> None:
        self._reach = reach
        self._clock = clock
        self._regions = regions
        self._tenant = tenant
        self._context = {**PROBE, **({TENANT: tenant} if tenant else {})}

    def check(self, references: Sequence[str]) -> Iterator[Finding]:
        """What is found about the keys, in their order, and then about all of them together."""
        places: list[_Place] = []
        arns: list[KeyArn] = []
        for reference in dict.fromkeys(references):
            try:
                arns.append(KeyArn.parse(reference))
            except ArnInvalid as error:
                yield Finding(reference, "ARN", Outcome.FAIL, str(error), "take the Arn that aws kms describe-key says")
        for arn in arns:
            yield from self._place(arn, arns, places)
        yield from self._together(places)

    def _place(self, arn: KeyArn, given: Sequence[KeyArn], places: list[_Place]) -> Iterator[Finding]:
        region = arn.region
        yield Finding(region, "ARN", Outcome.PASS, str(arn))
        if self._regions and region not in self._regions:
            yield Finding(
                region,
                "region",
                Outcome.FAIL,
                f"the settings allow {', '.join(self._regions)} alone",
                f"add {region} to regions of the key store, or enrol a replica in one of these",
            )
            return
        try:
            identity = self._reach.identity(arn)
            kms = self._reach.kms(arn)
        except (ClientError, BotoCoreError, KeyStoreError) as error:
            yield Finding(
                region,
                "access",
                Outcome.FAIL,
                say(error),
                "check the credentials, the role's trust policy and external id",
            )
            return
        yield Finding(region, "access", Outcome.PASS, f"as {identity.caller}; {identity.how}")
        described = yield from self._describe(arn, kms, given)
        yield from self._rotation(arn, kms, described)
        yield from self._policy(arn, kms, identity.principal)
        usable = yield from self._use(arn, kms)
        places.append(_Place(arn, kms, usable))

    def _describe(self, arn: KeyArn, kms: Any, given: Sequence[KeyArn]) -> Telling[Mapping[str, Any]]:
        try:
            key: Mapping[str, Any] = kms.describe_key(KeyId=str(arn))["KeyMetadata"]
        except (ClientError, BotoCoreError) as error:
            missing = code(error) == "NotFoundException"
            yield Finding(
                arn.region,
                "DescribeKey",
                Outcome.FAIL if missing or code(error) != DENIED else Outcome.WARN,
                say(error),
                "check the ARN and the region" if missing else "allow kms:DescribeKey, which has no context condition",
            )
            return {}
        yield Finding(arn.region, "DescribeKey", Outcome.PASS, "is allowed")
        yield from self._metadata(arn.region, key)
        yield from _relatives(arn, key, given)
        return key

    def _metadata(self, place: str, key: Mapping[str, Any]) -> Iterator[Finding]:
        spec, usage = key.get("KeySpec", key.get("CustomerMasterKeySpec", "")), key.get("KeyUsage", "")
        yield _require(place, "key spec", spec == "SYMMETRIC_DEFAULT", spec, "make a key with spec SYMMETRIC_DEFAULT")
        yield _require(place, "usage", usage == "ENCRYPT_DECRYPT", usage, "make a key with usage ENCRYPT_DECRYPT")
        state = key.get("KeyState", "")
        until = f", deletion on {_day(key['DeletionDate'])}" if key.get("DeletionDate") else ""
        yield _require(place, "state", state in {"Enabled", "Updating"}, state + until, _STATES.get(state, ""))
        origin = key.get("Origin", "")
        if origin == "EXTERNAL":
            yield self._imported(place, key)
        elif origin in _ORIGINS:
            yield Finding(place, "origin", Outcome.WARN, f"{origin}: {_ORIGINS[origin]}", "plan for its limits")
        else:
            yield Finding(place, "origin", Outcome.PASS, origin)

    def _imported(self, place: str, key: Mapping[str, Any]) -> Finding:
        if key.get("ExpirationModel") != "KEY_MATERIAL_EXPIRES":
            return Finding(place, "origin", Outcome.PASS, "EXTERNAL: imported material that does not expire")
        valid_to: datetime = key["ValidTo"]
        days = (valid_to - self._clock()).days
        return Finding(
            place,
            "origin",
            Outcome.WARN,
            f"EXTERNAL: the imported material expires on {_day(valid_to)}, in {days} days",
            "import the same material again before, in each region",
        )

    def _rotation(self, arn: KeyArn, kms: Any, key: Mapping[str, Any]) -> Iterator[Finding]:
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
            yield _may_not_look(arn.region, check, error, "kms:GetKeyRotationStatus")
            return
        if told.get("KeyRotationEnabled"):
            days = told.get("RotationPeriodInDays")
            yield Finding(arn.region, check, Outcome.PASS, f"automatic{f', every {days} days' if days else ''}")
        else:
            yield Finding(
                arn.region, check, Outcome.WARN, "not automatic", "aws kms enable-key-rotation, of the primary key"
            )

    def _policy(self, arn: KeyArn, kms: Any, principal: str | None) -> Iterator[Finding]:
        try:
            text = kms.get_key_policy(KeyId=str(arn), PolicyName="default")["Policy"]
            policy = json.loads(text)
        except (ClientError, BotoCoreError) as error:
            yield _may_not_look(arn.region, "policy", error, "kms:GetKeyPolicy, from the key's own account")
            return
        except ValueError:
            yield Finding(
                arn.region, "policy", Outcome.FAIL, "it is no JSON", "put one that ownkey aws key-policy prints"
            )
            return
        yield from read_policy(arn.region, policy, account=arn.account, principal=principal, tenant=self._tenant)

    def _use(self, arn: KeyArn, kms: Any) -> Telling[bool]:
        place, key = arn.region, str(arn)
        try:
            made = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=self._context)
        except (ClientError, BotoCoreError) as error:
            yield Finding(place, "wrap", Outcome.FAIL, say(error), _advice(error, "kms:GenerateDataKey"))
            return False
        yield Finding(place, "wrap", Outcome.PASS, "GenerateDataKey is allowed")
        blob, plaintext = made["CiphertextBlob"], made["Plaintext"]
        opened = yield from self._unwrap(place, "unwrap", kms, key, blob, plaintext)
        yield _tried(
            place,
            "encrypt",
            "kms:Encrypt",
            lambda: kms.encrypt(KeyId=key, Plaintext=plaintext, EncryptionContext=self._context),
        )
        yield _tried(
            place,
            "re-encrypt",
            "kms:ReEncrypt*",
            lambda: kms.re_encrypt(
                SourceKeyId=key,
                DestinationKeyId=key,
                CiphertextBlob=blob,
                SourceEncryptionContext=self._context,
                DestinationEncryptionContext=self._context,
            ),
            Outcome.WARN,
        )
        if opened:
            yield self._wrong_context(place, kms, key, blob)
        if self._tenant:
            yield self._other_tenants(place, kms, key)
        return opened

    def _unwrap(self, place: str, check: str, kms: Any, key: str, blob: bytes, plaintext: bytes) -> Telling[bool]:
        try:
            opened = kms.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionContext=self._context)["Plaintext"]
        except (ClientError, BotoCoreError) as error:
            yield Finding(place, check, Outcome.FAIL, say(error), _advice(error, "kms:Decrypt"))
            return False
        same = bool(opened == plaintext)
        yield _require(place, check, same, "the same bytes came back" if same else "other bytes came back", "ask AWS")
        return same

    def _wrong_context(self, place: str, kms: Any, key: str, blob: bytes) -> Finding:
        context = {**self._context, "ownkey:probe": "another"}
        try:
            kms.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionContext=context)
        except (ClientError, BotoCoreError) as error:
            refused = code(error) in {"InvalidCiphertextException", DENIED}
            outcome = Outcome.PASS if refused else Outcome.WARN
            return Finding(place, "wrong context", outcome, "refused" if refused else say(error))
        return Finding(place, "wrong context", Outcome.FAIL, "opened under another context", "this is not AWS KMS")

    def _other_tenants(self, place: str, kms: Any, key: str) -> Finding:
        """Whether we are let in for the tenant alone: neither for another, nor for none."""
        check = "other tenants"
        for who, context in (
            ("another tenant", {**PROBE, TENANT: "another" if self._tenant != "another" else "other"}),
            ("no tenant", PROBE),
        ):
            try:
                kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
            except (ClientError, BotoCoreError) as error:
                if code(error) != DENIED:
                    return Finding(place, check, Outcome.WARN, f"not known: {say(error)}", "verify again")
                continue
            return Finding(
                place,
                check,
                Outcome.WARN,
                f"the key serves a context of {who}: the condition on ownkey:tenant is missing",
                "put the policy that `ownkey aws key-policy` prints",
            )
        return Finding(place, check, Outcome.PASS, "denied: the policy lets us in for this tenant alone")

    def _together(self, places: Sequence[_Place]) -> Iterator[Finding]:
        """Each region opens what each other has wrapped, among those of one key."""
        for maker in places:
            for opener in places:
                if maker is opener or not (maker.usable and opener.usable and maker.arn.is_same_key(opener.arn)):
                    continue
                try:
                    made = maker.kms.generate_data_key(
                        KeyId=str(maker.arn), KeySpec="AES_256", EncryptionContext=self._context
                    )
                except (ClientError, BotoCoreError) as error:
                    yield Finding(maker.arn.region, "wrap", Outcome.FAIL, say(error), _advice(error, ""))
                    continue
                yield from self._unwrap(
                    opener.arn.region,
                    f"unwrap of {maker.arn.region}",
                    opener.kms,
                    str(opener.arn),
                    made["CiphertextBlob"],
                    made["Plaintext"],
                )


def principal_of(caller: str) -> str | None:
    """The role or user that a policy would name for a caller; None where that is not known for certain.

    A session's ARN does not have the path of its role.
    """
    parts = caller.split(":", 5)
    if len(parts) == 6 and parts[2] == "sts" and parts[5].startswith("assumed-role/"):
        return f"arn:{parts[1]}:iam::{parts[4]}:role/{parts[5].split('/')[1]}"
    return caller if len(parts) == 6 and parts[2] == "iam" and "/" in parts[5] else None


def code(error: Exception) -> str:
    """AWS's code of an error; empty where AWS did not answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def say(error: Exception) -> str:
    """An error in a line."""
    if isinstance(error, ClientError):
        message = str(error.response.get("Error", {}).get("Message", ""))[:_LONGEST_MESSAGE]
        return f"{code(error)}: {message}" if message else code(error)
    if isinstance(error, KeyStoreError):
        return error.cause
    return f"no answer ({type(error).__name__})"


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
    seen = f"{kind} of a key in {', '.join(regions) or arn.region}"
    if left_out:
        yield Finding(
            arn.region,
            check,
            Outcome.WARN,
            f"{seen}; not checked here: {', '.join(left_out)}",
            "give their ARNs too: each has a policy and a state of its own, and must be revoked on its own",
        )
    else:
        yield Finding(arn.region, check, Outcome.PASS, seen)


def _tried(
    place: str, check: str, action: str, work: Callable[[], object], otherwise: Outcome = Outcome.FAIL
) -> Finding:
    try:
        work()
    except (ClientError, BotoCoreError) as error:
        return Finding(place, check, otherwise, say(error), _advice(error, action))
    return Finding(place, check, Outcome.PASS, f"{action} is allowed")


def _advice(error: Exception, action: str) -> str:
    if code(error) == DENIED:
        wanted = f"allow {action} " if action else "allow it "
        return f"{wanted}with the tenant's context: put the policy that `ownkey aws key-policy` prints"
    return _STATES["Disabled"] if code(error) == "DisabledException" else ""


def _may_not_look(place: str, check: str, error: Exception, action: str) -> Finding:
    if code(error) == DENIED:
        seen = f"not known: we may not look ({action})"
        return Finding(place, check, Outcome.WARN, seen, "look yourself, or print the policy with --inspect")
    return Finding(place, check, Outcome.WARN, f"not known: {say(error)}")


def _require(place: str, check: str, good: bool, seen: str, advice: str) -> Finding:
    return Finding(place, check, Outcome.PASS if good else Outcome.FAIL, seen, "" if good else advice)


def _day(time: datetime) -> str:
    return time.date().isoformat()
