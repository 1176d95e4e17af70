"""What a durable audit record costs: GenerateDataKey with 64 callers at once, with the audit trail and without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from harness import CLIENT_CORE, HERE, OWNKEY, SERVER_CORE, OwnkeyServer, Result, ownkey_server, peer, ratio

sys.path.insert(0, str(HERE.parent / "tests"))
from support import postgres

METHOD = "/ownkey.v1.KeyService/GenerateDataKey"
LOOP = {"connections": 4, "at_once": 16}
BASELINE = "the same server with a trail that keeps nothing"
AIM = 0.6


@contextmanager
def _servers() -> Iterator[dict[str, OwnkeyServer]]:
    unaudited = (sys.executable, str(HERE / "unaudited.py"))
    with ExitStack() as stack:
        cluster = stack.enter_context(postgres.server())
        found = {}
        for database in ("SQLite", "PostgreSQL"):
            for trail, program in (("with", (OWNKEY,)), ("without", unaudited)):
                settings = {} if database == "SQLite" else {"OWNKEY_STORAGE__URL": cluster.new_database()}

                def prepare(folder: object, settings: dict[str, str] = settings) -> None:
                    if settings:
                        command = [OWNKEY, "db", "upgrade", "--config", f"{folder}/ownkey.toml"]
                        subprocess.run(command, env=settings, check=True, capture_output=True)

                server = ownkey_server(program=program, settings=settings, prepare=prepare)
                found[f"{database} {trail}"] = stack.enter_context(server)
        yield found


def results(quick: bool) -> list[Result]:
    rounds, calls = (5, 1000) if quick else (15, 3000)
    with ExitStack() as stack:
        servers = stack.enter_context(_servers())
        empty = stack.enter_context(peer("baseline_server.py", SERVER_CORE))
        client = stack.enter_context(peer("client.py", CLIENT_CORE))
        first = next(iter(servers.values()))
        client.ask(do="prepare_unary", address=first.address, empty=empty.receive()["address"])
        seconds: dict[str, list[float]] = {name: [] for name in servers}
        for turn in range(rounds + 1):
            for name, server in servers.items():
                answer = client.ask(do="unary", address=server.address, method=METHOD, calls=calls, **LOOP)
                if turn:
                    seconds[name].append(answer["seconds"])
    found = []
    for database in ("SQLite", "PostgreSQL"):
        audited, bare = seconds[f"{database} with"], seconds[f"{database} without"]
        shares = [without / took for took, without in zip(audited, bare, strict=True)]
        result = ratio(f"GenerateDataKey with a durable record in {database}, 64 callers", BASELINE, shares, AIM)
        result["calls_per_second"] = round(calls / sorted(audited)[rounds // 2])
        found.append(result)
    return found
