"""A call that was let in: who makes it, and what it was allowed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message

from ownkey.v1 import change_note_pb2
from ownkey_server.domain.audit import Caller
from ownkey_server.domain.roles import Permit
from ownkey_server.service.administration.desk import Act

Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Call:
    """What a method knows of its caller.

    Attributes:
        context: The call as the transport has it.
        method: The method's name.
        principal: Who calls.
        permit: What the caller was allowed to see.
        background: Whether nobody waits for the answer.
    """

    context: Context
    method: str
    principal: str
    permit: Permit
    background: bool = False

    def caller(self, request_id: str) -> Caller:
        """Who calls, for the audit trail."""
        return Caller(self.principal, self.context.peer(), request_id, self.background)

    def act(self, request: Message) -> Act:
        """Who changes something by this request, why, and which request it is."""
        note: change_note_pb2.ChangeNote = request.note  # type: ignore[attr-defined]
        plain = type(request)()
        plain.CopyFrom(request)
        # Of the note counts what a second person is shown; with another reason it is another change.
        plain.ClearField("note")
        plain.note.author, plain.note.reason = note.author, note.reason  # type: ignore[attr-defined]
        # What an etag says of things as they were, the approved change itself says: an approval moves etags on.
        if "etag" in plain.DESCRIPTOR.fields_by_name:
            plain.ClearField("etag")
        digest = hashlib.sha256(self.method.encode() + b"\0" + plain.SerializeToString(deterministic=True)).digest()
        return Act(self.caller(note.request_id), note.author, note.reason, self.method, digest, note.approval)

    @property
    def seconds(self) -> float | None:
        """How long the caller still waits; None for as long as it takes."""
        return self.context.time_remaining()
