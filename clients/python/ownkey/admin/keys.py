"""Customer keys, and the branch keys under them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ownkey._requests import made
from ownkey.admin._calls import AdminCalls
from ownkey.v1 import admin_service_pb2 as pb
from ownkey.v1 import (
    branch_key_pb2,
    customer_key_pb2,
)


class KeyCalls(AdminCalls):
    """Customer keys, and the branch keys under them."""

    def enrol_key(
        self, tenant: str, key: str, key_store: str, reference: str, *, reason: str = ""
    ) -> customer_key_pb2.CustomerKey:
        """Add a key by its primary place, once it has proved that it wraps and unwraps."""
        place = made(customer_key_pb2.KeyPlace, key_store=key_store, reference=reference)
        request = made(pb.EnrolKeyRequest, tenant=tenant, key=key, primary=place, note=self._note(reason))
        return self._call(self._stub.EnrolKey, request).key

    def get_key(self, tenant: str, key: str) -> customer_key_pb2.CustomerKey:
        """A key."""
        return self._call(self._stub.GetKey, made(pb.GetKeyRequest, tenant=tenant, key=key)).key

    def list_keys(self, tenant: str) -> Sequence[customer_key_pb2.CustomerKey]:
        """All keys of a tenant by name, removed ones too."""
        return self._call(self._stub.ListKeys, made(pb.ListKeysRequest, tenant=tenant)).keys

    def add_key_replica(
        self, tenant: str, key: str, etag: str, key_store: str, reference: str, *, reason: str = ""
    ) -> customer_key_pb2.CustomerKey:
        """Add another place where the very same key can be used."""
        place = made(customer_key_pb2.KeyPlace, key_store=key_store, reference=reference)
        request = made(
            pb.AddKeyReplicaRequest, tenant=tenant, key=key, etag=etag, replica=place, note=self._note(reason)
        )
        return self._call(self._stub.AddKeyReplica, request).key

    def remove_key_replica(
        self, tenant: str, key: str, etag: str, key_store: str, *, reason: str = ""
    ) -> customer_key_pb2.CustomerKey:
        """Take a place away from a key.

        Args:
            tenant: Id of the tenant.
            key: Id of the key.
            etag: Of the key, as it was read.
            key_store: Name of the place, as the status tells it: ``hsm``, or ``aws/eu-west-1`` for an ARN.
            reason: Why, for the audit trail.
        """
        note = self._note(reason)
        request = made(pb.RemoveKeyReplicaRequest, tenant=tenant, key=key, etag=etag, key_store=key_store, note=note)
        return self._call(self._stub.RemoveKeyReplica, request).key

    def activate_key(self, tenant: str, key: str, etag: str, *, reason: str = "") -> customer_key_pb2.CustomerKey:
        """Try a key anew, and let it wrap again."""
        request = made(pb.ActivateKeyRequest, tenant=tenant, key=key, etag=etag, note=self._note(reason))
        return self._call(self._stub.ActivateKey, request).key

    def retire_key(self, tenant: str, key: str, etag: str, *, reason: str = "") -> customer_key_pb2.CustomerKey:
        """Let a key open what it has wrapped, and wrap nothing more."""
        request = made(pb.RetireKeyRequest, tenant=tenant, key=key, etag=etag, note=self._note(reason))
        return self._call(self._stub.RetireKey, request).key

    def remove_key(
        self, tenant: str, key: str, etag: str, *, abandon_branch_keys: bool = False, reason: str = ""
    ) -> customer_key_pb2.CustomerKey:
        """Let go of a retired key: nothing that it wrapped can be opened any more.

        With branch keys under it, that is refused, unless what these wrapped is to be given up.
        """
        request = made(
            pb.RemoveKeyRequest,
            tenant=tenant,
            key=key,
            etag=etag,
            abandon_branch_keys=abandon_branch_keys,
            note=self._note(reason),
        )
        return self._call(self._stub.RemoveKey, request).key

    def rotate_branch_key(self, tenant: str, key: str, *, reason: str = "") -> branch_key_pb2.BranchKey:
        """Make a new branch key under a key, or under ``provider_key``; the one before wraps no more."""
        request = made(pb.RotateBranchKeyRequest, tenant=tenant, key=key, note=self._note(reason))
        return self._call(self._stub.RotateBranchKey, request).branch_key

    def list_branch_keys(self, tenant: str, key: str = "") -> Iterator[branch_key_pb2.BranchKey]:
        """A tenant's branch keys, wrapped: all, or those under one key."""
        for page in self._pages(self._stub.ListBranchKeys, made(pb.ListBranchKeysRequest, tenant=tenant, key=key)):
            yield from page.branch_keys

    def rewrap_branch_keys(
        self, tenant: str, from_key: str, to_key: str, *, most: int = 0, reason: str = ""
    ) -> pb.RewrapBranchKeysResponse:
        """Move some branch keys from one key to another; to be called again while any remain. 0 means 20 at a time."""
        request = made(
            pb.RewrapBranchKeysRequest,
            tenant=tenant,
            from_key=from_key,
            to_key=to_key,
            max_count=most,
            note=self._note(reason),
        )
        return self._call(self._stub.RewrapBranchKeys, request)
