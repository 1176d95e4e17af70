"""What has worked is known of who we were then: a mistake of our own in who we are takes no key from its holder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ownkey_server.domain.errors import KeyMisconfigured, KeyRevoked
from ownkey_server.keystores.aws.arn import KeyArn
from ownkey_server.keystores.aws.history import MOST_UNNAMED, RETRY_SECONDS, History
from ownkey_server.keystores.aws.principal import Principal
from ownkey_server.keystores.first_uses import FirstUsesHere
from support.aws_subjects import use
from support.fake_kms import ACCOUNT, PROVIDER, FakeKms
from support.key_stores import CONTEXT, TIMEOUT, until

ROLE = f"arn:aws:iam::{ACCOUNT}:role/ownkey"
CANARY_ROLE = "arn:aws:iam::999988887777:role/ownkey-canary"
OTHER_USER = "arn:aws:iam::999988887777:user/ownkey-two"
NOT_YET = "has not worked here yet"


def trust(external_id: str, *actions: str, principal: str = PROVIDER) -> dict[str, Any]:
    condition = {"StringEquals": {"sts:ExternalId": external_id}}
    allow = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": list(actions), "Condition": condition}
    return {"Statement": [allow]}


BOTH = ("sts:AssumeRole", "sts:TagSession")
BY_ROLE: dict[str, Any] = {"role_name": "ownkey", "canary_role": CANARY_ROLE}


@pytest.fixture
def uses(kms: FakeKms) -> FirstUsesHere:
    """What all stores of a test remember together, as instances do; the canaries take us however we come."""
    kms.create_role(CANARY_ROLE, {"Statement": [{"Effect": "Allow", "Action": "sts:*"}]})
    return FirstUsesHere()


@pytest.mark.parametrize(
    ("before", "after", "actions"),
    [
        ({}, {"role_name": "ownkey-v2"}, BOTH),
        ({}, {"external_id_prefix": "corp"}, BOTH),
        ({"session_tags": False}, {"session_tags": True}, BOTH[:1]),
    ],
    ids=["another role", "another external id", "tags"],
)
async def test_a_role_that_we_ask_for_otherwise_than_when_it_worked_was_not_taken_away(
    kms: FakeKms, open_aws, uses: FirstUsesHere, before: dict[str, Any], after: dict[str, Any], actions: tuple[str, ...]
) -> None:
    key = kms.create_key()
    kms.create_role(ROLE, trust("ownkey-acme", *actions))
    await use(open_aws(uses=uses, **BY_ROLE, **before).for_tenant("acme"), key)
    changed = open_aws(uses=uses, **BY_ROLE | after).for_tenant("acme")
    with pytest.raises(KeyMisconfigured, match=NOT_YET):
        await changed.generate_data_key(key, CONTEXT, TIMEOUT)
    kms.create_role(ROLE, {"Statement": []})
    with pytest.raises(KeyRevoked):
        await open_aws(uses=uses, **BY_ROLE, **before).for_tenant("acme").generate_data_key(key, CONTEXT, TIMEOUT)


async def test_a_key_that_worked_by_its_policy_was_not_taken_from_a_role(
    kms: FakeKms, open_aws, uses: FirstUsesHere
) -> None:
    key = kms.create_key()
    await use(open_aws(uses=uses).for_tenant("acme"), key)
    store = open_aws(uses=uses, **BY_ROLE).for_tenant("acme")
    with pytest.raises(KeyMisconfigured, match=NOT_YET):  # there is no such role
        await store.generate_data_key(key, CONTEXT, TIMEOUT)


@pytest.mark.parametrize("by_role", [False, True], ids=["by key policy", "by role"])
async def test_what_was_given_to_one_principal_of_ours_was_not_taken_from_another(
    kms: FakeKms, open_aws, uses: FirstUsesHere, monkeypatch: pytest.MonkeyPatch, by_role: bool
) -> None:
    key = kms.create_key()
    options = BY_ROLE if by_role else {"canary_key": kms.create_key()}
    kms.create_role(ROLE, trust("ownkey-acme", *BOTH))
    if not by_role:
        allow = {"Effect": "Allow", "Principal": {"AWS": PROVIDER}, "Action": "kms:*", "Resource": "*"}
        kms.set_policy(key, {"Statement": [allow]})
    first = open_aws(uses=uses, **options).for_tenant("acme")
    await use(first, key)
    access_key, secret = kms.user(OTHER_USER)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with pytest.raises(KeyMisconfigured, match=NOT_YET):
        await open_aws(uses=uses, **options).for_tenant("acme").generate_data_key(key, CONTEXT, TIMEOUT)
    kms.expire_sessions()
    kms.create_role(ROLE, {"Statement": []})
    kms.set_policy(key, {"Statement": []})

    async def told() -> bool:
        try:
            await first.generate_data_key(key, CONTEXT, TIMEOUT)
        except KeyRevoked:
            return True
        except KeyMisconfigured:
            return False
        pytest.fail("it was served")

    await until(told)  # the first principal's own use was written down when STS had said who that is


async def test_who_we_are_is_asked_once_and_off_the_way_of_calls(kms: FakeKms, open_aws) -> None:
    key, store = kms.create_key(), open_aws().for_tenant("acme")
    for _ in range(5):
        await use(store, key)

    async def asked() -> bool:
        return kms.counts["GetCallerIdentity"] > 0

    await until(asked)
    for _ in range(5):
        await use(store, key)
    assert kms.counts["GetCallerIdentity"] == 1


async def test_where_it_is_not_known_who_we_are_a_denial_is_no_revocation(kms: FakeKms, open_aws) -> None:
    key = kms.create_key()
    store = open_aws(canary_key=kms.create_key(), sts_endpoint_url="http://127.0.0.1:1").for_tenant("acme")
    await use(store, key)
    kms.set_policy(key, {"Statement": []})
    with pytest.raises(KeyMisconfigured, match=NOT_YET):
        await store.generate_data_key(key, CONTEXT, TIMEOUT)


class Ourselves:
    """Our credentials, and who STS says that they are."""

    def __init__(self) -> None:
        self.access_key = "A"
        self.callers = {"A": "arn:aws:sts::1:assumed-role/one/s-1", "B": "arn:aws:sts::1:assumed-role/two/s-2"}
        self.asked = 0
        self.while_asking: Callable[[], None] = lambda: None
        self.now = 0.0
        self.later: list[Callable[[], None]] = []
        self.principal = Principal(lambda: self.access_key, self.ask)

    def ask(self, region: str) -> str | None:
        self.asked += 1
        caller = self.callers.get(self.access_key)
        self.while_asking()
        return caller

    def history(self, uses: FirstUsesHere) -> History:
        return History("aws", uses, self.principal, lambda tenant, key: "", self.later.append, lambda: self.now)


KEY = KeyArn("aws", "eu-west-1", ACCOUNT, "1234abcd-12ab-34cd-56ef-1234567890ab")


def test_a_principal_is_the_role_without_the_session_and_other_credentials_are_asked_for_anew() -> None:
    we = Ourselves()
    assert we.principal.known() is None
    assert we.principal.within("eu-west-1", TIMEOUT) == we.principal.known() == "arn:aws:iam::1:role/one"
    we.access_key = "B"
    assert we.principal.known() is None
    assert we.principal.within("eu-west-1", TIMEOUT) == "arn:aws:iam::1:role/two"


def test_credentials_that_change_while_sts_is_asked_are_not_taken_for_those_before() -> None:
    we = Ourselves()
    we.while_asking = lambda: setattr(we, "access_key", "B")
    assert we.principal.within("eu-west-1", TIMEOUT) is None
    assert we.principal.known() is None


def test_a_use_is_written_for_the_credentials_by_which_it_was() -> None:
    we, uses = Ourselves(), FirstUsesHere()
    history = we.history(uses)
    history.worked("acme", KEY)
    we.access_key = "B"
    history.worked("umbrella", KEY)
    [name] = we.later  # one asks for all
    name()
    assert history.has_worked("umbrella", KEY, TIMEOUT)
    assert not history.has_worked("acme", KEY, TIMEOUT)


def test_while_sts_is_away_it_is_asked_now_and_then_and_not_without_end_is_kept() -> None:
    we, uses = Ourselves(), FirstUsesHere()
    history, callers = we.history(uses), we.callers
    we.callers = {}
    for number in range(MOST_UNNAMED + 10):
        history.worked(f"t{number}", KEY)
    we.later.pop()()
    history.worked("acme", KEY)
    assert not we.later
    assert history.unnamed == MOST_UNNAMED
    we.now += RETRY_SECONDS
    we.callers = callers
    history.worked("acme", KEY)
    we.later.pop()()
    assert history.unnamed == 0
    assert history.has_worked("t0", KEY, TIMEOUT)
