"""What 100,000 tenants in the database cost a server: its start, its memory, and its rate for those that it serves."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from harness import CLIENT_CORE, MIB, SERVER_CORE, OwnkeyServer, Result, ownkey_server, peer, ratio

from ownkey_server import settings
from ownkey_server.domain.tenants import KeyLifecycle, Replica
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.main import prepare
from ownkey_server.storage import schema
from ownkey_server.storage.database import Database
from ownkey_server.storage.documents import PolicyTable, RuleTable
from ownkey_server.storage.gate_documents import CallGateTable
from ownkey_server.storage.registry import Change

METHOD = "/ownkey.v1.KeyService/GenerateDataKey"
TENANTS = 100_000
SERVED = 1500  # as many as a server keeps in memory by default
LOOP = {"connections": 4, "at_once": 16}
RULES = [
    RuleTable(name="uploads", use="provider_key", origins=["uploaded"]),
    RuleTable(name="no-mms", use="deny", asset_classes=["phone_mms"]),
    RuleTable(name="old", use="provider_key", created_before="enrolment"),
]
START_AIM, MEMORY_AIM, RATE_AIM = 2.0, 150, 0.9


def name(number: int) -> str:
    return f"tenant-{number:06}"


def fill(folder: Path) -> None:
    """Put the tenants into the database, each with a key and three rules, as so many changes would have."""
    loaded = settings.load(folder / "ownkey.toml")
    asyncio.run(prepare(loaded))
    database = Database(loaded.storage.url)
    now, policy, gate = datetime.now(UTC), PolicyTable(default="key:main", rules=RULES), CallGateTable()
    with database.writing() as connection:
        change = Change(connection, now)
        change.insert_tenant(name(0), "", now, gate)
        change.insert_key(
            f"tenants/{name(0)}/keys/main", name(0), KeyLifecycle.ACTIVE, [Replica("embedded", name(0))], now
        )
        change.insert_policy(name(0), policy, "bench", "")
        first = change.tenant(name(0))
        assert first is not None
        change.put_policy_in_force(first, "*", 1)
        for table in (schema.TENANTS, schema.CUSTOMER_KEYS, schema.REPLICAS, schema.POLICY_VERSIONS):
            [row] = connection.execute(sa.select(table).where(_is_first(table))).mappings()
            rows = (
                {
                    column: value.replace(name(0), name(number)) if isinstance(value, str) else value
                    for column, value in row.items()
                }
                for number in range(1, TENANTS)
            )
            connection.execute(sa.insert(table), list(rows))
    database.close()
    asyncio.run(_make_keys(folder / "keys"))


def _is_first(table: sa.Table) -> sa.ColumnElement[bool]:
    column = {"tenants": "id", "customer_keys": "tenant", "policy_versions": "tenant"}.get(table.name, "reference")
    return table.c[column] == name(0)


async def _make_keys(folder: Path) -> None:
    store = EmbeddedKeyStore("embedded", folder)
    for number in range(SERVED):
        await store.create(name(number))
    await store.close()


def memory(server: OwnkeyServer) -> float:
    """Resident memory in MiB."""
    for line in Path(f"/proc/{server.pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / MIB
    raise RuntimeError("the system does not tell how much memory a process has")


def results(quick: bool) -> list[Result]:
    rounds, calls = (3, 1000) if quick else (11, 3000)
    served = [name(number) for number in range(SERVED)]
    with ExitStack() as stack:
        many = stack.enter_context(ownkey_server(prepare=fill))
        few = stack.enter_context(
            ownkey_server(prepare=lambda folder: asyncio.run(prepare(settings.load(folder / "ownkey.toml"))))
        )
        empty = stack.enter_context(peer("baseline_server.py", SERVER_CORE))
        client = stack.enter_context(peer("client.py", CLIENT_CORE))
        client.ask(do="prepare_unary", address=few.address, empty=empty.receive()["address"])
        seconds: dict[str, list[float]] = {"many": [], "few": []}
        # Each connection takes the tenants in turn, and each tenant is to be asked for once.
        everybody = {"address": many.address, "method": METHOD, "calls": SERVED * LOOP["connections"], **LOOP}
        client.ask(do="unary", tenants=served, **everybody)
        for turn in range(rounds + 1):
            for which, server, tenants in (("many", many, served), ("few", few, [])):
                job = {"address": server.address, "method": METHOD, "calls": calls, "tenants": tenants, **LOOP}
                answer = client.ask(do="unary", **job)
                if turn:
                    seconds[which].append(answer["seconds"])
        resident = memory(many)
    shares = [one / all_ for all_, one in zip(seconds["many"], seconds["few"], strict=True)]
    rate = ratio(
        f"GenerateDataKey for {SERVED} of {TENANTS} tenants in turn",
        "a server with one tenant, asked for it alone",
        shares,
        RATE_AIM,
    )
    return [
        rate,
        _value(
            "start with 100,000 tenants",
            "seconds above the start with one",
            many.start_seconds - few.start_seconds,
            START_AIM,
        ),
        _value("memory with 100,000 tenants", f"MiB resident, after serving {SERVED} of them", resident, MEMORY_AIM),
    ]


def _value(what: str, unit: str, value: float, aim: float) -> Result:
    return {
        "name": what,
        "value": round(value, 2),
        "unit": unit,
        "baseline": "one server",
        "runs": 1,
        "aim": aim,
        "met": value < aim,
    }
