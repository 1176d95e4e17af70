"""The format of sealed keys: what it binds, what it refuses, and what it costs to open."""

from __future__ import annotations

import struct
import time

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.keystores.embedded import sealing
from ownkey_server.keystores.embedded.sealing import SEAL_LENGTH, SEALED_KEY_LENGTH, Cost, Seal, SealInvalid
from support.key_stores import CHEAP

PASSPHRASE = "drei Äpfel"
KEY = bytes(range(32))


def passphrase(text: str = PASSPHRASE) -> SecretBytes:
    return SecretBytes(text.encode())


@pytest.fixture(scope="module")
def seal() -> Seal:
    return Seal.make(passphrase(), CHEAP)


def test_another_process_with_the_passphrase_opens_it(seal: Seal) -> None:
    sealed = seal.close_key("acme", KEY)
    again = Seal.open(seal.document, passphrase())
    assert again.made(sealed)
    assert again.open_key("acme", sealed) == KEY


def test_the_page_of_the_format_is_enough_to_open_it(seal: Seal) -> None:
    """Written from docs/key-stores.md, with no code of ours."""
    sealed = seal.close_key("acme", KEY)
    assert len(sealed) == SEALED_KEY_LENGTH == 97
    header, nonce, rest = sealed[:37], sealed[37:49], sealed[49:]
    magic, version, memory, passes, lanes, salt = struct.unpack(">8sBIII16s", header)
    assert (magic, version) == (b"OWNKSEAL", 1)
    argon2 = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
    cipher = AESGCM(argon2.derive(PASSPHRASE.encode()))
    assert cipher.decrypt(nonce, rest, header + b"acme") == KEY
    document = seal.document
    assert len(document) == SEAL_LENGTH == 65
    assert document[:37] == header
    assert cipher.decrypt(document[37:49], document[49:], header) == b""


def test_what_is_sealed_shows_nothing_and_never_repeats(seal: Seal) -> None:
    sealed = {seal.close_key("acme", KEY) for _ in range(100)}
    assert len({one[37:] for one in sealed}) == 100
    assert not [one for one in sealed if KEY[:4] in one]


def test_a_seal_costs_an_attacker_what_rfc_9106_recommends() -> None:
    header = Seal.make(passphrase()).document[:37]
    _, _, memory, passes, lanes, _ = struct.unpack(">8sBIII16s", header)
    assert (memory, passes, lanes) == (64 * 1024, 3, 4)


def test_no_changed_bit_of_a_sealed_key_is_accepted(seal: Seal) -> None:
    sealed = seal.close_key("acme", KEY)
    for position in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[position // 8] ^= 1 << position % 8
        if seal.made(changed):
            with pytest.raises(SealInvalid):
                seal.open_key("acme", changed)
        else:
            assert position < 8 * 37


def test_a_key_of_another_name_or_another_seal_does_not_open(seal: Seal) -> None:
    sealed = seal.close_key("acme", KEY)
    for reference in ("acmf", "acme2", "acm", "", "Acme"):
        with pytest.raises(SealInvalid, match="another key's"):
            seal.open_key(reference, sealed)
    other = Seal.make(passphrase(), CHEAP)
    assert not other.made(sealed)
    with pytest.raises(SealInvalid):
        other.open_key("acme", other.document[:37] + sealed[37:])


@pytest.mark.parametrize("length", [0, 1, 8, 36, 37, 48, 49, 96])
def test_a_sealed_key_that_was_cut_off_is_refused(seal: Seal, length: int) -> None:
    sealed = seal.close_key("acme", KEY)
    with pytest.raises(SealInvalid):
        seal.open_key("acme", sealed[:length])
    with pytest.raises(SealInvalid):
        seal.open_key("acme", sealed + sealed[: length + 1])


@pytest.mark.parametrize("wrong", ["drei Apfel", "drei Äpfel ", "", "drei Äpfel\0", "DREI ÄPFEL"])
def test_another_passphrase_is_told_as_such(seal: Seal, wrong: str) -> None:
    with pytest.raises(SealInvalid, match="the passphrase is wrong") as caught:
        Seal.open(seal.document, passphrase(wrong))
    assert not wrong or wrong not in str(caught.value)


def test_no_changed_bit_of_a_seal_is_accepted(seal: Seal) -> None:
    document = seal.document
    # Every bit of what decides without a derivation, and a bit of each byte of the rest.
    positions = [*range(8 * 21), *range(8 * 21, 8 * len(document), 7)]
    for position in positions:
        changed = bytearray(document)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(SealInvalid):
            Seal.open(bytes(changed), passphrase())


@pytest.mark.parametrize(
    "cost",
    [
        Cost(memory_kib=2**32 - 1),
        Cost(memory_kib=256 * 1024 + 1),
        Cost(memory_kib=8 * 1024 - 1),
        Cost(memory_kib=0),
        Cost(passes=11),
        Cost(passes=2**32 - 1),
        Cost(passes=0),
        Cost(lanes=9),
        Cost(lanes=0),
        Cost(lanes=2**24),
    ],
    ids=str,
)
def test_a_hostile_seal_takes_neither_memory_nor_time(monkeypatch: pytest.MonkeyPatch, seal: Seal, cost: Cost) -> None:
    hostile = struct.pack(">8sBIII16s", b"OWNKSEAL", 1, cost.memory_kib, cost.passes, cost.lanes, bytes(16)) + bytes(28)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a key was derived")

    monkeypatch.setattr(sealing, "Argon2id", never)
    with pytest.raises(SealInvalid, match="out of bounds"):
        Seal.open(hostile, passphrase())


def test_the_dearest_seal_that_is_opened_takes_seconds_and_no_more() -> None:
    dearest = struct.pack(">8sBIII16s", b"OWNKSEAL", 1, 256 * 1024, 10, 8, bytes(16)) + bytes(28)
    began = time.monotonic()
    with pytest.raises(SealInvalid, match="passphrase is wrong"):
        Seal.open(dearest, passphrase())
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (b"", "no seal"),
        (bytes(65), "no seal"),
        (b"OWNKSEAL", "no seal"),
        (b"OWNKSEAL\x01" + bytes(55), "no seal"),
        (b"OWNKSEAL\x01" + bytes(57), "no seal"),
        (b"OWNKSEAL\x02" + bytes(56), "version 2"),
        (b"OWNKSEAL\x00" + bytes(56), "version 0"),
    ],
)
def test_what_is_no_seal_of_ours_is_told(document: bytes, complaint: str) -> None:
    with pytest.raises(SealInvalid, match=complaint):
        Seal.open(document, passphrase())
