"""Messages about revocations to domain values, and back."""

from __future__ import annotations

from collections.abc import Mapping

from ownkey.v1 import revocation_pb2
from ownkey_server.domain.revocations import Ending, Revocation, Scope
from ownkey_server.rpc import convert
from ownkey_server.rpc.admin_convert import CLASS_NUMBERS, time
from ownkey_server.service.administration.receipts import SignedReceipt
from ownkey_server.service.administration.revocation_previews import RevocationPreview

ENDING_NUMBERS = {one: revocation_pb2.RevocationEnding.Value(f"REVOCATION_ENDING_{one.name}") for one in Ending}
ENDINGS = {
    revocation_pb2.REVOCATION_ENDING_UNSPECIFIED: Ending.CUT,
    **{number: ending for ending, number in ENDING_NUMBERS.items()},
}


def scope(message: revocation_pb2.RevocationScope) -> Scope:
    """What a revocation is to be about."""
    return Scope(
        keys=frozenset(message.keys),
        groups=frozenset(message.groups),
        users=frozenset(message.users),
        asset_classes=frozenset(convert.ASSET_CLASSES[one] for one in message.asset_classes),
        asset_ids=frozenset(message.asset_ids),
        created_from=time(message, "created_from"),
        created_before=time(message, "created_before"),
        queues=frozenset(message.queues),
    )


def revocation(record: Revocation) -> revocation_pb2.Revocation:
    """Something that was taken back."""
    scope = record.scope
    message = revocation_pb2.Revocation(
        id=record.id,
        tenant=record.tenant,
        scope=revocation_pb2.RevocationScope(
            keys=sorted(scope.keys),
            groups=sorted(scope.groups),
            users=sorted(scope.users),
            asset_classes=sorted(CLASS_NUMBERS[one] for one in scope.asset_classes),
            asset_ids=sorted(scope.asset_ids),
            created_from=convert.timestamp(scope.created_from) if scope.created_from else None,
            created_before=convert.timestamp(scope.created_before) if scope.created_before else None,
            queues=sorted(scope.queues),
        ),
        ending=ENDING_NUMBERS[record.ending],
        reason=record.reason,
        author=record.author,
        create_time=convert.timestamp(record.create_time),
    )
    if record.restore_time is not None:
        message.restore_time.CopyFrom(convert.timestamp(record.restore_time))
    return message


def receipt(signed: SignedReceipt, signing_key: str) -> revocation_pb2.RevocationReceipt:
    """A receipt."""
    instances = signed.receipt.instances
    return revocation_pb2.RevocationReceipt(
        description=signed.description.decode(),
        signature=signed.signature,
        signing_key=signing_key,
        complete=signed.receipt.complete,
        instances=len(instances),
        unproved=sum(not one.standing.is_proved for one in instances),
    )


def preview(told: RevocationPreview) -> revocation_pb2.RevocationPreview:
    """What a revocation would do."""

    def uses(counted: Mapping[str, int]) -> list[revocation_pb2.RevocationPreviewUse]:
        return [revocation_pb2.RevocationPreviewUse(name=name, count=count) for name, count in counted.items()]

    return revocation_pb2.RevocationPreview(
        streams_ended=told.streams_ended,
        streams_draining=told.streams_draining,
        leases_ended=told.leases_ended,
        process=told.process,
        other_processes=told.other_processes,
        streams_elsewhere=told.streams_elsewhere,
        counted_from=convert.timestamp(told.counted_from),
        uses=told.uses,
        keys=uses(told.keys),
        asset_classes=uses(told.asset_classes),
        groups=uses(told.groups),
        users=uses(told.users),
        calls=told.calls,
        call_gate=told.call_gate,
    )
