"""Where branch keys come from: kept, wrapped, in the database; made and opened by key stores; every step recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from typing import TypeVar

from sqlalchemy.engine import Connection

from ownkey.container import ContainerError, new_branch_id
from ownkey.wrapped_key import WrappedKey
from ownkey_server.domain.audit import Action, AuditRecord, Caller, Result
from ownkey_server.domain.branch_keys import BRANCH, BranchKey, BranchKeyState, branch_context
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.encryption_context import TENANT
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    OwnkeyError,
    TenantNotFound,
)
from ownkey_server.domain.tenants import CustomerKey
from ownkey_server.keystores.base import GeneratedDataKey, UnwrappedDataKey
from ownkey_server.service.audit_log import AuditLog
from ownkey_server.service.audited import late_answer
from ownkey_server.service.key_ring import KeyRing
from ownkey_server.service.key_store_calls import LEFT, KeyStoreCall, KeyStoreCalls, as_detail
from ownkey_server.service.replica_walk import Use
from ownkey_server.service.view_cache import on_thread
from ownkey_server.storage import branch_keys as kept
from ownkey_server.storage.database import Database
from ownkey_server.storage.registry import Change

T = TypeVar("T")

OURSELVES = Caller("ownkey")
NOTHING: Mapping[str, object] = {}


class BranchSource:
    """Reads, makes, keeps and opens branch keys. It holds none.

    Args:
        ring: Opens and makes them.
        database: Where they are kept.
        executor: Where reading waits for the database.
        clock: Tells the time.
    """

    def __init__(self, ring: KeyRing, database: Database, executor: Executor, audit: AuditLog, clock: Clock) -> None:
        self._ring = ring
        self._database = database
        self._executor = executor
        self._audit = audit
        self._clock = clock

    async def find(self, tenant: str, branch_id: str) -> BranchKey | None:
        """The tenant's branch key of that id.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        found = await self._read(lambda connection: kept.find(connection, tenant, [branch_id]))
        return found[0] if found else None

    async def active(self, tenant: str, key: str) -> BranchKey | None:
        """The branch key that wraps what the tenant has under the key of that name; raises as :meth:`find`."""
        return await self._read(lambda connection: kept.active(connection, tenant, key))

    async def make(
        self, tenant: str, key: CustomerKey, *, background: bool = False
    ) -> tuple[BranchKey, Use[GeneratedDataKey]]:
        """A new branch key for a tenant under a key, not kept yet. Whoever asks wipes the plaintext.

        Raises:
            KeyStoreError: The key cannot be used.
        """
        branch_id = new_branch_id()
        context = branch_context(tenant, branch_id)
        branch = BranchKey(
            id=branch_id,
            tenant=tenant,
            key=key.name,
            first_key=key.name,
            state=BranchKeyState.ACTIVE,
            version=0,
            wrapped=b"",
            context=context,
            create_time=self._clock(),
        )
        self._audit.require_writable()
        calls = self.calls(branch, Action.MAKE_BRANCH_KEY)
        try:
            use = await self._ring.generate(key, context, None, background=background, calls=calls)
        except BaseException as error:
            self._audit.note(self._failure(Action.MAKE_BRANCH_KEY, branch, error, calls))
            raise
        made = replace(branch, wrapped=WrappedKey(key.name, (use.value.wrapped,)).to_bytes())
        return made, replace(use, calls=tuple(calls.tell()))

    async def keep(self, made: BranchKey, use: Use[GeneratedDataKey], instead_of: str) -> BranchKey:
        """Keep a new branch key, unless another instance has kept one meanwhile; gives the one that is active now.

        Args:
            made: The new one.
            use: By which it was made.
            instead_of: Id of the one that was active when it was made; empty for none.

        Raises:
            DatabaseUnavailable: It is not known whether it is kept.
        """
        places = as_detail(list(use.calls))

        def transaction(connection: Connection) -> tuple[list[AuditRecord], BranchKey]:
            change = Change(connection, self._clock())
            # First, as every administrative change does: from here on nobody removes the key, or makes another.
            change.touch(made.tenant)
            if change.tenant(made.tenant) is None:
                raise TenantNotFound(made.tenant)
            holder = change.key(made.key)
            if holder is not None and not holder.lifecycle.wraps:
                raise KeyMisconfigured(use.replica, made.key, "it was retired or removed meanwhile, and wraps nothing")
            branch = kept.add(connection, made, instead_of)
            result = Result.OK if branch.id == made.id else Result.REFUSED
            detail = places if result is Result.OK else {**places, "made_already": branch.id}
            record = self._record(
                Action.MAKE_BRANCH_KEY, made, use.replica, use.value.request_id, result, detail=detail
            )
            return [record], branch

        try:
            return await self._audit.change(transaction)
        except BaseException as error:
            # It is not kept, or not known to be; the key was used for it all the same.
            result, reason = _failed(error)
            self._audit.note(
                self._record(
                    Action.MAKE_BRANCH_KEY, made, use.replica, use.value.request_id, result, reason, detail=places
                )
            )
            raise

    async def unwrap(self, branch: BranchKey, key: CustomerKey, *, background: bool = False) -> Use[UnwrappedDataKey]:
        """The branch key in clear, by the key under which it is.

        Args:
            branch: As it is kept.
            key: The key.
            background: Whether nobody waits for it, so that it comes after all that somebody waits for.

        Raises:
            KeyStoreError: The key cannot be used, or the branch key was changed in the database.
        """
        place = key.primary
        if branch.context.get(TENANT) != branch.tenant or branch.context.get(BRANCH) != branch.id:
            raise CiphertextInvalid(place.name, place.reference, "the branch key is kept under another's name")
        try:
            entry = WrappedKey.from_bytes(branch.wrapped).encrypted_data_keys[0]
        except ContainerError:
            raise CiphertextInvalid(place.name, place.reference, "the branch key was changed") from None
        self._audit.require_writable()
        calls = self.calls(branch, Action.OPEN_BRANCH_KEY)
        try:
            use = await self._ring.unwrap(key, entry, branch.context, None, background=background, calls=calls)
        except BaseException as error:
            self._audit.note(self._failure(Action.OPEN_BRANCH_KEY, branch, error, calls))
            raise
        detail = as_detail(calls.tell())
        record = self._record(
            Action.OPEN_BRANCH_KEY, branch, use.replica, use.value.request_id, Result.OK, detail=detail
        )
        try:
            await self._audit.record(record)
        except BaseException:
            use.value.plaintext.wipe()
            raise
        return use

    def calls(self, branch: BranchKey, action: str) -> KeyStoreCalls:
        """Takes note of what key stores are asked about a branch key; late answers go into the trail by themselves."""

        def late(call: KeyStoreCall) -> None:
            if call.result != LEFT:
                self._audit.note(late_answer(self._record(action, branch, "", "", Result.OK), call))

        return KeyStoreCalls(late)

    async def _read(self, question: Callable[[Connection], T]) -> T:
        def ask() -> T:
            with self._database.reading() as connection:
                return question(connection)

        return await on_thread(self._executor, ask)

    def _failure(
        self, action: str, branch: BranchKey, error: BaseException | None, calls: KeyStoreCalls
    ) -> AuditRecord:
        result, reason = _failed(error)
        replica, request_id = getattr(error, "replica", ""), getattr(error, "request_id", "")
        return self._record(action, branch, replica, request_id, result, reason, detail=as_detail(calls.tell()))

    def _record(
        self,
        action: str,
        branch: BranchKey,
        replica: str,
        request_id: str,
        result: Result,
        reason: str = "",
        *,
        detail: Mapping[str, object] = NOTHING,
    ) -> AuditRecord:
        return AuditRecord(
            time=self._clock(),
            action=action,
            result=result,
            caller=OURSELVES,
            reason=reason,
            tenant=branch.tenant,
            key=branch.key,
            replica=replica,
            backend_request_id=request_id,
            context=branch.context,
            detail={"branch": branch.id, **detail},
        )


def _failed(error: BaseException | None) -> tuple[Result, str]:
    if isinstance(error, OwnkeyError):
        return (Result.REFUSED if error.refusal else Result.FAILED), error.reason
    return Result.FAILED, "CANCELLED" if isinstance(error, asyncio.CancelledError) else "INTERNAL"
