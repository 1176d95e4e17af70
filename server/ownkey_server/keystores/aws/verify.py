"""The check of a customer's key before it is enrolled: what AWS says about it, and what it does when we use it.

Nothing here changes anything. The key is used on throw-away bytes, under contexts that say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.domain.tenants import another_than
from ownkey_server.keystores.aws.answers import advice, code, may_not_look, say
from ownkey_server.keystores.aws.arn import ArnInvalid, KeyArn
from ownkey_server.keystores.aws.findings import Finding, Outcome, Telling, read_policy
from ownkey_server.keystores.aws.identity import Reach
from ownkey_server.keystores.aws.metadata import describe, rotation
from ownkey_server.keystores.aws.trials import Trials


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
        self._trials = Trials(tenant)

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
        is_tenants = (yield from self._trust(arn)) if identity.by_role else False
        described = yield from describe(arn, kms, given, self._clock())
        yield from rotation(arn, kms, described)
        yield from self._policy(arn, kms, identity.principal)
        usable = yield from self._trials.use(arn, kms, is_tenants=is_tenants)
        places.append(_Place(arn, kms, usable))

    def _trust(self, arn: KeyArn) -> Telling[bool]:
        """Whether the role is this tenant's alone: its trust policy refuses the external id of another."""
        check = "role's trust"
        try:
            self._reach.become(arn, another_than(self._tenant))
        except (ClientError, BotoCoreError) as error:
            if code(error) == "AccessDenied":
                yield Finding(arn.region, check, Outcome.PASS, "refuses the external id of another tenant")
                return True
            yield Finding(arn.region, check, Outcome.WARN, f"not known: {say(error)}", "verify again")
            return False
        yield Finding(
            arn.region,
            check,
            Outcome.FAIL,
            "the role can be assumed in another tenant's name: its trust policy asks for no external id",
            'demand it there: "StringEquals": {"sts:ExternalId": ...}, as `ownkey aws template` does',
        )
        return False

    def _policy(self, arn: KeyArn, kms: Any, principal: str | None) -> Iterator[Finding]:
        try:
            text = kms.get_key_policy(KeyId=str(arn), PolicyName="default")["Policy"]
            policy = json.loads(text)
        except (ClientError, BotoCoreError) as error:
            yield may_not_look(arn.region, "policy", error, "kms:GetKeyPolicy, from the key's own account")
            return
        except ValueError:
            yield Finding(
                arn.region, "policy", Outcome.FAIL, "it is no JSON", "put one that ownkey aws key-policy prints"
            )
            return
        yield from read_policy(arn.region, policy, account=arn.account, principal=principal, tenant=self._tenant)

    def _together(self, places: Sequence[_Place]) -> Iterator[Finding]:
        """Each region opens what each other has wrapped, among those of one key."""
        for maker in places:
            for opener in places:
                if maker is opener or not (maker.usable and opener.usable and maker.arn.is_same_key(opener.arn)):
                    continue
                try:
                    made = maker.kms.generate_data_key(
                        KeyId=str(maker.arn), KeySpec="AES_256", EncryptionContext=self._trials.context
                    )
                except (ClientError, BotoCoreError) as error:
                    yield Finding(maker.arn.region, "wrap", Outcome.FAIL, say(error), advice(error, ""))
                    continue
                yield from self._trials.unwrap(
                    opener.arn.region,
                    f"unwrap of {maker.arn.region}",
                    opener.kms,
                    str(opener.arn),
                    made["CiphertextBlob"],
                    made["Plaintext"],
                )
