"""The check of a customer's key before it is enrolled: what AWS says about it, and what it does when we use it.

Nothing here changes anything. The key is used on throw-away bytes, under contexts that say so.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.domain.tenants import another_than
from ownkey_server.keystores.aws import regions
from ownkey_server.keystores.aws.answers import by_our_fault, by_our_policy, code, may_not_look, say
from ownkey_server.keystores.aws.arn import ArnInvalid, KeyArn
from ownkey_server.keystores.aws.errors import ROLE_DENIED
from ownkey_server.keystores.aws.findings import Finding, Outcome, Telling, read_policy
from ownkey_server.keystores.aws.identity import Identity, Reach
from ownkey_server.keystores.aws.metadata import describe, rotation
from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.aws.trials import Trials

_STS = "set sts_endpoint_url of the key store to where STS can be reached from here, such as a VPC endpoint of its own"


@dataclass(frozen=True, slots=True)
class _Place:
    arn: KeyArn
    kms: Any
    usable: bool = False


class Verification:
    """Checks keys as one tenant's.

    Args:
        options: The settings of the key store that is to use them.
        tenant: Whose keys they are; empty for nobody's in particular, and then nothing is said about other tenants.
    """

    def __init__(self, reach: Reach, clock: Clock, *, options: AwsKmsOptions, tenant: str) -> None:
        self._reach = reach
        self._clock = clock
        self._options = options
        self._tenant = tenant
        self._trials = Trials(tenant, by_role=options.role_name is not None)

    def check(self, references: Sequence[str]) -> Iterator[Finding]:
        """What is found about the keys, in their order, and then about all of them together."""
        places: list[_Place] = []
        arns: list[KeyArn] = []
        for reference in dict.fromkeys(references):
            try:
                arns.append(KeyArn.parse(reference))
            except ArnInvalid as error:
                yield Finding(reference, "ARN", Outcome.FAIL, str(error), "take the Arn that aws kms describe-key says")
        yield from _related(arns)
        for arn in arns:
            yield from self._place(arn, arns, places)
        yield from self._together(places)
        yield from self._canaries({arn.region for arn in arns})

    def _place(self, arn: KeyArn, given: Sequence[KeyArn], places: list[_Place]) -> Iterator[Finding]:
        region = arn.region
        yield Finding(region, "ARN", Outcome.PASS, str(arn))
        refused = self._refused(arn)
        if refused is not None:
            yield refused
            return
        try:
            kms = self._reach.kms(arn)
            identity = self._reach.identity(arn)
        except (ClientError, BotoCoreError, KeyStoreError) as error:
            yield self._no_access(arn, error)
            return
        who = _who(region, identity)
        yield who
        if who.outcome is Outcome.FAIL:
            return
        is_tenants = (yield from self._trust(arn)) if identity.by_role else False
        described = yield from describe(arn, kms, given, self._clock(), by_role=identity.by_role)
        yield from rotation(arn, kms, described)
        yield from self._policy(arn, kms, identity.principal)
        usable = yield from self._trials.use(arn, kms, is_tenants=is_tenants)
        places.append(_Place(arn, kms, usable))

    def _refused(self, arn: KeyArn) -> Finding | None:
        """Why the key store would not take the key at all; None where it would."""
        allowed = self._options.regions
        complaint = regions.complaint(arn, allowed)
        if complaint:
            advice = (
                f"add {arn.region} to regions of the key store, or enrol a replica in one of these" if allowed else ""
            )
            seen = f"{complaint} ({', '.join(allowed)})" if allowed else complaint
            return Finding(arn.region, "region", Outcome.FAIL, seen, advice)
        if any(KeyArn.parse(canary).is_same_key(arn) for canary in self._options.all_canary_keys):
            seen = "this is a canary key of the key store (canary_keys), the provider's own: it cannot be a customer's"
            return Finding(arn.region, "ARN", Outcome.FAIL, seen, "give the ARN of the customer's key")
        return None

    def _no_access(self, arn: KeyArn, error: Exception) -> Finding:
        """We are nobody to the key: our credentials are wrong, or its role is not ours to assume."""
        asked = self._reach.asks_for(arn)
        is_asked = bool(asked) and not isinstance(error, KeyStoreError)
        advice = ""
        if code(error) == ROLE_DENIED:
            advice = by_our_policy(error, by_role=False) or (
                "see the role's trust policy: it must trust whom AWS names here, and ask for this external id; and see"
                " that we may sts:AssumeRole and sts:TagSession"
            )
        elif isinstance(error, ClientError):
            advice = by_our_fault(error)
        elif is_asked and not by_our_fault(error):
            advice = _STS
        seen = say(error, "STS") + (f"; asked for {asked}" if is_asked else "")
        return Finding(arn.region, "access", Outcome.FAIL, seen, advice)

    def _canaries(self, used: Collection[str]) -> Iterator[Finding]:
        """What the settings lack to tell a customer's act from a fault of our own."""
        options = self._options
        missing = sorted(set(used) - {KeyArn.parse(arn).region for arn in options.all_canary_keys})
        if missing:
            yield Finding(
                "settings",
                "canary_keys",
                Outcome.WARN,
                f"there is none in {', '.join(missing)}: a withdrawn permission is told there as misconfigured, and"
                " not as revoked",
                "add a key of the provider's own in each region to canary_keys, by which our identity is proven there",
            )
        if options.role_name and options.canary_role is None:
            yield Finding(
                "settings",
                "canary_role",
                Outcome.WARN,
                "there is none: a withdrawn trust is told as misconfigured, and not as revoked",
                "set canary_role of the key store to one of the provider's own, by which our identity is proven",
            )

    def _trust(self, arn: KeyArn) -> Telling[bool]:
        """Whether the role is this tenant's alone: its trust policy refuses the external id of another."""
        check = "role's trust"
        try:
            self._reach.become(arn, another_than(self._tenant))
        except (ClientError, BotoCoreError) as error:
            if code(error) == "AccessDenied":
                yield Finding(arn.region, check, Outcome.PASS, "refuses the external id of another tenant")
                return True
            yield Finding(arn.region, check, Outcome.WARN, f"not known: {say(error, 'STS')}", "verify again")
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
                    yield Finding(
                        maker.arn.region,
                        "wrap",
                        Outcome.FAIL,
                        say(error),
                        self._trials.advice(error, "kms:GenerateDataKey"),
                    )
                    continue
                yield from self._trials.unwrap(
                    opener.arn.region,
                    f"unwrap of {maker.arn.region}",
                    opener.kms,
                    str(opener.arn),
                    made["CiphertextBlob"],
                    made["Plaintext"],
                )


def _who(region: str, identity: Identity) -> Finding:
    """As whom the key is used. Without STS a key can still be used, but never without credentials that hold."""
    check, error = "access", identity.trouble
    if error is None:
        return Finding(region, check, Outcome.PASS, f"as {identity.caller}; {identity.how}")
    fault = by_our_fault(error)
    if fault:
        return Finding(region, check, Outcome.FAIL, say(error, "STS"), fault if isinstance(error, ClientError) else "")
    seen = f"{identity.how}; as whom is not known: {say(error, 'STS')}"
    advice = "" if isinstance(error, ClientError) else f"{_STS}; only checks that need our name are left out here"
    return Finding(region, check, Outcome.WARN, seen, advice)


def _related(arns: Sequence[KeyArn]) -> Iterator[Finding]:
    """Keys that are given together are taken for one key's places, which only those of one multi-Region key can be."""
    families = dict.fromkeys(arn.family for arn in arns)
    if len(families) > 1:
        yield Finding(
            "together",
            "one key",
            Outcome.WARN,
            f"these are {len(families)} keys, and none opens what another wraps: {', '.join(map(str, arns))}",
            "enrol each as a key of its own; the replicas of one key have the same id, which begins with mrk-",
        )
