"""The provider's own keys that prove our identity: each speaks for its own region, and for what was denied before."""

from __future__ import annotations

import pytest

from ownkey_server.domain.errors import KeyMisconfigured, KeyRevoked
from ownkey_server.keystores.aws.canaries import Canary
from ownkey_server.keystores.aws.errors import When
from support.aws_subjects import until_named, use
from support.fake_kms import FakeKms
from support.key_stores import CONTEXT, TIMEOUT

EUROPE, AMERICA = "eu-west-1", "us-east-1"


@pytest.mark.parametrize("operation", ["*", "GenerateDataKey"])
async def test_a_canary_in_another_region_proves_nothing_of_a_region_that_we_are_kept_out_of(
    kms: FakeKms, open_aws, operation: str
) -> None:
    key, canary = kms.create_key(AMERICA), kms.create_key(EUROPE)
    store = open_aws(canary_key=canary).for_tenant("acme")
    await use(store, key)
    await until_named(kms)
    kms.fail(operation, "AccessDeniedException", region=AMERICA)  # as by a condition on aws:RequestedRegion
    with pytest.raises(KeyMisconfigured, match=r"a canary key in its region \(canary_keys\) tells"):
        await store.generate_data_key(key, CONTEXT, TIMEOUT)
    assert not [call for call in kms.calls if call.key == canary]


async def test_each_region_is_measured_by_a_canary_of_its_own(kms: FakeKms, open_aws) -> None:
    canaries = {region: kms.create_key(region) for region in (EUROPE, AMERICA)}
    keys = {region: kms.create_key(region) for region in (EUROPE, AMERICA)}
    store = open_aws(canary_keys=tuple(canaries.values())).for_tenant("acme")
    for key in keys.values():
        await use(store, key)
    await until_named(kms)
    kms.fail("*", "AccessDeniedException", region=AMERICA)
    kms.set_policy(keys[EUROPE], {"Statement": []})
    with pytest.raises(KeyMisconfigured, match="canary key does not work either"):
        await store.generate_data_key(keys[AMERICA], CONTEXT, TIMEOUT)
    with pytest.raises(KeyRevoked):
        await store.generate_data_key(keys[EUROPE], CONTEXT, TIMEOUT)


async def test_one_canary_key_and_more_go_together(kms: FakeKms, open_aws) -> None:
    here, there = kms.create_key(EUROPE), kms.create_key(AMERICA)
    store = open_aws(canary_key=here, canary_keys=(there,)).for_tenant("acme")
    for region in (EUROPE, AMERICA):
        key = kms.create_key(region)
        await use(store, key)
        kms.set_policy(key, {"Statement": []})
        with pytest.raises(KeyRevoked):
            await store.generate_data_key(key, CONTEXT, TIMEOUT)


def test_what_a_canary_showed_before_does_not_stand_when_asking_it_broke_off() -> None:
    now, broken = [0.0], [False]

    def ask() -> None:
        if broken[0]:
            raise KeyError("Credentials")

    canary = Canary(ask, lambda: now[0])
    now[0] = 1.0
    assert canary.since(0.5, TIMEOUT) is When.CANARY_WORKS
    now[0], broken[0] = 3.0, True
    with pytest.raises(KeyError):
        canary.since(2.0, TIMEOUT)
    assert canary.since(2.0, TIMEOUT) is When.CANARY_SILENT  # as it is for whoever waited meanwhile


@pytest.mark.parametrize(
    ("canaries", "missing"), [((EUROPE,), AMERICA), ((EUROPE, AMERICA), None), ((), None)], ids=["one", "all", "none"]
)
def test_a_region_without_a_canary_is_told_when_the_store_opens(
    kms: FakeKms, open_aws, caplog: pytest.LogCaptureFixture, canaries: tuple[str, ...], missing: str | None
) -> None:
    open_aws(regions=(EUROPE, AMERICA), canary_keys=tuple(kms.create_key(region) for region in canaries))
    told = [record.getMessage() for record in caplog.records if "canary key" in record.getMessage()]
    expected = f"key store aws has no canary key in {missing}: no denied use of a key counts as a revocation there"
    assert told == ([expected] if missing else [])
