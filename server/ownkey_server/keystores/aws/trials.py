"""What a key does when we use it, on throw-away bytes, under contexts that say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ownkey_server.domain.encryption_context import TENANT
from ownkey_server.domain.tenants import another_than
from ownkey_server.keystores.aws.answers import DENIED, advice, code, require, say
from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.findings import Finding, Outcome, Telling

PROBE = {"ownkey:probe": "verify"}


class Trials:
    """Uses keys as one tenant's.

    Args:
        tenant: Whose keys they are; empty for nobody's in particular, and then nothing is said about other tenants.
        by_role: Whether they are used as a role of the customer's.
    """

    def __init__(self, tenant: str, *, by_role: bool) -> None:
        self._tenant = tenant
        self._by_role = by_role
        self.context = {**PROBE, **({TENANT: tenant} if tenant else {})}

    def use(self, arn: KeyArn, kms: Any, *, is_tenants: bool) -> Telling[bool]:
        """Every use that ownkey makes of a key, and some that must be refused; returns whether it opens what it wraps.

        ``is_tenants`` says whether the way to the key is one that other tenants do not get.
        """
        place, key = arn.region, str(arn)
        try:
            made = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=self.context)
        except (ClientError, BotoCoreError) as error:
            yield Finding(place, "wrap", Outcome.FAIL, say(error), self.advice(error, "kms:GenerateDataKey"))
            return False
        yield Finding(place, "wrap", Outcome.PASS, "GenerateDataKey is allowed")
        blob, plaintext = made["CiphertextBlob"], made["Plaintext"]
        opened = yield from self.unwrap(place, "unwrap", kms, key, blob, plaintext)
        yield self._tried(
            place,
            "encrypt",
            "kms:Encrypt",
            lambda: kms.encrypt(KeyId=key, Plaintext=plaintext, EncryptionContext=self.context),
        )
        yield self._tried(
            place,
            "re-encrypt",
            "kms:ReEncrypt*",
            lambda: kms.re_encrypt(
                SourceKeyId=key,
                DestinationKeyId=key,
                CiphertextBlob=blob,
                SourceEncryptionContext=self.context,
                DestinationEncryptionContext=self.context,
            ),
            Outcome.WARN,
        )
        if opened:
            yield self._wrong_context(place, kms, key, blob)
        if self._tenant:
            yield self._other_tenants(place, kms, key, is_tenants=is_tenants)
        return opened

    def unwrap(self, place: str, check: str, kms: Any, key: str, blob: bytes, plaintext: bytes) -> Telling[bool]:
        """Whether a key opens what was wrapped, to the same bytes."""
        try:
            opened = kms.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionContext=self.context)["Plaintext"]
        except (ClientError, BotoCoreError) as error:
            yield Finding(place, check, Outcome.FAIL, say(error), self.advice(error, "kms:Decrypt"))
            return False
        same = bool(opened == plaintext)
        yield require(place, check, same, "the same bytes came back" if same else "other bytes came back", "ask AWS")
        return same

    def _wrong_context(self, place: str, kms: Any, key: str, blob: bytes) -> Finding:
        context = {**self.context, "ownkey:probe": "another"}
        try:
            kms.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionContext=context)
        except (ClientError, BotoCoreError) as error:
            refused = code(error) in {"InvalidCiphertextException", DENIED}
            outcome = Outcome.PASS if refused else Outcome.WARN
            return Finding(place, "wrong context", outcome, "refused" if refused else say(error))
        return Finding(place, "wrong context", Outcome.FAIL, "opened under another context", "this is not AWS KMS")

    def _other_tenants(self, place: str, kms: Any, key: str, *, is_tenants: bool) -> Finding:
        """Whether we are let in for the tenant alone: neither for another, nor for none."""
        check = "other tenants"
        for who, context in (
            ("another tenant", {**PROBE, TENANT: another_than(self._tenant)}),
            ("no tenant", PROBE),
        ):
            try:
                kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
            except (ClientError, BotoCoreError) as error:
                if code(error) != DENIED:
                    return Finding(place, check, Outcome.WARN, f"not known: {say(error)}", "verify again")
                continue
            # By a statement, a grant or a policy of IAM: what the document asks of us may well be in order.
            seen = f"AWS served a context of {who}: something lets us in without a condition on ownkey:tenant"
            # Without it nothing says whose the key is: whoever's key it is said to be, it works.
            weight = (
                "; the role refuses other tenants, so that this alone does not let them reach the key"
                if is_tenants
                else "; nothing else ties the key to the tenant, so that whoever enrols it first has the use of it"
            )
            outcome = Outcome.WARN if is_tenants else Outcome.FAIL
            return Finding(place, check, outcome, seen + weight, "put the policy that `ownkey aws key-policy` prints")
        return Finding(place, check, Outcome.PASS, "AWS denied a context of another tenant, and one of none")

    def _tried(
        self, place: str, check: str, action: str, work: Callable[[], object], otherwise: Outcome = Outcome.FAIL
    ) -> Finding:
        try:
            work()
        except (ClientError, BotoCoreError) as error:
            return Finding(place, check, otherwise, say(error), self.advice(error, action))
        return Finding(place, check, Outcome.PASS, f"{action} is allowed")

    def advice(self, error: Exception, action: str) -> str:
        """What to do about a use that failed; ``action`` is the permission that it needed."""
        return advice(error, action, by_role=self._by_role)
