"""One key in AWS is one customer key's, however many stores are ways to it, and with all keys related to it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from ownkey_server.domain.errors import ResourceInUse
from ownkey_server.domain.tenants import Replica, key_name
from ownkey_server.service.administration.desk import Desk
from ownkey_server.service.administration.enrolment import Enrolment
from ownkey_server.service.administration.keys import Keys
from ownkey_server.storage.registry import Reader

SINGLE = "arn:aws:kms:{}:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
RELATED = "arn:aws:kms:{}:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
KINDS = {"one": "aws_kms", "two": "aws_kms", "hsm": "pkcs11"}


class Registry:
    """What is enrolled, as the registry's reader tells it."""

    def __init__(self, **enrolled: Replica) -> None:
        self._enrolled = {key_name(tenant, "main"): place for tenant, place in enrolled.items()}

    def key_at(self, place: Replica) -> str | None:
        return next((key for key, other in self._enrolled.items() if other == place), None)

    def places_called(self, ending: str) -> list[tuple[str, Replica]]:
        return [(key, place) for key, place in self._enrolled.items() if place.reference.endswith(ending)]

    def key(self, name: str) -> None:
        return None

    def keys(self, tenant: str) -> list[object]:
        mine = [(key, place) for key, place in self._enrolled.items() if key.startswith(f"tenants/{tenant}/")]
        return [SimpleNamespace(name=key, replicas=[SimpleNamespace(place=place)]) for key, place in mine]


def require_free(registry: Registry, tenant: str, key: str, place: Replica) -> None:
    keys = Keys(cast("Desk", None), cast("Enrolment", None), KINDS)
    keys.require_free(cast("Reader", registry), tenant, key_name(tenant, key), place)


@pytest.mark.parametrize(
    ("taken", "wanted"),
    [
        (SINGLE.format("eu-west-1"), SINGLE.format("eu-west-1")),
        (RELATED.format("eu-west-1"), RELATED.format("eu-west-1")),
        (RELATED.format("eu-west-1"), RELATED.format("us-east-1")),
    ],
)
@pytest.mark.parametrize("store", ["one", "two"])
def test_anothers_key_is_taken_by_whatever_store_and_region(taken: str, wanted: str, store: str) -> None:
    registry = Registry(acme=Replica("one", taken))
    with pytest.raises(ResourceInUse, match="is not free") as caught:
        require_free(registry, "umbrella", "main", Replica(store, wanted))
    assert "acme" not in str(caught.value)
    with pytest.raises(ResourceInUse, match="tenants/acme/keys/main"):
        require_free(registry, "acme", "other", Replica(store, wanted))


def test_a_related_key_is_another_place_of_the_same_customer_key() -> None:
    registry = Registry(acme=Replica("one", RELATED.format("eu-west-1")))
    require_free(registry, "acme", "main", Replica("one", RELATED.format("us-east-1")))
    with pytest.raises(ResourceInUse):
        require_free(registry, "acme", "main", Replica("two", RELATED.format("eu-west-1")))


def test_what_only_looks_alike_is_free() -> None:
    registry = Registry(acme=Replica("one", SINGLE.format("eu-west-1")))
    require_free(registry, "umbrella", "main", Replica("one", SINGLE.format("us-east-1")))  # ids are a region's own
    other_account = SINGLE.format("eu-west-1").replace("111122223333", "444455556666")
    require_free(registry, "umbrella", "main", Replica("one", other_account))
    require_free(registry, "umbrella", "main", Replica("one", "no ARN"))
    require_free(registry, "umbrella", "main", Replica("hsm", SINGLE.format("eu-west-1")))
