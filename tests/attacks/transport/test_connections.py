"""Attacks with connections, and with frames that are no calls."""

from __future__ import annotations

import resource
import select
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from h2.settings import SettingCodes

from support import server
from support.attacks import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    HEADERS,
    MIB,
    PING,
    RST_STREAM,
    SETTINGS,
    Process,
    eventually,
    frame,
    header_block,
    honest_calls,
)
from support.http2 import PREFACE, Connection
from support.server import ServerProcess

# What the server uses, and how long the honest wait, says something only while nothing else runs.
pytestmark = pytest.mark.alone

GENERATE = "/ownkey.v1.KeyService/GenerateDataKey"
ENCRYPT = "/ownkey.v1.KeyService/EncryptMedia"
INVALID_ARGUMENT, RESOURCE_EXHAUSTED = 3, 8
CANCEL = struct.pack(">I", 8)
GREETING = PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0)


def test_ten_thousand_idle_connections_are_borne_and_then_closed(victim: ServerProcess, process: Process) -> None:
    host, _, port = victim.address.rpartition(":")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, most - 2000)
    before, descriptors = process.resident(), process.descriptors()
    idle: list[socket.socket] = []
    try:
        with honest_calls(victim.address) as honest:
            for number in range(count):
                one = socket.socket()
                idle.append(one)
                # Several source addresses: one has some 28,000 ports, and others of this machine want theirs.
                one.bind((f"127.0.0.{2 + number % 5}", 0))
                one.connect((host, int(port)))
                if number % 10:  # the tenth says nothing at all
                    one.sendall(GREETING)
            assert eventually(lambda: process.descriptors() >= descriptors + count)
            grown = process.resident() - before
            honest_so_far = len(honest.latencies)
            assert eventually(lambda: process.descriptors() < descriptors + 50), "connections stay"
            assert len(honest.latencies) > honest_so_far
    finally:
        for one in idle:
            one.close()
    print(f"{count} connections: {grown / MIB:.0f} MiB more; {honest}")
    assert grown < 300 * MIB


def test_rapid_reset_costs_others_little(victim: ServerProcess, process: Process) -> None:
    before, processor = process.resident(), process.cpu_seconds()
    sent: list[int] = []
    refused: list[int] = []

    def attack(path: str) -> None:
        with Connection(victim.address) as attacker:
            assert attacker.call(GENERATE, b"").status == INVALID_ARGUMENT
            block, stream, received, until = header_block(attacker, path), 3, 0, time.monotonic() + 4
            while time.monotonic() < until:
                batch = b"".join(
                    frame(HEADERS, END_HEADERS, number, block) + frame(RST_STREAM, 0, number, CANCEL)
                    for number in range(stream, stream + 200, 2)
                )
                stream += 200
                try:
                    attacker.socket.sendall(batch)
                except OSError:
                    break  # cut off, for it answers no pings
                if select.select([attacker.socket], [], [], 0)[0]:
                    received += len(attacker.socket.recv(MIB))
            sent.append(stream // 2)
            # Counted, and not parsed: a frame of RST_STREAM has 13 bytes, and hardly anything else comes.
            refused.append(received // 13)

    with honest_calls(victim.address) as honest:
        attackers = [threading.Thread(target=attack, args=(path,)) for path in (GENERATE, ENCRYPT)]
        for attacker in attackers:
            attacker.start()
        for attacker in attackers:
            attacker.join()
    print(f"{sent} streams reset in 4 s, about {refused} of them refused; {honest}")
    print(f"{process.cpu_seconds() - processor:.1f} s of processor, {(process.resident() - before) / MIB:.0f} MiB more")
    assert len(sent) == 2
    assert all(no > yes / 2 for no, yes in zip(refused, sent, strict=True))
    assert process.resident() - before < 200 * MIB


def test_a_ping_flood_ends_its_connections(victim: ServerProcess, process: Process) -> None:
    before, ended, pings = process.resident(), 0, 0
    with honest_calls(victim.address) as honest:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            with Connection(victim.address) as attacker:
                attacker.read_until(lambda: bool(attacker.settings))
                while not attacker.closed and attacker.goaway is None:
                    for _ in range(4):
                        attacker.h2.ping(struct.pack(">Q", pings))
                        pings += 1
                    attacker.flush()
                    attacker.read(1.0)
                assert attacker.goaway in (None, (11, "too_many_pings"))
                ended += 1
    print(f"{ended} connections ended after {pings / ended:.1f} pings each; {honest}")
    assert pings / ended < 50
    assert process.resident() - before < 100 * MIB


def test_frames_that_want_answers_nobody_reads_do_not_pile_up(victim: ServerProcess, process: Process) -> None:
    host, _, port = victim.address.rpartition(":")
    before = process.resident()
    with honest_calls(victim.address) as honest:
        for kind, payload in ((SETTINGS, b""), (PING, bytes(8))):
            with socket.create_connection((host, int(port))) as attacker:
                attacker.sendall(GREETING)
                attacker.settimeout(2)
                flood, sent = frame(kind, 0, 0, payload) * 5000, 0
                try:
                    while sent < 64 * MIB:
                        attacker.sendall(flood)
                        sent += len(flood)
                except OSError:
                    pass  # refused, or not read any more: both are fine
                print(f"frames of type {kind}: {sent / MIB:.1f} MiB were taken")
    print(f"{(process.resident() - before) / MIB:.0f} MiB more; {honest}")
    assert process.resident() - before < 200 * MIB


def test_huge_headers_are_refused_and_not_held(victim: ServerProcess, process: Process) -> None:
    before = process.resident()
    with honest_calls(victim.address) as honest, Connection(victim.address) as attacker:
        assert attacker.call(GENERATE, b"").status == INVALID_ARGUMENT
        answers = []
        for size in (17_000, 60_000):
            stream = attacker.open(GENERATE, [("x-big", "a" * size)])
            answers.append(attacker.answers[stream])
        assert attacker.read_until(lambda: all(answer.over for answer in answers)), answers
        assert {answer.status for answer in answers} == {RESOURCE_EXHAUSTED}
        assert attacker.settings[SettingCodes.MAX_HEADER_LIST_SIZE] == 16 * 1024
    print(honest)
    assert process.resident() - before < 50 * MIB


def test_headers_without_end_are_not_held(tmp_path: Path) -> None:
    # A server of its own: memory that another attack has left in pieces would hide what this one holds.
    with server.process(tmp_path) as victim:
        _send_headers_without_end(victim, Process(victim.pid))


def _send_headers_without_end(victim: ServerProcess, process: Process) -> None:
    with honest_calls(victim.address) as honest, Connection(victim.address) as attacker:
        attacker.read_until(lambda: bool(attacker.settings))
        before, sent = process.resident(), 0
        attacker.socket.settimeout(2)
        # Literals without a place in the table, name and value in clear (RFC 7541 §6.2.3).
        field = b"\x10\x05x-big\x7f\x81\x1f" + b"a" * 4096
        attacker.socket.sendall(frame(HEADERS, 0, 1, header_block(attacker, GENERATE)))
        flood = frame(CONTINUATION, 0, 1, field * 3) * 20
        try:
            while sent < 128 * MIB:
                attacker.socket.sendall(flood)
                sent += len(flood)
        except OSError:
            pass  # cut off
    print(f"{sent / MIB:.0f} MiB of headers were taken, {(process.resident() - before) / MIB:.0f} MiB more; {honest}")
    assert process.resident() - before < 50 * MIB
