"""One key in AWS is one customer key's, however many stores are ways to it, and with all keys related to it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace
from typing import cast

import pytest

from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import ResourceInUse
from ownkey_server.domain.tenants import KeyLifecycle, Replica, key_name
from ownkey_server.service.administration.desk import Desk
from ownkey_server.service.administration.edits import Edits
from ownkey_server.service.administration.enrolment import Enrolment
from ownkey_server.service.administration.keys import Keys
from ownkey_server.service.administration.places import Places
from ownkey_server.storage import tenants_file
from ownkey_server.storage.database import Database
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.registry import Change, Reader

SINGLE = "arn:aws:kms:{}:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
RELATED = "arn:aws:kms:{}:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
OURS = "arn:aws:kms:eu-west-1:999988887777:key/1234abcd-12ab-34cd-56ef-0123456789ab"
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
    Places(KINDS).require_free(cast("Reader", registry), tenant, key_name(tenant, key), place)


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


@pytest.mark.parametrize("store", ["one", "two"])
@pytest.mark.parametrize("region", ["eu-west-1", "us-east-1"])
def test_the_providers_canary_is_no_customers_key(store: str, region: str) -> None:
    places = Places(KINDS, {"two": (OURS, RELATED.format("eu-west-1"))})
    place = Replica(store, RELATED.format(region))
    with pytest.raises(ResourceInUse, match="a canary key of key store 'two'"):
        places.require_free(cast("Reader", Registry()), "acme", key_name("acme", "main"), place)
    other = Replica(store, SINGLE.format(region))
    places.require_free(cast("Reader", Registry()), "acme", key_name("acme", "main"), other)


def test_of_two_who_enrol_related_keys_at_the_same_moment_one_does(database: Database) -> None:
    """Each change takes its turn before it looks, on whatever instance: here two connections of one database."""
    places = Places(KINDS)
    begun = Barrier(2)

    def enrol(tenant: str, region: str) -> str:
        with database.writing() as connection:
            Change(connection, system_clock()).insert_tenant(tenant, "", system_clock(), CallGateTable())
        begun.wait(20)
        place = Replica("one", RELATED.format(region))
        try:
            with database.writing() as connection:
                change = Change(connection, system_clock())
                places.require_free(change, tenant, key_name(tenant, "main"), place)
                change.insert_key(key_name(tenant, "main"), tenant, KeyLifecycle.ACTIVE, [place], system_clock())
        except ResourceInUse as error:
            return str(error)
        return "enrolled"

    with ThreadPoolExecutor(2) as threads:
        told = list(threads.map(enrol, ("acme", "umbrella"), ("eu-west-1", "us-east-1")))
    assert sorted(one == "enrolled" for one in told) == [False, True], told
    assert any("is not free" in one for one in told)


class TestOneDocument:
    """What the registry cannot tell, for it comes all at once."""

    @staticmethod
    def document(*keys: str, provider: str = "hsm/provider") -> str:
        """Keys as ``TENANT KEY PLACE...``, each place as ``STORE/REFERENCE``."""

        def place(text: str) -> str:
            store, _, reference = text.partition("/")
            return f'key_store = "{store}"\nreference = "{reference}"\n'

        text = f"[provider_key]\n{place(provider)}"
        tenants: dict[str, str] = {}
        for line in keys:
            tenant, key, first, *others = line.split()
            replicas = ", ".join("{ " + place(one).replace("\n", ", ")[:-2] + " }" for one in others)
            tenants[tenant] = tenants.get(tenant, "") + (
                f'[[tenants.keys]]\nid = "{key}"\n{place(first)}replicas = [{replicas}]\n'
            )
        for tenant, parts in tenants.items():
            text += f'[[tenants]]\nid = "{tenant}"\nenrolled_at = 2026-01-01T00:00:00Z\n{parts}'
        return text

    @staticmethod
    def edits(database: Database, document: str) -> list[str]:
        keys = Keys(cast("Desk", None), cast("Enrolment", None), KINDS)
        wanted = tenants_file.parse(document, "document", KINDS)
        with database.reading() as connection:
            return [edit.step.resource for edit in Edits(keys, system_clock).between(Reader(connection), wanted)]

    EU, US = RELATED.format("eu-west-1"), RELATED.format("us-east-1")

    @pytest.mark.parametrize(
        ("keys", "provider"),
        [
            ((f"acme main one/{EU}", f"umbrella main one/{US}"), "hsm/provider"),
            ((f"acme main one/{EU}", f"umbrella main two/{US}"), "hsm/provider"),
            ((f"acme main one/{EU}", f"umbrella main two/{EU}"), "hsm/provider"),
            ((f"acme main one/{EU}", f"acme other one/{US}"), "hsm/provider"),
            ((f"acme main one/{EU}", f"acme other one/{SINGLE.format('eu-west-1')} one/{US}"), "hsm/provider"),
            ((f"acme main one/{US}",), f"one/{EU}"),
        ],
    )
    def test_one_key_under_two_names_is_refused(self, database: Database, keys: list[str], provider: str) -> None:
        with pytest.raises(ResourceInUse, match="in this document too"):
            self.edits(database, self.document(*keys, provider=provider))

    def test_one_key_by_two_stores_is_no_replica(self, database: Database) -> None:
        with pytest.raises(ResourceInUse, match="by two key stores"):
            self.edits(database, self.document(f"acme main one/{self.EU} two/{self.EU}"))

    def test_related_keys_of_one_customer_key_are_its_places(self, database: Database) -> None:
        document = self.document(
            f"acme main one/{self.EU} one/{self.US}", f"umbrella main one/{SINGLE.format('eu-west-1')}"
        )
        assert "tenants/acme/keys/main" in self.edits(database, document)
