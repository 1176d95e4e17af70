"""EncryptMedia and DecryptMedia against streams that only echo, one server core each, the client on another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from harness import CLIENT_CORE, MIB, SERVER_CORE, Peer, Result, cpu_seconds, ownkey_server, peer, ratio

SERVICE = "/ownkey.v1.KeyService"
ECHOES = {
    "Messages": "the same stream echoed, with protobuf's generated messages",
    "Bytes": "the same stream echoed as raw bytes, no messages",
}
# Of the aim, only the echo with messages was meant; the other shows what is left above the transport.
AIMS = {"Messages": 0.8, "Bytes": None}
STREAMS = 2


@dataclass(frozen=True, slots=True)
class Run:
    """One method's run: the clock's seconds, and its server's and the client's processor seconds."""

    seconds: float
    server: float
    client: float


def results(quick: bool) -> list[Result]:
    found: list[Result] = []
    for chunk in (256 * 1024, MIB):
        found += _one_chunk(chunk, rounds=5 if quick else 9, size=(32 if quick else 128) * MIB)
    return found


def _one_chunk(chunk: int, rounds: int, size: int) -> Iterator[Result]:
    taken: dict[str, list[Run]] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(ownkey_server())
        echo = stack.enter_context(peer("baseline_server.py", SERVER_CORE))
        client = stack.enter_context(peer("client.py", CLIENT_CORE))
        address = echo.receive()["address"]
        client.ask(do="prepare_streams", address=ours.address, size=size, chunk=chunk)
        for turn in range(rounds + 1):
            for data in ("EncryptMedia", "DecryptMedia"):
                for method, pid, where in (
                    (f"{SERVICE}/{data}", ours.pid, ours.address),
                    ("/Echo/Messages", echo.pid, address),
                    ("/Echo/Bytes", echo.pid, address),
                ):
                    run = _run(client, pid, where, method, data)
                    if turn:
                        taken.setdefault(f"{data} {method.rpartition('/')[2]}", []).append(run)
    for data in ("EncryptMedia", "DecryptMedia"):
        own = taken[f"{data} {data}"]
        for kind, baseline in ECHOES.items():
            pairs = list(zip(taken[f"{data} {kind}"], own, strict=True))
            name = f"{data}, chunks of {chunk // 1024} KiB"
            rates = ratio(name, baseline, [base.seconds / run.seconds for base, run in pairs], AIMS[kind])
            rates["mb_per_second"] = round(STREAMS * size / 1e6 / sorted(r.seconds for r in own)[len(own) // 2])
            yield rates
            name += ", server's processor time"
            unit = "of the baseline's rate at equal processor time"
            yield ratio(name, baseline, [base.server / run.server for base, run in pairs], None, unit)


def _run(client: Peer, pid: int, address: str, method: str, data: str) -> Run:
    before = cpu_seconds(pid)
    answer = client.ask(do="stream", address=address, method=method, data=data, streams=STREAMS)
    return Run(answer["seconds"], cpu_seconds(pid) - before, answer["client_cpu"])
