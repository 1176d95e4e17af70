"""A fake of AWS KMS and STS: a real HTTP server that answers as AWS documents it, fast, and says what it was asked.

For what the emulators get wrong (facts on them stand in ``docs/aws.md``): states on every operation, wrong keys,
changed bytes, contexts, multi-Region keys with a state and a policy for each region, key policies with conditions on
the encryption context, roles with a trust policy and an external id, external key stores, and every error by name.

In a test, in its own thread::

    with FakeKms() as kms:                           # kms.url is the endpoint of KMS and STS, for every region
        arn = kms.create_key("eu-west-1")            # multi_region=, origin="EXTERNAL", account=, spec="RSA_2048"
        other = kms.replicate(arn, "us-east-1")
        kms.disable(arn), kms.enable(arn), kms.schedule_deletion(arn), kms.cancel_deletion(arn), kms.delete(arn)
        kms.set_state(arn, "Unavailable")            # or Creating, Updating, PendingImport, PendingReplicaDeletion
        kms.set_policy(arn, {...})                   # a policy document; None (as made) lets everybody in
        kms.import_material(arn, valid_to=time), kms.delete_material(arn), kms.rotate(arn)
        kms.xks(arn, "The external key store proxy …")   # what its proxy says from now on; None: it serves
        kms.create_role("arn:aws:iam::111122223333:role/ownkey", {...})      # a trust policy; delete_role, set_trust
        kms.identity_policies[role_arn] = {...}      # IAM's policy of a role or user; without one, see fake_kms_policy
        kms.came_through = "vpce-0123456789abcdef0"  # the VPC endpoint that calls come through; empty: none
        key_id, secret = kms.user("arn:aws:iam::444455556666:user/ownkey")   # credentials of a principal
        kms.fail("Decrypt", "ThrottlingException", times=2, key=arn, region="eu-west-1")   # kms.heal() ends all faults
        kms.latency["eu-west-1"] = 0.2               # seconds before each answer; "" for every region
        kms.hang("eu-west-1"), kms.resume()          # black hole: takes requests and does not answer; a key's ARN too
        kms.cut_off(), kms.mend()                    # nobody listens any more
        kms.calls                                    # operation, key, context, principal, region, request_id, error
        kms.counts["GenerateDataKey"]                # by operation, and by (operation, region)

Whoever shows an access key that the fake did not give is :data:`PROVIDER`; signatures are not checked. The same
operations are there through the API (CreateKey, DisableKey, PutKeyPolicy, ReplicateKey, …), which is how another
process uses it: ``python -m support.fake_kms --port 0 [--latency 0.003]``, from ``tests/``, prints its URL in one
line.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import re
import secrets
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from support import fake_kms_policy as policies
from support.fake_kms_api import OPERATIONS, unknown
from support.fake_kms_http import FakeHttpServer
from support.fake_kms_keys import AwsError, FakeKey, Material, new_key_id

ACCOUNT = "111122223333"
PROVIDER = "arn:aws:iam::999988887777:user/ownkey"
_CREDENTIAL = re.compile(rb"(?i)credential=([^/,\s]+)/[0-9]{8}/([a-z0-9-]+)/([a-z0-9-]+)/")


@dataclass(frozen=True, slots=True)
class Call:
    """A call as CloudTrail has it. ``error`` is its code, empty when it was served."""

    operation: str
    key: str
    context: Mapping[str, str]
    principal: str
    region: str
    request_id: str
    error: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Fault:
    operation: str
    error: AwsError
    times: int | None
    key: str | None
    region: str | None


@dataclass
class _Identity:
    principal: str
    tags: Mapping[str, str] = field(default_factory=dict)
    expires: float = float("inf")


class FakeKms(FakeHttpServer):
    """See the module."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.keys: dict[tuple[str, str], FakeKey] = {}
        self.roles: dict[str, dict[str, Any]] = {}
        self.identity_policies: dict[str, dict[str, Any]] = {}
        self.came_through = ""
        self.calls: collections.deque[Call] = collections.deque(maxlen=200_000)
        self.counts: collections.Counter[object] = collections.Counter()
        self.session_seconds: float | None = None
        self._identities: dict[str, _Identity] = {}
        self._faults: list[_Fault] = []

    # What its holder does

    def create_key(
        self,
        region: str = "eu-west-1",
        *,
        account: str = ACCOUNT,
        multi_region: bool = False,
        origin: str = "AWS_KMS",
        spec: str = "SYMMETRIC_DEFAULT",
        policy: dict[str, Any] | None = None,
    ) -> str:
        """A new key's ARN."""
        material = Material(new_key_id(multi_region=multi_region))
        usage = "ENCRYPT_DECRYPT" if spec == "SYMMETRIC_DEFAULT" or spec.startswith("RSA") else "GENERATE_VERIFY_MAC"
        key = FakeKey(region, account, material, origin, spec, usage, policy=policy, primary_region=region)
        if origin == "EXTERNAL":
            key.state = "PendingImport"
        else:
            material.versions.append(os.urandom(32))
        self.keys[region, key.key_id] = key
        return key.arn

    def replicate(self, arn: str, region: str) -> str:
        """A replica's ARN: the same material, and a state and a policy of its own."""
        key = self.key(arn)
        if not key.multi_region:
            raise AwsError("UnsupportedOperationException", "not a multi-Region key")
        if (region, key.key_id) in self.keys:
            raise AwsError("AlreadyExistsException", f"a replica exists in {region}")
        replica = FakeKey(region, key.account, key.material, key.origin, policy=None, primary_region=key.primary_region)
        self.keys[region, key.key_id] = replica
        return replica.arn

    def key(self, arn: str) -> FakeKey:
        """The key of an ARN."""
        parts = arn.split(":")
        found = self.keys.get((parts[3], parts[5].removeprefix("key/"))) if len(parts) == 6 else None
        if found is None or found.arn != arn:
            raise AwsError("NotFoundException", f"Key '{arn}' does not exist")
        return found

    def set_state(self, arn: str, state: str) -> None:
        """Put a key into a state."""
        self.key(arn).state = state

    def disable(self, arn: str) -> None:
        """Disable a key in its region."""
        self.key(arn).state = "Disabled"

    def enable(self, arn: str) -> None:
        """Enable a key in its region."""
        self.key(arn).state = "Enabled"

    def schedule_deletion(self, arn: str, days: int = 30) -> None:
        """Begin the waiting period before deletion."""
        key = self.key(arn)
        replicas = [one for one in self.keys.values() if one.key_id == key.key_id and one is not key]
        key.state = "PendingReplicaDeletion" if key.region == key.primary_region and replicas else "PendingDeletion"
        key.deletion_date = time.time() + days * 86_400

    def cancel_deletion(self, arn: str) -> None:
        """End the waiting period: the key is then disabled."""
        key = self.key(arn)
        key.state, key.deletion_date = "Disabled", None

    def delete(self, arn: str) -> None:
        """What happens at the end of the waiting period."""
        key = self.key(arn)
        del self.keys[key.region, key.key_id]

    def set_policy(self, arn: str, policy: dict[str, Any] | None) -> None:
        """The key policy in force from now on, in the key's region."""
        self.key(arn).policy = policy

    def import_material(self, arn: str, valid_to: float | None = None, material: bytes | None = None) -> None:
        """Import key material: always the same into one key, as KMS demands."""
        key = self.key(arn)
        if not key.material.versions:
            key.material.versions.append(material or os.urandom(32))
        key.state, key.valid_to = "Enabled", valid_to

    def delete_material(self, arn: str) -> None:
        """Delete imported key material."""
        key = self.key(arn)
        key.state, key.valid_to = "PendingImport", None

    def rotate(self, arn: str) -> None:
        """New material for what is wrapped from now on."""
        self.key(arn).material.versions.append(os.urandom(32))

    def xks(self, arn: str, message: str | None) -> None:
        """What the proxy of the key's external key store says from now on; None: it serves."""
        self.key(arn).xks_message = message

    def create_role(self, arn: str, trust: dict[str, Any]) -> None:
        """A role that may be assumed by whom its trust policy allows."""
        self.roles[arn] = trust

    def delete_role(self, arn: str) -> None:
        """Nobody assumes it any more; sessions there are go on."""
        del self.roles[arn]

    def user(self, principal: str) -> tuple[str, str]:
        """Credentials of a principal: an access key and its secret."""
        return self._new_identity(_Identity(principal)), secrets.token_hex(20)

    def identity(self, access_key: str) -> _Identity:
        """Who shows an access key that the fake gave; until when, may be set."""
        return self._identities[access_key]

    def set_trust(self, arn: str, trust: dict[str, Any]) -> None:
        """Who may assume a role from now on."""
        self.roles[arn] = trust

    def expire_sessions(self) -> None:
        """Let every session of an assumed role end now."""
        for identity in self._identities.values():
            if identity.expires != float("inf"):
                identity.expires = 0

    def fail(
        self,
        operation: str,
        code: str,
        message: str = "",
        *,
        times: int | None = None,
        key: str | None = None,
        region: str | None = None,
        status: int = 0,
    ) -> None:
        """Answer an error from now on; ``operation`` may be ``*``."""
        self._faults.append(_Fault(operation, AwsError(code, message, status), times, key, region))

    def heal(self, key: str | None = None) -> None:
        """End all that :meth:`fail` began, or what it began for one key."""
        self._faults = [fault for fault in self._faults if key is not None and fault.key != key]

    # Answering

    def answer(self, head: bytes, body: bytes) -> tuple[int, str, bytes, str]:
        """Status, kind of content, content, and the region that was asked; a key's ARN when that key alone hangs."""
        signed = _CREDENTIAL.search(head)
        access_key, region, service = (part.decode() for part in signed.groups()) if signed else ("", "us-east-1", "")
        request_id = str(uuid.uuid4())
        if service == "sts":
            status, content = self._answer_sts(access_key, region, request_id, body)
            return status, "text/xml", content, region
        target = re.search(rb"(?i)\r\nx-amz-target: *TrentService\.([A-Za-z]+)", head)
        operation = target[1].decode() if target else ""
        status, answered = self._answer_kms(access_key, region, request_id, operation, body)
        headers = f"application/x-amz-json-1.1\r\nx-amzn-RequestId: {request_id}"
        key = self.calls[-1].key
        return status, headers, json.dumps(answered).encode(), key if key in self._hung else region

    def _answer_kms(
        self, access_key: str, region: str, request_id: str, operation: str, body: bytes
    ) -> tuple[int, dict[str, Any]]:
        request: dict[str, Any] = {}
        error = ""
        identity = _Identity("")
        try:
            request = json.loads(body or b"{}")
            identity = self._identity(access_key)
            self._inject(operation, str(request.get("KeyId", "")), region)
            return 200, OPERATIONS.get(operation, unknown)(
                self, identity.principal, dict(identity.tags), region, request
            )
        except AwsError as refused:
            error = refused.code
            return refused.status, {"__type": refused.code, "message": refused.message}
        except ValueError:
            error = "SerializationException"
            return 400, {"__type": error}
        finally:
            context = request.get("EncryptionContext", request.get("SourceEncryptionContext", {}))
            key = str(request.get("KeyId", request.get("DestinationKeyId", "")))
            self._record(Call(operation, key, context, identity.principal, region, request_id, error, request))

    def _record(self, call: Call) -> None:
        if call.operation != "GetCallerIdentity":  # it is about nothing of a customer's
            self.calls.append(call)
        self.counts[call.operation] += 1
        self.counts[call.operation, call.region] += 1

    def _inject(self, operation: str, key: str, region: str) -> None:
        for fault in list(self._faults):
            if (
                fault.operation in {"*", operation}
                and (fault.key is None or fault.key == key)
                and (fault.region is None or fault.region == region)
                and (fault.times is None or fault.times > 0)
            ):
                if fault.times is not None:
                    fault.times -= 1
                raise fault.error

    def _identity(self, access_key: str) -> _Identity:
        identity = self._identities.get(access_key) or _Identity(PROVIDER)
        if time.time() >= identity.expires:
            raise AwsError("ExpiredTokenException", "The security token included in the request is expired")
        return identity

    def _new_identity(self, identity: _Identity) -> str:
        access_key = f"ASIA{secrets.token_hex(8).upper()}"
        self._identities[access_key] = identity
        return access_key

    def _answer_sts(self, access_key: str, region: str, request_id: str, body: bytes) -> tuple[int, bytes]:
        request = {name: values[0] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}
        operation, error, principal = request.get("Action", ""), "", ""
        try:
            principal = self._identity(access_key).principal
            self._inject(operation, request.get("RoleArn", ""), region)
            inner = self._assume(principal, request) if operation == "AssumeRole" else _caller(principal, access_key)
            text = f"<{operation}Response><{operation}Result>{inner}</{operation}Result>"
            text += f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation}Response>"
            return 200, text.encode()
        except AwsError as refused:
            error = refused.code
            text = f"<ErrorResponse><Error><Type>Sender</Type><Code>{error}</Code>"
            text += f"<Message>{escape(refused.message)}</Message></Error><RequestId>{request_id}</RequestId>"
            return refused.status, f"{text}</ErrorResponse>".encode()
        finally:
            self._record(Call(operation, request.get("RoleArn", ""), {}, principal, region, request_id, error, request))

    def _assume(self, principal: str, request: Mapping[str, str]) -> str:
        arn, session = request["RoleArn"], request["RoleSessionName"]
        tags = {
            request[f"Tags.member.{n}.Key"]: request[f"Tags.member.{n}.Value"]
            for n in range(1, 51)
            if f"Tags.member.{n}.Key" in request
        }
        facts: dict[str, str] = {f"aws:RequestTag/{name}": value for name, value in tags.items()}
        facts |= {"sts:RoleSessionName": session, "aws:PrincipalArn": policies.role_of(principal)}
        if "ExternalId" in request:
            facts["sts:ExternalId"] = request["ExternalId"]
        trust = self.roles.get(arn)
        for action in ["sts:AssumeRole", *(["sts:TagSession"] if tags else [])]:
            if trust is None or not policies.allows(trust, principal, action, facts):
                raise AwsError(
                    "AccessDenied", f"User: {principal} is not authorized to perform: {action} on resource: {arn}"
                )
        seconds = (
            self.session_seconds if self.session_seconds is not None else float(request.get("DurationSeconds", "3600"))
        )
        assumed = arn.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/") + f"/{session}"
        expires = time.time() + seconds
        access_key = self._new_identity(_Identity(assumed, tags, expires))
        until = datetime.datetime.fromtimestamp(expires, datetime.UTC).isoformat(timespec="milliseconds")
        return (
            f"<Credentials><AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>{secrets.token_hex(20)}"
            f"</SecretAccessKey><SessionToken>{secrets.token_hex(16)}</SessionToken><Expiration>{until}</Expiration>"
            f"</Credentials><AssumedRoleUser><AssumedRoleId>AROA:{session}</AssumedRoleId><Arn>{escape(assumed)}</Arn>"
            "</AssumedRoleUser>"
        )


def _caller(principal: str, access_key: str) -> str:
    account = policies.account_of(principal)
    return f"<Arn>{escape(principal)}</Arn><UserId>{access_key}</UserId><Account>{account}</Account>"


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description="A fake of AWS KMS and STS.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    given = parser.parse_args()
    kms = FakeKms(given.port)
    if given.latency:
        kms.latency[""] = given.latency
    kms.start()
    print(kms.url, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
