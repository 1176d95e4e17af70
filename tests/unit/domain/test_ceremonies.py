"""Records of ceremonies: what is signed, and that nothing else than what was written is read as one."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from ownkey_server.domain.ceremonies import (
    Action,
    CeremonyInvalid,
    Confirmation,
    Description,
    Phase,
    Record,
    Register,
    confirmed_by,
)

NOW = datetime(2026, 11, 28, 8, 0, 0, 123456, tzinfo=UTC)
KEYS = {"alice": b"a" * 32, "bob": b"b" * 32}
RECORD = Record(
    Action.KEYGEN,
    Phase.DONE,
    NOW,
    2,
    "operator",
    ({"label": "ownkey", "serial": "1"},),
    "acme-main/v1",
    {"keys": [{"check_values": {"aes-ecb": "05f0fc"}}]},
    (Confirmation("alice", b"1" * 64),),
)


def test_a_record_is_read_as_it_was_written() -> None:
    assert Record.from_body(RECORD.body()) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "perhaps"},
        {"action": "steal"},
        {"confirmations": [{"custodian": "alice"}]},
        {"time": "yesterday"},
        {"more": 1},
        {"tokens": None},
    ],
)
def test_what_ownkey_does_not_write_is_no_record(change: dict[str, object]) -> None:
    fields = {**json.loads(RECORD.body()), **change}
    with pytest.raises(CeremonyInvalid):
        Record.from_body(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b'{"a":1}', RECORD.body() + b" ", b"\xff"])
def test_bytes_that_are_no_record_are_none(body: bytes) -> None:
    with pytest.raises(CeremonyInvalid):
        Record.from_body(body)


def test_a_signature_covers_every_field_and_its_place_but_no_signature() -> None:
    import dataclasses

    said = RECORD.statement(b"p" * 32)
    others = [
        dataclasses.replace(RECORD, action=Action.ROTATE),
        dataclasses.replace(RECORD, phase=Phase.BEGUN),
        dataclasses.replace(RECORD, ceremony=3),
        dataclasses.replace(RECORD, operator="another"),
        dataclasses.replace(RECORD, tokens=()),
        dataclasses.replace(RECORD, key="acme-main/v2"),
        dataclasses.replace(RECORD, detail={}),
        dataclasses.replace(RECORD, time=NOW.replace(microsecond=1)),
    ]
    assert len({said, RECORD.statement(b"q" * 32), *(other.statement(b"p" * 32) for other in others)}) == 10
    assert dataclasses.replace(RECORD, confirmations=()).statement(b"p" * 32) == said


def test_only_good_signatures_of_custodians_count() -> None:
    def good(key: bytes, signature: bytes, statement: bytes) -> bool:
        return signature == key + key

    record = Record(
        Action.KEYGEN,
        Phase.BEGUN,
        NOW,
        0,
        "operator",
        (),
        "",
        {},
        (
            Confirmation("alice", b"a" * 64),
            Confirmation("alice", b"a" * 64),
            Confirmation("bob", b"a" * 64),
            Confirmation("mallory", b"m" * 64),
        ),
    )
    names, wrong = confirmed_by(record, b"p" * 32, Register(KEYS, 2), good)
    assert names == {"alice"}
    assert len(wrong) == 2


def test_a_key_is_never_destroyed_by_one() -> None:
    assert Register(KEYS, 0).needed_for(Action.DESTROY) == 2
    assert Register({**KEYS, "carol": b"c" * 32}, 3).needed_for(Action.DESTROY) == 3
    assert Register(KEYS, 1).needed_for(Action.KEYGEN) == 1


@pytest.mark.parametrize(
    ("custodians", "needed"),
    [
        (KEYS, 3),
        (KEYS, -1),
        ({"Alice": b"a" * 32}, 1),
        ({"alice": b"a"}, 1),
        ({"alice": b"a" * 32, "al": b"a" * 32}, 1),
    ],
)
def test_a_register_that_nobody_could_keep_to_is_refused(custodians: dict[str, bytes], needed: int) -> None:
    with pytest.raises(CeremonyInvalid):
        Register(custodians, needed).require_sound()


def test_a_description_is_read_as_it_was_written() -> None:
    description = Description("00" * 16, NOW, Register(KEYS, 2))
    assert Description.from_bytes(description.to_bytes()) == description
    for other in (
        b"",
        b"{}",
        description.to_bytes().replace(b'"version":1', b'"version":2'),
        description.to_bytes() + b" ",
    ):
        with pytest.raises(CeremonyInvalid):
            Description.from_bytes(other)
