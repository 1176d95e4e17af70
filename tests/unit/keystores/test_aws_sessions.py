"""Sessions of a role, on a clock of their own: who asks for one, who waits, and when one is given up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import EndpointConnectionError

from ownkey_server.keystores.aws.roles import AssumedRole, RoleSession
from support.fake_kms import ACCOUNT
from support.key_stores import TIMEOUT


class Sts:
    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0
        self.error: Exception | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.waiting: list[Callable[[], None]] = []

    def assume(self) -> dict[str, Any]:
        self.asked += 1
        number = self.asked
        assert self.may_answer.wait(TIMEOUT)
        if self.error is not None:
            raise self.error
        until = self.now + 900
        return {"AccessKeyId": f"key-{number}", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": until}

    def role(self) -> AssumedRole:
        return AssumedRole(self.assume, self.waiting.append, lambda: self.now)


OUTAGE = EndpointConnectionError(endpoint_url="https://sts")


def credentials(role: AssumedRole, wait: float = TIMEOUT, *, withdrawn: bool = False) -> ReadOnlyCredentials:
    return role.credentials(wait, lambda error: withdrawn)


def test_a_session_is_renewed_in_the_background_and_once() -> None:
    sts = Sts()
    role = sts.role()
    assert credentials(role).access_key == "key-1"
    sts.now += 599
    credentials(role)
    assert not sts.waiting
    sts.now += 2
    for _ in range(5):
        assert credentials(role).access_key == "key-1"
    [renew] = sts.waiting
    renew()
    assert credentials(role).access_key == "key-2"


def test_while_renewing_fails_the_old_session_serves_until_it_ends() -> None:
    sts = Sts()
    role = sts.role()
    credentials(role)
    sts.error = OUTAGE
    sts.now += 700
    for _ in range(3):
        assert credentials(role).access_key == "key-1"
    sts.waiting.pop()()
    credentials(role)
    assert not sts.waiting  # not at every call
    sts.now += 11
    credentials(role)
    sts.waiting.pop()()
    sts.now += 300
    with pytest.raises(EndpointConnectionError):
        credentials(role)
    sts.error = None
    assert credentials(role).access_key.startswith("key-")


def test_a_session_whose_renewal_the_customer_refuses_is_given_up() -> None:
    sts = Sts()
    role = sts.role()
    credentials(role)
    sts.error = OUTAGE
    sts.now += 601
    assert credentials(role, withdrawn=True).access_key == "key-1"
    sts.waiting.pop()()
    with pytest.raises(EndpointConnectionError):
        credentials(role)


def test_one_asks_sts_for_all_and_each_waits_for_no_longer_than_it_can() -> None:
    sts = Sts()
    role = sts.role()
    sts.may_answer.clear()
    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(credentials, role)
        while not sts.asked:
            threading.Event().wait(0.001)
        hasty = [threads.submit(credentials, role, 0.01) for _ in range(4)]
        patient = [threads.submit(credentials, role) for _ in range(4)]
        for one in hasty:
            with pytest.raises(TimeoutError):
                one.result(TIMEOUT)
        assert not first.done()
        sts.may_answer.set()
        assert {one.result(TIMEOUT).access_key for one in [first, *patient]} == {"key-1"}
    assert sts.asked == 1


def test_what_sts_refuses_is_told_to_all_who_wait_and_asked_anew_by_the_next() -> None:
    sts = Sts()
    role = sts.role()
    sts.error = OUTAGE
    sts.may_answer.clear()
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(credentials, role) for _ in range(2)]
        while not sts.asked:
            threading.Event().wait(0.001)
        sts.may_answer.set()
        for one in both:
            with pytest.raises(EndpointConnectionError):
                one.result(TIMEOUT)
    sts.error = None
    assert credentials(role).access_key.startswith("key-")


def test_refused_credentials_are_forgotten_and_newer_ones_kept() -> None:
    sts = Sts()
    role = sts.role()
    old = credentials(role)
    role.forget(old)
    new = credentials(role)
    role.forget(old)
    assert credentials(role) is new


@pytest.mark.parametrize("tenant", ["acme", "a" * 63, "t.1_x"])
def test_what_is_asked_for_is_what_sts_allows(tenant: str) -> None:
    session = RoleSession.of_tenant(
        tenant, partition="aws-us-gov", account=ACCOUNT, role_name="x/ownkey", prefix="p", tags=True
    )
    request = session.request()
    assert request["RoleArn"] == f"arn:aws-us-gov:iam::{ACCOUNT}:role/x/ownkey"
    assert request["ExternalId"] == f"p-{tenant}"
    assert len(request["RoleSessionName"]) <= 64
    assert request["Tags"] == [{"Key": "ownkey:tenant", "Value": tenant}]
