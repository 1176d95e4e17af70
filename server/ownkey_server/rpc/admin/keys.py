"""Customer keys, their places, and branch keys."""

from __future__ import annotations

from google.protobuf.message import Message

from ownkey.v1 import admin_service_pb2 as pb
from ownkey_server.rpc import admin_convert, page_tokens, pages
from ownkey_server.rpc.admin.services import Room
from ownkey_server.rpc.calls import Call

REWRAPPED_AT_ONCE = 20
"""How many branch keys one call moves when the request does not say: each asks two key stores."""


class KeyRoom(Room):
    """Customer keys, their places, and branch keys."""

    async def EnrolKey(self, request: pb.EnrolKeyRequest, call: Call) -> Message:
        """Add a key that works."""
        act = call.act(request)
        place = admin_convert.place(request.primary)
        made = await self._services.keys.enrol(act, request.tenant, request.key, place)
        return pb.EnrolKeyResponse(key=admin_convert.key(made))

    async def GetKey(self, request: pb.GetKeyRequest, _call: Call) -> Message:
        """Tell of a key."""
        found = await self._services.keys.get(request.tenant, request.key)
        return pb.GetKeyResponse(key=admin_convert.key(found))

    async def ListKeys(self, request: pb.ListKeysRequest, _call: Call) -> Message:
        """List a tenant's keys."""
        found = await self._services.keys.list(request.tenant)
        return pb.ListKeysResponse(keys=map(admin_convert.key, found))

    async def AddKeyReplica(self, request: pb.AddKeyReplicaRequest, call: Call) -> Message:
        """Add a place of a key."""
        act = call.act(request)
        place = admin_convert.place(request.replica)
        changed = await self._services.keys.add_replica(act, request.tenant, request.key, request.etag, place)
        return pb.AddKeyReplicaResponse(key=admin_convert.key(changed))

    async def RemoveKeyReplica(self, request: pb.RemoveKeyReplicaRequest, call: Call) -> Message:
        """Take a place away from a key."""
        act = call.act(request)
        store = request.key_store
        changed = await self._services.keys.remove_replica(act, request.tenant, request.key, request.etag, store)
        return pb.RemoveKeyReplicaResponse(key=admin_convert.key(changed))

    async def ActivateKey(self, request: pb.ActivateKeyRequest, call: Call) -> Message:
        """Let a key wrap again."""
        act = call.act(request)
        changed = await self._services.keys.activate(act, request.tenant, request.key, request.etag)
        return pb.ActivateKeyResponse(key=admin_convert.key(changed))

    async def RetireKey(self, request: pb.RetireKeyRequest, call: Call) -> Message:
        """Let a key open alone."""
        act = call.act(request)
        changed = await self._services.keys.retire(act, request.tenant, request.key, request.etag)
        return pb.RetireKeyResponse(key=admin_convert.key(changed))

    async def RemoveKey(self, request: pb.RemoveKeyRequest, call: Call) -> Message:
        """Let go of a key."""
        act = call.act(request)
        abandon = request.abandon_branch_keys
        changed = await self._services.keys.remove(
            act, request.tenant, request.key, request.etag, abandon_branch_keys=abandon
        )
        return pb.RemoveKeyResponse(key=admin_convert.key(changed))

    async def RotateBranchKey(self, request: pb.RotateBranchKeyRequest, call: Call) -> Message:
        """Make a new branch key."""
        made = await self._services.branch_keys.rotate(call.act(request), request.tenant, request.key)
        return pb.RotateBranchKeyResponse(branch_key=admin_convert.branch_key(made))

    async def ListBranchKeys(self, request: pb.ListBranchKeysRequest, _call: Call) -> Message:
        """List branch keys, wrapped."""
        size, after = page_tokens.page_size(request), page_tokens.decode(request, str, "")
        found = await self._services.branch_keys.list(request.tenant, request.key, after, size + 1)
        page = pages.cut(map(admin_convert.branch_key, found), size)
        more = page_tokens.encode(request, page[-1].id) if len(page) < len(found) else ""
        return pb.ListBranchKeysResponse(branch_keys=page, next_page_token=more)

    async def RewrapBranchKeys(self, request: pb.RewrapBranchKeysRequest, call: Call) -> Message:
        """Move branch keys to another key."""
        most = request.max_count or REWRAPPED_AT_ONCE
        moved = await self._services.branch_keys.rewrap(
            call.act(request), request.tenant, request.from_key, request.to_key, most
        )
        return pb.RewrapBranchKeysResponse(rewrapped=moved.rewrapped, remaining=moved.remaining)
