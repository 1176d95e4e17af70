"""Tenants as one declarative document: what would change, the change, and the document again.

What the document says of a tenant's groups, policy and call gate is all there is of them afterwards. Keys are never
retired, removed or replaced because a line is missing: content may depend on them. Tenants that the document does not
name are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ownkey_server.domain.canaries import Canary
from ownkey_server.domain.errors import EtagMismatch, InvalidRequest, OwnkeyError, ResourceInUse, ResourceNotFound
from ownkey_server.domain.tenants import PROVIDER_KEY_NAME, KeyLifecycle, Replica, tenant_of
from ownkey_server.service.administration import tenants
from ownkey_server.service.administration.desk import Act, Dangerous, Desk, Entry
from ownkey_server.service.administration.edits import Edit, Edits, Step, table_of
from ownkey_server.service.administration.enrolment import Enrolment
from ownkey_server.service.administration.keys import Keys, keep_canaries
from ownkey_server.storage import tenants_file
from ownkey_server.storage.documents import GroupTable, KeyTable, PolicyTable, TenantsDocument, TenantTable
from ownkey_server.storage.records import TenantRecord
from ownkey_server.storage.registry import Change, Reader
from ownkey_server.storage.tenants_file import TenantsFileError

_ALL = 1_000_000
MAX_TENANTS = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """Every difference, in the order in which it is done; ``applied`` says whether it was.

    Attributes:
        etag: Of everything that there is, when the plan was made.
    """

    steps: tuple[Step, ...]
    applied: bool
    etag: str


class Configuration:
    """Applies and exports documents.

    Args:
        kinds: The kind of each key store, by its name.
    """

    def __init__(self, desk: Desk, keys: Keys, enrolment: Enrolment, kinds: Mapping[str, str]) -> None:
        self._desk = desk
        self._keys = keys
        self._edits = Edits(keys, desk.clock)
        self._enrolment = enrolment
        self._kinds = kinds

    async def apply(
        self, act: Act, document: str, *, dry_run: bool, etag: str = "", most: int | None = MAX_TENANTS
    ) -> Plan:
        """Make things as the document says, all at once or not at all.

        New keys, and new places of keys, are tried first, in a dry run too. A refusal is recorded, but for a dry run's.

        Args:
            act: Who, and why.
            document: The tenants file.
            dry_run: Whether to tell the differences and change nothing.
            etag: That of an earlier plan: nothing is done if anything at all was changed since.
            most: How many tenants it may name: a change of many holds up all others, and key uses in SQLite.

        Raises:
            EtagMismatch: Something was changed since the plan that ``etag`` is of.
            InvalidRequest: The document holds mistakes: all of them are told.
            EnrolmentFailed: A key cannot be used.
            KeyStoreError: A key could not be tried, by no fault of its.
            ResourceInUse: It cannot be done as things are, or somebody changed them meanwhile.
            ServiceImpaired: It could not be made, or not be recorded; nothing was changed.
        """
        try:
            return await self._apply(act, document, dry_run, etag, most)
        except OwnkeyError as error:
            if not dry_run:
                await self._desk.refuse(act, "apply_tenants", "", "tenants", error)
            raise

    async def _apply(self, act: Act, document: str, dry_run: bool, etag: str, most: int | None) -> Plan:
        wanted = await self._desk.on_thread(lambda: _parsed(document, self._kinds, most))
        seen, edits = await self._desk.read(
            lambda reader: (reader.revision(), list(self._edits.between(reader, wanted)))
        )
        if etag and etag != str(seen):
            raise EtagMismatch("tenants")
        proven = {proof for edit in edits for proof in edit.proofs}
        made: dict[Replica, Canary] = {}
        for proof in sorted(proven, key=str):
            made |= await self._prove(None if dry_run else act, *proof)
        if dry_run or not any(edit.do for edit in edits):
            return Plan(tuple(edit.step for edit in edits), applied=False, etag=str(seen))

        def work(change: Change) -> tuple[Plan, list[Entry]]:
            # When another administrator was faster, what they did counts, and everything is seen anew.
            untouched = change.number == seen + 1
            if etag and not untouched:
                raise EtagMismatch("tenants")
            again = edits if untouched else list(self._edits.between(change, wanted))
            for edit in again:
                if not proven.issuperset(edit.proofs):
                    raise ResourceInUse(edit.step.resource, "it was changed while the keys were tried: apply it again")
            agreed = self._agreed(change, act, again)
            for edit in again:
                if edit.do:
                    edit.do(change, act)
                    new = {place: made[place] for _, _, place in edit.proofs if place in made}
                    keep_canaries(change, new, self._desk.clock())
            done = any(edit.do for edit in again)
            plan = Plan(tuple(edit.step for edit in again), applied=done, etag=str(change.number))
            return plan, _entries(again, agreed)

        return await self._desk.change_many(act, "apply_tenants", work)

    def _agreed(self, change: Change, act: Act, edits: Sequence[Edit]) -> Mapping[str, str]:
        effects = [edit.effect for edit in edits if edit.effect is not None]
        if not effects:
            return {}
        summary = f"gate fewer calls: {', '.join(effect.resource for effect in effects)}"
        dangerous = Dangerous("", "tenants", summary, effects, field="document")
        return self._desk.require_agreement(change, act, dangerous)

    async def export(self, only: Sequence[str] = ()) -> str:
        """The document that says what there is: of all tenants, or of some.

        Raises:
            ResourceNotFound: There is no tenant of one of these ids.
        """

        def question(reader: Reader) -> str:
            records = reader.tenants("", _ALL) if not only else [_required_tenant(reader, one) for one in only]
            provider = reader.key(PROVIDER_KEY_NAME)
            if provider is None:
                raise ResourceNotFound(PROVIDER_KEY_NAME)
            place = table_of(provider.replicas[0].place)
            document = TenantsDocument(provider_key=place, tenants=[_tenant_table(reader, one) for one in records])
            return tenants_file.render(document)

        return await self._desk.read(question)

    async def _prove(self, act: Act | None, key: str, primary: Replica, place: Replica) -> Mapping[Replica, Canary]:
        """Try a key; a failure is told to its tenant, unless nobody acts.

        Returns:
            What shows later that it is the same key, where it is new there and somebody acts.
        """
        try:
            new = await self._keys.begin_anew(place)
            await self._enrolment.prove_at(key, primary, place)
            if not new:
                await self._enrolment.prove_same(key, place)
        except OwnkeyError as error:
            if act is not None:
                await self._keys.tell_of_failure(act, "apply_tenants", tenant_of(key), key, error)
            raise
        return await self._enrolment.canaries(key, [place]) if new and act is not None else {}


def _parsed(document: str, kinds: Mapping[str, str], most: int | None) -> TenantsDocument:
    try:
        wanted = tenants_file.parse(document, "document", kinds)
    except TenantsFileError as error:
        raise InvalidRequest("document", str(error).replace("document: ", "")) from error
    if most is not None and len(wanted.tenants) > most:
        raise InvalidRequest("document", f"names {len(wanted.tenants)} tenants, and may name {most}: split it")
    return wanted


def _entries(edits: Sequence[Edit], agreed: Mapping[str, str]) -> list[Entry]:
    """One entry of the trail for each tenant that something was done to."""
    said: dict[str, list[dict[str, Any]]] = {}
    for edit in edits:
        if edit.do:
            step = edit.step
            fields = {"kind": step.kind.value, "resource": step.resource, "field": step.field}
            fields |= {"before": step.before, "after": step.after}
            said.setdefault(edit.tenant, []).append({name: value for name, value in fields.items() if value})
    return [
        Entry(tenant, tenants.name(tenant) if tenant else PROVIDER_KEY_NAME, {**agreed, "steps": steps})
        for tenant, steps in said.items()
    ]


def _tenant_table(reader: Reader, record: TenantRecord) -> TenantTable:
    version = reader.policy_version(record.id, record.policy_version)
    keys = []
    for key in reader.keys(record.id):
        if key.lifecycle is not KeyLifecycle.REMOVED:
            first, *others = [one.place for one in key.replicas]
            keys.append(
                KeyTable(
                    id=key.id,
                    key_store=first.store,
                    reference=first.reference,
                    replicas=[table_of(one) for one in others],
                    retired=key.lifecycle is not KeyLifecycle.ACTIVE,
                )
            )
    return TenantTable(
        id=record.id,
        display_name=record.display_name,
        enrolled_at=record.enrolled_at,
        keys=keys,
        groups=[GroupTable(id=group.id, users=list(group.users)) for group in reader.groups(record.id)],
        policy=version.policy if version else PolicyTable(),
        call_gate=record.call_gate,
    )


def _required_tenant(reader: Reader, tenant: str) -> TenantRecord:
    record = reader.tenant(tenant)
    if record is None:
        raise ResourceNotFound(tenants.name(tenant))
    return record
