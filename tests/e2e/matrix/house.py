"""A server with every key store of the matrix, a key and a tenant for each cell, and the walks through all at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from pathlib import Path

import grpc
import pytest

from e2e.matrix.cells import GATE, Cell
from e2e.matrix.holders import FilesHolder, Holder
from e2e.matrix.holders_aws import Cloud, CloudHolder
from e2e.matrix.holders_pkcs11 import TokenHolder
from e2e.matrix.walk import Walk, Walker
from support import server
from support.admin import Admin
from support.aws_subjects import dummy_credentials
from support.rpc import OPTIONS, Rpc
from support.softhsm import SoftHsm

# How many cells are walked through at once; of one token module, which has one thread.
AT_ONCE, TOKENS_AT_ONCE = 12, 4
MECHANISMS = {"pkcs11-gcm": "aes-gcm", "pkcs11-kw": "aes-key-wrap"}
TENANT = """
[[tenants]]
id = "{id}"
enrolled_at = 2026-01-01T00:00:00Z
keys = [{{ id = "main", key_store = "{store}", reference = "{first}", replicas = [{others}] }}]
policy = {{ default = "key:main" }}

[tenants.call_gate]
{gate}
"""
KEYS = """
[provider_key]
key_store = "embedded"
reference = "provider"
"""
# What takes seconds or minutes in service, and would here for every cell.
SHORT = {
    "probe_interval_seconds = 0.2": "probe_interval_seconds = 1",
}
# Who may read everything would not notice that a file's mode forbids it.
AS_OTHERS_ARE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


class House:
    """Everything that the cells need."""

    def __init__(self, cells: Collection[Cell], folder: Path, softhsm: SoftHsm, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._cells = cells
        stack.enter_context(dummy_credentials())
        self._cloud = Cloud(stack, folder)
        self.holders: dict[str, Holder] = {}
        for cell in cells:
            self.holders[cell.id] = holder = self._holder(cell, softhsm)
            if isinstance(holder, TokenHolder):
                stack.callback(holder.clean_up)
        credentials = folder / "credentials"
        clouds = [holder for holder in self.holders.values() if isinstance(holder, CloudHolder)]
        credentials.write_text("".join(holder.credentials for holder in clouds), encoding="utf-8")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
        if self._cloud.ca_file.exists():
            patch.setenv("AWS_CA_BUNDLE", str(self._cloud.ca_file))

    def _holder(self, cell: Cell, softhsm: SoftHsm) -> Holder:
        if cell.store.startswith("embedded"):
            return FilesHolder(cell.id, self._folder / cell.id, sealed=cell.store == "embedded-sealed")
        if cell.store in MECHANISMS:
            return TokenHolder(cell.id, softhsm, MECHANISMS[cell.store], cell.act)
        return CloudHolder(cell.id, self._cloud, cell.act)

    async def walks(self) -> Mapping[str, Walk]:
        """Walk through all cells."""
        for holder in self.holders.values():
            if isinstance(holder, FilesHolder):
                await holder.make_keys()
        walkers: dict[str, Walker] = {}
        down = [cell for cell in self._cells if cell.while_down]
        happening = {cell.id: contextlib.ExitStack() for cell in down}
        if down:
            async with self._serving(down, walkers):
                await self._until_loaded(down, walkers)
                await asyncio.gather(*(walkers[cell.id].use() for cell in down))
            for cell in down:
                happening[cell.id].enter_context(self.holders[cell.id].block(cell.act))
        places = {"token": asyncio.Semaphore(TOKENS_AT_ONCE), "": asyncio.Semaphore(AT_ONCE)}
        async with self._serving(self._cells, walkers):
            await self._until_loaded([cell for cell in self._cells if not cell.while_down], walkers)

            async def one(cell: Cell) -> Walk:
                async with places["token" if cell.store in MECHANISMS else ""]:
                    return await walkers[cell.id].go(happening.get(cell.id))

            # What hangs a module hangs the other tokens of it.
            alone = [cell for cell in self._cells if cell.act == "hung"]
            others = sorted((cell for cell in self._cells if cell not in alone), key=lambda cell: not cell.while_down)
            walked = [*await asyncio.gather(*map(one, others)), *[await one(cell) for cell in alone]]
        return {walk.cell.id: walk for walk in walked}

    async def _until_loaded(self, cells: Collection[Cell], walkers: Mapping[str, Walker]) -> None:
        """Wait until one key of each kind works: a module is a process of its own, and AWS's library takes seconds."""
        first = {cell.store: cell for cell in reversed(list(cells))}
        await asyncio.gather(*(walkers[cell.id].until_it_works() for cell in first.values()))

    @contextlib.asynccontextmanager
    async def _serving(self, cells: Collection[Cell], walkers: dict[str, Walker]) -> AsyncIterator[None]:
        """A server, and whoever walks there."""
        serving = contextlib.contextmanager(self._server)()
        address = await asyncio.to_thread(serving.__enter__)
        try:
            async with contextlib.AsyncExitStack() as stack:
                for cell in cells:
                    self.holders[cell.id].address = address
                    # A connection for each: one carries only so many calls.
                    options = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
                    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
                    rpc, admin = Rpc(address, channel), Admin(channel)
                    if cell.id in walkers:
                        walkers[cell.id].reconnect(rpc, admin)
                    else:
                        walkers[cell.id] = Walker(cell, self.holders[cell.id], rpc, admin)
                yield
        finally:
            await asyncio.to_thread(serving.__exit__, None, None, None)

    def _server(self) -> Iterator[str]:
        sections = "\n".join(["", self._cloud.sections, *(holder.section for holder in self.holders.values())])
        tenants = KEYS + "".join(
            TENANT.format(
                id=cell.id,
                store=self.holders[cell.id].store,
                first=self.holders[cell.id].places[0],
                others=", ".join(
                    f'{{ key_store = "{self.holders[cell.id].store}", reference = "{place}" }}'
                    for place in self.holders[cell.id].places[1:]
                ),
                gate=GATE,
            )
            for cell in self._cells
        )
        with server.process(
            self._folder, tenants=tenants, extra=sections, replace=SHORT, through=AS_OTHERS_ARE, within=120.0
        ) as running:
            yield running.address
