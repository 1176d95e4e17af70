"""The places where keys are, and whose they are: each is one key's, and a wrapped key always tells which made it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from ownkey_server.domain.errors import ResourceInUse
from ownkey_server.domain.tenants import PROVIDER_KEY_NAME, Replica
from ownkey_server.keystores.aws.arn import ArnInvalid, KeyArn
from ownkey_server.storage.registry import Reader

AWS_KMS = "aws_kms"
NO_CANARIES: Mapping[str, tuple[str, ...]] = {}


class Places:
    """Whose place is whose.

    Args:
        kinds: The kind of each key store, by its name.
        canaries: The provider's own keys by which key stores in AWS KMS prove our identity, by the store's name.
    """

    def __init__(self, kinds: Mapping[str, str], canaries: Mapping[str, tuple[str, ...]] = NO_CANARIES) -> None:
        self._kinds = kinds
        self._canaries = {KeyArn.parse(arn).family: store for store, arns in canaries.items() for arn in arns}

    def require_free(self, reader: Reader, tenant: str, resource: str, place: Replica) -> None:
        """Make sure that a place is nobody's, and that a wrapped key will always tell which key made it.

        Raises:
            ResourceInUse: It is not so.
        """
        family = self.family(place)
        if family in self._canaries:
            raise ResourceInUse(
                resource,
                f"key {place.reference!r} is the provider's own, a canary key of key store"
                f" {self._canaries[family]!r} in the settings: it cannot be a customer's",
            )
        owner = reader.key_at(place) or self._owner_of_arn(reader, resource, place)
        if owner:
            mine = owner == resource or owner.startswith(f"tenants/{tenant}/")
            # Which other tenant's it is says who else there is.
            whose = f"is {owner}" if mine or owner == PROVIDER_KEY_NAME else "is not free"
            raise ResourceInUse(resource, f"key {place.reference!r} of key store {place.store!r} {whose}")
        provider = reader.key(PROVIDER_KEY_NAME)
        for other in (*reader.keys(tenant), *([provider] if provider else [])):
            for one in other.replicas:
                alike = one.place.reference == place.reference and self._kind(one.place) == self._kind(place)
                if alike and other.name != resource:
                    raise ResourceInUse(
                        resource,
                        f"{other.name} has the same reference {place.reference!r} in another key store of the same"
                        f" kind, so that a wrapped key would not tell which made it: give one another reference",
                    )

    def family(self, place: Replica) -> str:
        """What all names of the key at a place have in common: in AWS, related keys in whatever region and store."""
        if self._kind(place) == AWS_KMS:
            with contextlib.suppress(ArnInvalid):  # what is no ARN will not prove itself
                return KeyArn.parse(place.reference).family
        return f"{place.store}/{place.reference}"

    def _owner_of_arn(self, reader: Reader, resource: str, place: Replica) -> str | None:
        """Whose key an ARN is already: by another store, or as a related key of a multi-Region key.

        Several stores may be ways to one key in AWS, and related keys open each other's wrapped keys.
        """
        if self._kind(place) != AWS_KMS:
            return None
        try:
            arn = KeyArn.parse(place.reference)
        except ArnInvalid:
            return None  # it will not prove itself
        for owner, other in reader.places_called(f":{arn.account}:key/{arn.key_id}"):
            same = self._kind(other) == AWS_KMS and KeyArn.parse(other.reference).is_same_key(arn)
            if same and (owner != resource or other.reference == place.reference):
                return owner
        return None

    def _kind(self, place: Replica) -> str:
        return self._kinds.get(place.store, place.store)
