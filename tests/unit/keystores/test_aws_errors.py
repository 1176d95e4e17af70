"""Every error of AWS has one meaning: a test for each row of the table, on a server that answers that error."""

from __future__ import annotations

import re
import time
from pathlib import Path

import botocore.exceptions
import botocore.session
import pytest
from botocore.parsers import ResponseParserError

from ownkey_server.domain.errors import KeyMisconfigured, KeyRevoked, KeyStoreError, KeyUnreachable
from ownkey_server.keystores.aws import errors as aws_errors
from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.canaries import Canaries
from ownkey_server.keystores.aws.errors import CODES, EXCEPTIONS, MESSAGES, STATES, Row, When
from ownkey_server.keystores.aws.history import History
from ownkey_server.keystores.aws.judge import Failure, Judge
from ownkey_server.keystores.aws.material import Materials
from ownkey_server.keystores.aws.principal import Principal
from ownkey_server.keystores.aws.store import AwsKmsKeyStore
from ownkey_server.keystores.first_uses import FirstUsesHere
from support.fake_kms import ACCOUNT, PROVIDER, FakeKms
from support.key_stores import CONTEXT, TIMEOUT

ROLE = f"arn:aws:iam::{ACCOUNT}:role/ownkey"
CANARY_ROLE = "arn:aws:iam::999988887777:role/ownkey-canary"
PAGE = Path(__file__).resolve().parents[3] / "docs" / "aws.md"
PROXY = "The external key store proxy "
# What AWS says, from its page "Troubleshooting external key stores".
SAID = {
    "denied access to the operation": PROXY
    + "denied access to the operation. Verify that the user and the external key"
    " are both authorized for this operation, and try the request again.",
    "external key is not enabled": PROXY
    + "rejected the request because the external key is not enabled in the external"
    " key manager.",
    "could not find the external key": PROXY + "rejected the request because it could not find the external key.",
    "external key does not support": PROXY + "rejected the request because the external key does not support the"
    " requested operation.",
    "could not authenticate": PROXY + "rejected the request because it could not authenticate AWS KMS. Verify the"
    " credentials for your external key store and update if necessary.",
    "invalid uri path": PROXY + "rejected the request because of an invalid URI path.",
    "very high request rate": PROXY + "rejected the request due to a very high request rate.",
    "did not respond": "AWS KMS rejected the request because the external key store proxy did not respond in time.",
    "cannot communicate with the external key manager": PROXY
    + "rejected the request because it cannot communicate with"
    " the external key manager.",
    "communicate with the external key store proxy": "AWS KMS cannot communicate with the external key store proxy.",
    "unhealthy state": PROXY + "is in an unhealthy state.",
    "cannot interpret the response": "AWS KMS cannot interpret the response from the external key store proxy.",
    "does not support the requested": PROXY + "rejected the request because it does not support the requested"
    " cryptographic operation.",
    "additional authenticated data is corrupted": PROXY + "rejected the request because the specified ciphertext or"
    " additional authenticated data is corrupted, missing, or otherwise invalid.",
    "or the encryption context, is corrupted": "The ciphertext that the external key store proxy submitted for"
    " decryption, or the encryption context, is corrupted, missing, or otherwise invalid.",
}


def name(row: Row) -> str:
    return f"{row.sign} {row.when}".strip()


async def refusal(store: AwsKmsKeyStore, key: str, tenant: str = "acme") -> KeyStoreError:
    with pytest.raises(KeyStoreError) as caught:
        await store.for_tenant(tenant).generate_data_key(key, CONTEXT, TIMEOUT)
    return caught.value


def assert_is(error: KeyStoreError, row: Row, key: str) -> None:
    assert (type(error), error.cause) == (row.kind, row.cause)
    assert (error.replica, error.key) == (f"aws/{KeyArn.parse(key).region}", key)


@pytest.mark.parametrize("row", [row for row in CODES if row.when is When.ALWAYS], ids=name)
async def test_a_code(kms: FakeKms, open_aws, row: Row) -> None:
    key = kms.create_key()
    kms.fail("GenerateDataKey", row.sign, f"vendor's text about {key}")
    assert_is(await refusal(open_aws(), key), row, key)
    assert kms.counts["GenerateDataKey"] == 1 + row.again


@pytest.mark.parametrize("row", [row for row in CODES if row.sign == "NotFoundException"], ids=name)
async def test_a_key_that_is_not_there(kms: FakeKms, open_aws, row: Row) -> None:
    key, store = kms.create_key(), open_aws()
    if row.when is When.WORKED:
        await use(store, key)
    kms.delete(key)
    assert_is(await refusal(store, key), row, key)


async def use(store: AwsKmsKeyStore, key: str, tenant: str = "acme") -> None:
    scoped = store.for_tenant(tenant)
    made = await scoped.generate_data_key(key, CONTEXT, TIMEOUT)
    await scoped.unwrap(key, made.wrapped, CONTEXT, TIMEOUT)


# What AWS adds to a denial, from its page "Troubleshoot access denied error messages".
NAMED = {
    When.OUR_POLICY: "identity-based policy",
    When.OUR_CONTROL_POLICY: "service control policy",
    When.OUR_BOUNDARY: "permissions boundary",
    When.OUR_SESSION_POLICY: "session policy",
    When.ENDPOINT_POLICY: "VPC endpoint policy",
}
OF_CUSTOMER = (
    "",
    " because no resource-based policy allows the {action} action",
    " with an explicit deny in a resource-based policy",
    " with an explicit deny in a resource control policy",
    " because no resource control policy allows the {action} action",
    " because no role trust policy allows the sts:AssumeRole action",
    " with an explicit deny in the role trust policy",
    " because the resource does not exist in this Region, no resource-based policies allow access, or …",
)


def denial(action: str, reason: str) -> str:
    who = f"User: {PROVIDER} is not authorized to perform: {action} on resource: {ROLE}"
    return who + reason.format(action=action)


def implicit(kind: str) -> str:
    return f" because no {kind} allows the {{action}} action"


def explicit(kind: str) -> str:
    article = "an" if kind.startswith("identity") else "a"
    return f" with an explicit deny in {article} {kind}: arn:aws:iam::999988887777:policy/Deny"


class Denied:
    """A key that is used, directly or by a role, and then denied; with canaries."""

    def __init__(self, kms: FakeKms, open_aws, *, role: bool, **options: object) -> None:
        self.kms, self.key = kms, kms.create_key()
        self.canary = kms.create_key(account="999988887777")
        for arn in (ROLE, CANARY_ROLE):
            kms.create_role(arn, {"Statement": [{"Effect": "Allow", "Action": "sts:*"}]})
        roles = {"role_name": "ownkey", "canary_role": CANARY_ROLE} if role else {}
        self.store = open_aws(**{"canary_key": self.canary, **roles, **options})

    async def refusal(self, *, worked: bool = True) -> KeyStoreError:
        if worked:
            await use(self.store, self.key)
        return await refusal(self.store, self.key)

    def deny_key(self, reason: str = "") -> None:
        message = denial("kms:GenerateDataKey", reason)
        self.kms.fail("GenerateDataKey", "AccessDeniedException", message, key=self.key)

    def deny_role(self, reason: str = "") -> None:
        self.kms.expire_sessions()
        self.kms.fail("AssumeRole", "AccessDenied", denial("sts:AssumeRole", reason), key=ROLE)


@pytest.mark.parametrize(
    "row",
    [r for r in CODES if r.sign in aws_errors.DENIALS and r.when is not When.ASKING and r.when not in NAMED],
    ids=name,
)
async def test_a_denial_without_a_reason_is_measured_by_a_canary(kms: FakeKms, open_aws, row: Row) -> None:
    of_role = row.sign == aws_errors.ROLE_DENIED
    without = {"canary_role" if of_role else "canary_key": None} if row.when is When.NO_CANARY else {}
    denied = Denied(kms, open_aws, role=of_role, **without)
    if row.when is not When.NEVER_WORKED:
        await use(denied.store, denied.key)
    if row.when is When.CANARY_DENIED and of_role:
        kms.delete_role(CANARY_ROLE)
    elif row.when is When.CANARY_DENIED:
        kms.set_policy(denied.canary, {"Statement": []})
    elif row.when is When.CANARY_SILENT:
        kms.fail("AssumeRole", "ServiceUnavailable", key=CANARY_ROLE)
        kms.fail("GenerateDataKey", "KMSInternalException", key=denied.canary)
    denied.deny_role() if of_role else denied.deny_key()
    assert_is(await denied.refusal(worked=False), row, denied.key)


@pytest.mark.parametrize("reason", [implicit, explicit])
@pytest.mark.parametrize("row", [r for r in CODES if r.when in NAMED], ids=name)
async def test_a_denial_by_a_policy_of_our_own_is_no_revocation(kms: FakeKms, open_aws, row: Row, reason) -> None:
    of_role = row.sign == aws_errors.ROLE_DENIED
    denied = Denied(kms, open_aws, role=of_role)
    await use(denied.store, denied.key)
    words = reason(NAMED[row.when])
    denied.deny_role(words) if of_role else denied.deny_key(words)
    assert_is(await denied.refusal(worked=False), row, denied.key)


@pytest.mark.parametrize("reason", [implicit, explicit])
@pytest.mark.parametrize("when", NAMED)
async def test_what_denies_the_customers_role_is_the_customers_but_for_the_way_there(
    kms: FakeKms, open_aws, when: When, reason
) -> None:
    denied = Denied(kms, open_aws, role=True)
    await use(denied.store, denied.key)
    denied.deny_key(reason(NAMED[when]))
    ours = when in {When.ENDPOINT_POLICY, When.OUR_SESSION_POLICY}
    expected = aws_errors.by_code(aws_errors.KEY_DENIED, when if ours else When.CANARY_WORKS)
    assert_is(await denied.refusal(worked=False), expected, denied.key)


@pytest.mark.parametrize("of_role", [False, True], ids=["key", "role"])
@pytest.mark.parametrize("reason", OF_CUSTOMER)
async def test_words_that_accuse_the_customer_prove_nothing_without_a_canary(
    kms: FakeKms, open_aws, reason: str, of_role: bool
) -> None:
    denied = Denied(kms, open_aws, role=of_role)
    await use(denied.store, denied.key)
    denied.deny_role(reason) if of_role else denied.deny_key(reason)
    assert type(await denied.refusal(worked=False)) is KeyRevoked
    blind = Denied(kms, open_aws, role=of_role, canary_key=None, canary_role=None)
    kms.heal()
    await use(blind.store, blind.key)
    blind.deny_role(reason) if of_role else blind.deny_key(reason)
    assert type(await blind.refusal(worked=False)) is KeyMisconfigured


async def test_a_canary_role_is_asked_for_as_a_tenants_in_the_region_of_the_denial(kms: FakeKms, open_aws) -> None:
    denied = Denied(kms, open_aws, role=True)
    await use(denied.store, denied.key)
    denied.deny_role()
    await denied.refusal(worked=False)
    [asked] = [call for call in kms.calls if call.key == CANARY_ROLE]
    assert (asked.region, asked.principal) == ("eu-west-1", PROVIDER)
    assert asked.details["ExternalId"] == asked.details["RoleSessionName"] == "ownkey-provider.canary"
    assert asked.details["Tags.member.1.Value"] == "provider.canary"


async def test_that_a_key_worked_for_one_tenant_says_nothing_for_another(kms: FakeKms, open_aws) -> None:
    denied = Denied(kms, open_aws, role=False)
    await use(denied.store, denied.key, "acme")
    denied.deny_key()
    assert type(await refusal(denied.store, denied.key, "umbrella")) is KeyMisconfigured
    assert type(await refusal(denied.store, denied.key, "acme")) is KeyRevoked


async def test_that_a_key_wrapped_and_opened_nothing_is_not_that_it_worked(kms: FakeKms, open_aws) -> None:
    denied = Denied(kms, open_aws, role=False)
    kms.fail("Decrypt", "AccessDeniedException", key=denied.key)
    described = await denied.store.for_tenant("acme").describe(denied.key, TIMEOUT)
    assert (described.state.name, described.cause[:37]) == ("MISCONFIGURED", "AWS denies us the key, which has not ")


@pytest.mark.parametrize("row", [r for r in CODES if r.when is When.ASKING], ids=name)
def test_our_own_web_identity_is_our_own_fault(row: Row) -> None:
    error = botocore.exceptions.ClientError({"Error": {"Code": row.sign}}, "AssumeRoleWithWebIdentity")
    assert judged(error) is row


def judged(error: Exception) -> Row:
    key = KeyArn("aws", "eu-west-1", "111122223333", "1234abcd-12ab-34cd-56ef-1234567890ab")
    now = time.monotonic()
    principal = Principal(lambda: "A", lambda region: PROVIDER)
    history = History("aws", FirstUsesHere(), principal, lambda tenant, key: "", lambda work: None)
    judge = Judge(Canaries(), Materials(), history)
    return judge.row(Failure("aws/eu-west-1", key, "acme", None, error, now, now + 5))


@pytest.mark.parametrize("may_describe", [True, False], ids=["described", "by message"])
@pytest.mark.parametrize("row", STATES, ids=name)
async def test_a_key_state(kms: FakeKms, open_aws, row: Row, may_describe: bool) -> None:
    now = [time.time()]
    key, store = kms.create_key(origin="EXTERNAL"), open_aws(clock=lambda: now[0])
    kms.import_material(key, valid_to=now[0] + 3600)
    if row.when in {When.EXPIRED, When.DELETED} or row.sign in {"Disabled", "Updating"}:
        await store.for_tenant("acme").describe(key, TIMEOUT)
    if not may_describe:
        kms.fail("DescribeKey", "AccessDeniedException")
    kms.set_state(key, row.sign)
    if row.when is When.EXPIRED:
        now[0] += 7200
    if row.sign in {"Updating", "Disabled"}:  # these do not refuse so: a change of state in between does
        kms.fail("GenerateDataKey", "KMSInvalidStateException", f"{key} is updating." if row.sign == "Updating" else "")
        if row.sign == "Disabled" and not may_describe:
            assert type(await refusal(store, key)) is KeyUnreachable  # nothing says why
            return
    assert_is(await refusal(store, key), row, key)


@pytest.mark.parametrize("row", MESSAGES, ids=name)
async def test_words_of_an_external_key_store(kms: FakeKms, open_aws, row: Row) -> None:
    key = kms.create_key()
    kms.xks(key, SAID[row.sign])
    assert_is(await refusal(open_aws(), key), row, key)
    assert kms.counts["DescribeKey"] == 0


@pytest.mark.parametrize("row", EXCEPTIONS, ids=name)
def test_an_exception_of_the_library(row: Row) -> None:
    kind = getattr(botocore.exceptions, row.sign, ResponseParserError)
    assert kind.__name__ == row.sign
    error = kind.__new__(kind)
    Exception.__init__(error, "vendor's text")
    assert judged(error) is row
    assert aws_errors.by_exception(error) is row


def test_every_exception_of_the_library_means_no_revocation() -> None:
    for kind in vars(botocore.exceptions).values():
        if isinstance(kind, type) and issubclass(kind, botocore.exceptions.BotoCoreError):
            row = aws_errors.by_exception(kind.__new__(kind))
            assert row.kind.reason != "KEY_REVOKED", kind


@pytest.mark.parametrize("code", ["NobodyKnowsException", "500", ""])
async def test_what_nobody_knows_is_an_outage(kms: FakeKms, open_aws, code: str) -> None:
    key = kms.create_key()
    kms.fail("GenerateDataKey", code or "418")
    assert_is(await refusal(open_aws(), key), aws_errors.OTHER_CODE, key)


async def test_an_invalid_state_without_a_reason_is_an_outage(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    kms.fail("GenerateDataKey", "KMSInvalidStateException", "something with the cluster of the CloudHSM")
    assert_is(await refusal(open_aws(), key), aws_errors.OTHER_MESSAGE, key)


@pytest.mark.parametrize("operation", ["GenerateDataKey", "Decrypt", "Encrypt", "ReEncrypt", "DescribeKey"])
def test_every_error_that_awss_model_names_has_a_row(operation: str) -> None:
    session = botocore.session.Session()
    model = session.get_service_model("kms").operation_model(operation)
    known = {row.sign for row in CODES} | {aws_errors.INVALID_STATE}
    assert {shape.name for shape in model.error_shapes} <= known


def test_every_error_of_assume_role_has_a_row() -> None:
    session = botocore.session.Session()
    model = session.get_service_model("sts").operation_model("AssumeRole")
    assert {shape.metadata["error"]["code"] for shape in model.error_shapes} <= {row.sign for row in CODES}


def test_no_row_is_there_twice_and_every_cause_is_short() -> None:
    for rows in (CODES, STATES, MESSAGES, EXCEPTIONS):
        assert len({(row.sign, row.when) for row in rows}) == len(rows)
        for row in rows:
            assert 5 < len(row.cause) <= 100, row
            assert "Exception" not in row.cause, row


def test_the_page_has_exactly_these_rows() -> None:
    others = (aws_errors.OTHER_CODE, aws_errors.OTHER_MESSAGE, aws_errors.OTHER_EXCEPTION)
    wanted = {line(row) for row in (*CODES, *STATES, *MESSAGES, *EXCEPTIONS, *others)}
    on_page = set(
        re.findall(r"(?m)^\| .* \| `(?:Key|Store|Ciphertext|Operation)\w+` \| .* \|$", PAGE.read_text("utf-8"))
    )
    assert on_page == wanted


def line(row: Row) -> str:
    sign = row.sign if row.sign.startswith("any other") else f"`{row.sign}`"
    return f"| {sign} | {row.when} | `{row.kind.__name__}` | {row.cause} |"
