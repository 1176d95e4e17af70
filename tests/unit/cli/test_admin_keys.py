"""How a key's places are named on the command line."""

from __future__ import annotations

import pytest

from ownkey.cli.admin_keys import _place_called
from ownkey.cli.output import NOT_FOUND, Failure
from ownkey.v1 import customer_key_pb2
from ownkey_server.domain.tenants import place_name

ARN = "arn:aws:kms:{}:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
PLACES = [("aws", ARN.format("eu-west-1")), ("aws", ARN.format("us-east-1")), ("hsm", "acme-main"), ("odd", "arn:x")]


@pytest.fixture
def key() -> customer_key_pb2.CustomerKey:
    places = [customer_key_pb2.KeyPlace(key_store=store, reference=reference) for store, reference in PLACES]
    replicas = [customer_key_pb2.KeyReplica(place=place) for place in places]
    return customer_key_pb2.CustomerKey(name="tenants/acme/keys/main", replicas=replicas)


def test_a_reference_is_found_under_the_name_that_the_service_knows(key: customer_key_pb2.CustomerKey) -> None:
    for store, reference in PLACES:
        name = place_name(store, reference)
        assert {_place_called(key, one, reference) for one in (store, name)} == {name}


@pytest.mark.parametrize("store", ["aws/us-east-1", "hsm"])
def test_what_is_not_there_ends_with_the_places_that_are(key: customer_key_pb2.CustomerKey, store: str) -> None:
    with pytest.raises(Failure, match="is not called") as caught:
        _place_called(key, store, ARN.format("eu-west-1"))
    assert caught.value.exit_code == NOT_FOUND
    assert all(f"{one}/{reference}" in caught.value.hint for one, reference in PLACES)
