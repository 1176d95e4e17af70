"""Parts of the server for tests of a single one: tenants without a database, and an audit trail in a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ownkey_server.domain.audit import AuditRecord
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.service.directory import Directory


class KnownTenants:
    """Tenants in place of the database. A test may change them, and make every question fail."""

    def __init__(self, tenants: Mapping[str, Tenant], provider: CustomerKey) -> None:
        self.tenants = dict(tenants)
        self.provider = provider
        self.failure: Exception | None = None
        self.questions: list[str] = []
        self.before_answer: Callable[[str], None] = lambda _: None

    def load(self, tenant_id: str) -> Tenant | None:
        self.questions.append(tenant_id)
        if self.failure:
            raise self.failure
        found = self.tenants.get(tenant_id)
        self.before_answer(tenant_id)
        return found

    def provider_key(self) -> CustomerKey | None:
        if self.failure:
            raise self.failure
        return self.provider


async def directory_of(known: KnownTenants, executor: ThreadPoolExecutor, **options: Any) -> Directory:
    """A directory that knows these tenants."""
    directory = Directory(known, executor, **({"capacity": 100, "max_age": 60.0} | options))  # type: ignore[arg-type]
    await directory.start()
    return directory


class ListWriter:
    """An audit chain in a list. A test may make every write fail."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []
        self.batches: list[int] = []
        self.failure: Exception | None = None
        self.durable_in_spite = False
        self.before_write: Callable[[], None] = lambda: None

    def write(self, records: Sequence[AuditRecord]) -> None:
        self.before_write()
        if self.failure:
            if self.durable_in_spite:
                self.records += records
            raise self.failure
        self.batches.append(len(records))
        self.records += records

    def write_with(self, work: Any) -> Any:
        records, result = work(None)
        self.write(records)
        return result

    def recover(self) -> bool:
        if self.failure and not self.durable_in_spite:
            raise self.failure
        return self.durable_in_spite

    def start_anew(self, why: str) -> None:
        self.batches.append(-1)

    def seen(self) -> None:
        pass

    def close(self) -> None:
        pass
