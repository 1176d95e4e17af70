"""GenerateDataKey on the embedded key store against a method that does nothing, with the same messages."""

from __future__ import annotations

from contextlib import ExitStack

from harness import CLIENT_CORE, SERVER_CORE, Result, cpu_seconds, ownkey_server, peer, ratio

METHODS = {"ours": "/ownkey.v1.KeyService/GenerateDataKey", "empty": "/Empty/GenerateDataKey"}
BASELINE = "an empty grpc.aio method: parses the same request, serialises the same response"
LOOP = {"connections": 4, "at_once": 8}


def results(quick: bool) -> list[Result]:
    rounds, calls = (5, 1000) if quick else (15, 3000)
    seconds: dict[str, list[float]] = {"ours": [], "empty": []}
    processor: dict[str, list[float]] = {"ours": [], "empty": []}
    with ExitStack() as stack:
        ours = stack.enter_context(ownkey_server())
        empty = stack.enter_context(peer("baseline_server.py", SERVER_CORE))
        client = stack.enter_context(peer("client.py", CLIENT_CORE))
        addresses = {"ours": ours.address, "empty": empty.receive()["address"]}
        pids = {"ours": ours.pid, "empty": empty.pid}
        client.ask(do="prepare_unary", address=addresses["ours"], empty=addresses["empty"])
        for turn in range(rounds + 1):
            for name, method in METHODS.items():
                before = cpu_seconds(pids[name])
                answer = client.ask(do="unary", address=addresses[name], method=method, calls=calls, **LOOP)
                if turn:
                    seconds[name].append(answer["seconds"])
                    processor[name].append(cpu_seconds(pids[name]) - before)
    name = "GenerateDataKey, embedded key store"
    rate = ratio(name, BASELINE, [e / o for o, e in zip(seconds["ours"], seconds["empty"], strict=True)], 0.7)
    rate["calls_per_second"] = round(calls / sorted(seconds["ours"])[rounds // 2])
    # Processor time is counted in hundredths of a second, so that only the sum over all rounds is exact enough.
    used = ratio(
        f"{name}, server's processor time",
        BASELINE,
        [sum(processor["empty"]) / sum(processor["ours"])],
        None,
        "of the baseline's rate at equal processor time",
    )
    used["microseconds_per_call"] = round(sum(processor["ours"]) / (rounds * calls) * 1e6)
    return [rate, used]
