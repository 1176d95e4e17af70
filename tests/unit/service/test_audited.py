from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from ownkey_server.domain.audit import Action, Caller
from ownkey_server.domain.errors import KeyRevoked
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.audited import Audited
from support.branches import recording
from support.services import ListWriter

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
CONTEXT = {"ownkey:tenant": "acme"}


async def test_what_a_place_says_after_the_record_is_recorded_too() -> None:
    writer = ListWriter()
    log = AuditLog(writer, ListWriter(), lambda: NOW, linger=0)
    await log.start()
    async with Audited(log, lambda: NOW, Action.UNWRAP, Caller("player", request_id="r-1"), recording()) as use:
        use.context = CONTEXT
        begin = use.calls.of("unwrap")
        slow, lost = begin("aws/eu-west-1"), begin("aws/eu-west-2")
        begin("aws/us-east-1").ended("ok", "id-3")
        use.replica, use.backend_request_id = "aws/us-east-1", "id-3"
    slow.ended("ok", "id-1")
    lost.ended("left")  # which says nothing that the record does not
    await log.close()
    first, late = (json.loads(record.to_bytes()) for record in writer.records)
    assert [(call["replica"], call["result"]) for call in first["detail"]["key_store_calls"]] == [
        ("aws/eu-west-1", "under_way"),
        ("aws/eu-west-2", "under_way"),
        ("aws/us-east-1", "ok"),
    ]
    assert (late["action"], late["result"], late["replica"]) == ("late_answer", "ok", "aws/eu-west-1")
    assert (late["backend_request_id"], late["request_id"], late["context"]) == ("id-1", "r-1", CONTEXT)
    assert late["detail"] == {"of": "unwrap", "operation": "unwrap"}


async def test_a_refusal_s_record_has_the_key_store_s_own_id_of_it() -> None:
    writer = ListWriter()
    log = AuditLog(writer, ListWriter(), lambda: NOW, linger=0)
    await log.start()
    with pytest.raises(KeyRevoked):
        async with Audited(log, lambda: NOW, Action.UNWRAP, Caller(), recording()):
            raise KeyRevoked("aws/eu-west-1", "arn", "disabled", request_id="id-1")
    await asyncio.wait_for(log.close(), 10)
    (record,) = writer.records
    assert (record.reason, record.replica, record.backend_request_id) == ("KEY_REVOKED", "aws/eu-west-1", "id-1")
    assert "key_store_calls" not in record.detail
