"""The control plane over a real database of each kind, with keys in real embedded key stores."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from ownkey_server.composition.shared_states import open_canaries
from ownkey_server.domain.audit import Caller
from ownkey_server.domain.clock import Clock, system_clock
from ownkey_server.domain.tenants import Replica
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.service.administration.approvals import Approvals
from ownkey_server.service.administration.branch_keys import BranchKeyOffice
from ownkey_server.service.administration.configuration import Configuration
from ownkey_server.service.administration.desk import Act, Desk, SecondPerson
from ownkey_server.service.administration.enrolment import Enrolment
from ownkey_server.service.administration.groups import Groups
from ownkey_server.service.administration.keys import Keys
from ownkey_server.service.administration.policies import Policies
from ownkey_server.service.administration.principals import Principals
from ownkey_server.service.administration.tenants import Tenants
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.authorization import Authorizer
from ownkey_server.service.branch_keys import BranchKeys
from ownkey_server.service.branch_loans import BranchKeyOptions
from ownkey_server.service.branch_source import BranchSource
from ownkey_server.service.directory import Directory
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.roster import Roster
from ownkey_server.service.status_board import StatusBoard
from ownkey_server.storage.database import Database
from ownkey_server.storage.views import PrincipalViews, TenantViews
from support.services import ListWriter

KINDS = {"one": "embedded", "two": "embedded", "three": "embedded"}


class TransactionWriter(ListWriter):
    """An audit chain in a list, whose changes are real transactions."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    def write_with(self, work):  # type: ignore[no-untyped-def]
        with self._database.writing() as connection:
            records, result = work(connection)
        self.write(records)
        return result


class Office:
    """Every use case of the control plane, and an administrator."""

    act = Act(Caller("admin"), "ann", "a test")

    def __init__(
        self,
        database: Database,
        folder: Path,
        executor: ThreadPoolExecutor,
        *,
        second_person: SecondPerson | None = None,
        operators: Sequence[str] = (),
        clock: Clock = system_clock,
    ) -> None:
        self.folder = folder
        self.stores = {name: EmbeddedKeyStore(name, folder / name) for name in KINDS}
        self.board = StatusBoard(timedelta(seconds=60))
        kept = open_canaries(database, executor, system_clock)
        self.ring = KeyRing(self.stores, self.board, system_clock, timedelta(seconds=5), canaries=kept)
        self.trail, self.refusals = TransactionWriter(database), ListWriter()
        self.audit = AuditLog(self.refusals, self.trail, system_clock)
        self.directory = Directory(TenantViews(database), executor, capacity=100, max_age=60)
        views = PrincipalViews(database)
        self.roster = Roster(views, executor, operators=operators, development=None, max_age=60)
        self.roster.start()
        self.desk = Desk(database, self.audit, self.directory, clock, executor, second_person, self.roster)
        self.approvals = Approvals(self.desk, Authorizer(self.roster))
        enrolment = Enrolment(self.ring)
        self.tenants, self.groups = Tenants(self.desk), Groups(self.desk)
        self.policies, self.principals = Policies(self.desk), Principals(self.desk)
        self.keys = Keys(self.desk, enrolment, KINDS)
        source = BranchSource(self.ring, database, executor, self.audit, system_clock)
        branches = BranchKeys(source, self.board, system_clock, BranchKeyOptions())
        self.branch_keys = BranchKeyOffice(self.desk, self.ring, source, branches)
        self.configuration = Configuration(self.desk, self.keys, enrolment, KINDS)

    async def make(self, reference: str, store: str = "one") -> Replica:
        """Make a key in a key store."""
        await self.stores[store].create(reference)
        return Replica(store, reference)

    def copy(self, reference: str, source: str, target: str) -> Replica:
        """The same key in another store, as a cluster of HSMs has it."""
        (self.folder / target).mkdir(mode=0o700, exist_ok=True)
        for path in (self.folder / source).iterdir():
            if path.name.startswith(reference):
                copied = self.folder / target / path.name
                copied.write_bytes(path.read_bytes())
                copied.chmod(0o600)
        return Replica(target, reference)

    def actions(self) -> list[str]:
        """What the trail says was done."""
        return [record.action.removeprefix("admin.") for record in self.trail.records]
