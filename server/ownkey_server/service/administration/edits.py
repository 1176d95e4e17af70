"""The differences between a document and what there is, each with the change that makes it so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ownkey_server.domain.approvals import Danger, Effect
from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import ResourceInUse
from ownkey_server.domain.tenants import PROVIDER_KEY_NAME, KeyLifecycle, Replica, key_name
from ownkey_server.service.administration import groups, notices, tenants
from ownkey_server.service.administration.desk import Act
from ownkey_server.service.administration.keys import Keys
from ownkey_server.storage.documents import GroupTable, KeyPlace, KeyTable, PolicyTable, TenantsDocument, TenantTable
from ownkey_server.storage.records import ANY_ETAG, KeyRecord, ReplicaRecord, TenantRecord
from ownkey_server.storage.registry import PROVIDER, Change, Reader, required
from ownkey_server.storage.tables import Table, plain


class StepKind(StrEnum):
    """What a step does; ``KEEP`` says what the document asks for, or leaves out, and is not done."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Step:
    """One difference between a document and what there is.

    Attributes:
        resource: Name of what differs.
        field: Which part of it; empty for the whole.
        note: Why, where that is not plain.
    """

    kind: StepKind
    resource: str
    field: str = ""
    before: str = ""
    after: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Edit:
    """A step, and how it is done.

    Attributes:
        proofs: Places that must prove themselves first, each as key, primary and place.
        effect: What of it is dangerous, and may need a second person.
    """

    tenant: str
    step: Step
    do: Callable[[Change, Act], object] | None = None
    proofs: tuple[tuple[str, Replica, Replica], ...] = ()
    effect: Effect | None = None


class Edits:
    """Finds the differences.

    Args:
        keys: Knows which places are free.
        clock: Tells the time.
    """

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    def between(self, reader: Reader, wanted: TenantsDocument) -> Iterator[Edit]:
        """Every difference, in the order in which it is to be made so."""
        self._require_apart(wanted)
        yield from self._provider_edits(reader, wanted.provider_key)
        for table in wanted.tenants:
            yield from self._tenant_edits(reader, table)

    def _require_apart(self, wanted: TenantsDocument) -> None:
        """Make sure that no key of the document is another key of it, by whatever name.

        The reader cannot tell: it knows what there is, and not what comes of the same document.

        Raises:
            ResourceInUse: One is.
        """
        claims = {self._keys.places.family(_place_of(wanted.provider_key)): (PROVIDER_KEY_NAME, {""})}
        for tenant in wanted.tenants:
            for key in tenant.keys:
                resource = key_name(tenant.id, key.id)
                for place in (_place_of(key), *(_place_of(one) for one in key.replicas)):
                    owner, references = claims.setdefault(self._keys.places.family(place), (resource, set()))
                    if owner != resource:
                        what = f"key {place.reference!r} of key store {place.store!r} is {owner} in this document too"
                        raise ResourceInUse(resource, what)
                    if place.reference in references:
                        raise ResourceInUse(resource, f"it has {place.reference!r} twice, by two key stores")
                    references.add(place.reference)

    def _provider_edits(self, reader: Reader, wanted: KeyPlace) -> Iterator[Edit]:
        place, now = Replica(wanted.key_store, wanted.reference), self._clock()
        record = reader.key(PROVIDER_KEY_NAME)
        if record is None:

            def add(change: Change, _act: Act) -> None:
                change.insert_key(PROVIDER_KEY_NAME, PROVIDER, KeyLifecycle.ACTIVE, [place], now)

            step = Step(StepKind.ADD, PROVIDER_KEY_NAME, after=_json(wanted))
            yield Edit(PROVIDER, step, add, ((PROVIDER_KEY_NAME, place, place),))
        elif record.replicas[0].place != place:
            before = _json(table_of(record.replicas[0].place))
            note = "the provider's key stays: content depends on it"
            yield Edit(PROVIDER, Step(StepKind.KEEP, PROVIDER_KEY_NAME, "", before, _json(wanted), note))

    def _tenant_edits(self, reader: Reader, wanted: TenantTable) -> Iterator[Edit]:
        tenant, name = wanted.id, tenants.name(wanted.id)
        record = reader.tenant(tenant)
        if record is None:
            tenants.require_unused(reader, tenant)

            def add(change: Change, _act: Act) -> None:
                change.insert_tenant(tenant, wanted.display_name, wanted.enrolled_at, wanted.call_gate)

            yield Edit(tenant, Step(StepKind.ADD, name, after=wanted.display_name), add)
        else:
            yield from _changed_fields(record, wanted)
        yield from self._key_edits(reader, wanted)
        known = {group.id: group for group in reader.groups(tenant)} if record else {}
        for group in wanted.groups:
            yield from _group_edits(tenant, group, tuple(known[group.id].users) if group.id in known else None)
        yield from _policy_edits(reader, record, wanted, self._clock)
        for left in known.keys() - {group.id for group in wanted.groups}:

            def delete(change: Change, _act: Act, left: str = left) -> None:
                found = required(change.group(tenant, left), groups.name(tenant, left))
                groups.require_still_taken_back(change, tenant, left, found.users)
                change.delete_group(found, ANY_ETAG)

            step = Step(StepKind.REMOVE, groups.name(tenant, left), before=", ".join(known[left].users))
            yield Edit(tenant, step, delete)
        yield from _retirements(reader, wanted)

    def _key_edits(self, reader: Reader, wanted: TenantTable) -> Iterator[Edit]:
        known = {key.id: key for key in reader.keys(wanted.id)}
        now = self._clock()
        for table in wanted.keys:
            resource = key_name(wanted.id, table.id)
            places = [_place_of(table), *(_place_of(one) for one in table.replicas)]
            record = known.get(table.id)
            if record is None:
                for place in places:
                    self._keys.places.require_free(reader, wanted.id, resource, place)
                yield _new_key(wanted.id, resource, table, places, now)
                continue
            if record.lifecycle is KeyLifecycle.REMOVED:
                raise ResourceInUse(resource, "it was removed, and its id stays taken: take another")
            yield from self._place_edits(reader, wanted.id, record, table, places, now)
        for left in known.values():
            if left.id not in {table.id for table in wanted.keys} and left.lifecycle is not KeyLifecycle.REMOVED:
                note = f"it is not in the document; nothing takes it away but: ownkey admin key retire {left.id}"
                yield Edit(wanted.id, Step(StepKind.KEEP, left.name, before=left.lifecycle.value, note=note))

    def _place_edits(
        self,
        reader: Reader,
        tenant: str,
        record: KeyRecord,
        table: KeyTable,
        places: list[Replica],
        now: datetime,
    ) -> Iterator[Edit]:
        before = [one.place for one in record.replicas]
        if before != places:
            new = [place for place in places if place not in before]
            for place in new:
                self._keys.places.require_free(reader, tenant, record.name, place)
            verified = {one.place: one.verify_time for one in record.replicas}
            after = [ReplicaRecord(place, verified.get(place, now)) for place in places]

            def move(change: Change, _act: Act) -> None:
                found = required(change.key(record.name), record.name)
                change.update_key(found, ANY_ETAG, found.lifecycle, after)

            step = Step(StepKind.CHANGE, record.name, "replicas", _shown(before), _shown(places))
            yield Edit(tenant, step, move, tuple((record.name, before[0], place) for place in new))
        if record.lifecycle is not KeyLifecycle.ACTIVE and not table.retired:
            proofs = tuple((record.name, places[0], place) for place in places)
            yield _lifecycle_edit(tenant, record, KeyLifecycle.ACTIVE, proofs)


def _changed_fields(record: TenantRecord, wanted: TenantTable) -> Iterator[Edit]:
    tenant, name = wanted.id, tenants.name(wanted.id)
    if record.enrolled_at != wanted.enrolled_at:
        before, after = record.enrolled_at.isoformat(), wanted.enrolled_at.isoformat()
        note = "the day of enrolment stays: policies count from it"
        yield Edit(tenant, Step(StepKind.KEEP, name, "enrolled_at", before, after, note))

    def update(change: Change, _act: Act) -> None:
        found = required(change.tenant(tenant), tenants.name(tenant))
        change.update_tenant(found, ANY_ETAG, wanted.display_name, wanted.call_gate)

    if record.display_name != wanted.display_name:
        step = Step(StepKind.CHANGE, name, "display_name", record.display_name, wanted.display_name)
        yield Edit(tenant, step, update)
    if record.call_gate != wanted.call_gate:
        step = Step(StepKind.CHANGE, name, "call_gate", _json(record.call_gate), _json(wanted.call_gate))
        effect = None
        if wanted.call_gate.gates_less_than(record.call_gate):
            before_it, after_it = tenants.gate_shown(record.call_gate), tenants.gate_shown(wanted.call_gate)
            effect = Effect(Danger.GATE_OFF, name, before_it, after_it)
        yield Edit(tenant, step, update, effect=effect)


def _new_key(tenant: str, resource: str, table: KeyTable, places: list[Replica], now: datetime) -> Edit:
    lifecycle = KeyLifecycle.RETIRED if table.retired else KeyLifecycle.ACTIVE

    def add(change: Change, _act: Act) -> None:
        change.insert_key(resource, tenant, lifecycle, places, now)

    step = Step(StepKind.ADD, resource, after=_shown(places), note="retired" if table.retired else "")
    return Edit(tenant, step, add, tuple((resource, places[0], place) for place in places))


def _group_edits(tenant: str, wanted: GroupTable, before: tuple[str, ...] | None) -> Iterator[Edit]:
    users = sorted(set(wanted.users))
    resource = groups.name(tenant, wanted.id)
    if before is None:

        def add(change: Change, _act: Act) -> None:
            change.insert_group(tenant, wanted.id, users)

        yield Edit(tenant, Step(StepKind.ADD, resource, after=", ".join(users)), add)
    elif sorted(before) != users:

        def update(change: Change, _act: Act) -> None:
            found = required(change.group(tenant, wanted.id), resource)
            groups.require_still_taken_back(change, tenant, wanted.id, set(found.users) - set(users))
            change.update_group(found, ANY_ETAG, users)

        yield Edit(tenant, Step(StepKind.CHANGE, resource, "users", ", ".join(before), ", ".join(users)), update)


def _policy_edits(reader: Reader, record: TenantRecord | None, wanted: TenantTable, clock: Clock) -> Iterator[Edit]:
    tenant = wanted.id
    version = reader.policy_version(tenant, record.policy_version) if record else None
    before = version.policy if version else PolicyTable()
    if before == wanted.policy and (version is not None or wanted.policy == PolicyTable()):
        return

    def decide(change: Change, act: Act) -> None:
        number = change.insert_policy(tenant, wanted.policy, act.author, act.reason or "applied from a document")
        owner = required(change.tenant(tenant), tenants.name(tenant))
        change.put_policy_in_force(owner, ANY_ETAG, number)
        notices.policy_changed(change, act, owner, number, clock())

    kind = StepKind.CHANGE if version else StepKind.ADD
    old, new = (_lines(before) if version else {}), _lines(wanted.policy)
    differing = [name for name in (*old, *(name for name in new if name not in old)) if old.get(name) != new.get(name)]
    # Where only their order differs, all of them are shown.
    shown = differing or list(new)
    step = Step(kind, f"{tenants.name(tenant)}/policy", "", _said(old, shown), _said(new, shown))
    yield Edit(tenant, step, decide)


def _retirements(reader: Reader, wanted: TenantTable) -> Iterator[Edit]:
    retired = {table.id for table in wanted.keys if table.retired}
    for record in reader.keys(wanted.id):
        if record.id in retired and record.lifecycle is KeyLifecycle.ACTIVE:
            yield _lifecycle_edit(wanted.id, record, KeyLifecycle.RETIRED)


def _lifecycle_edit(
    tenant: str, record: KeyRecord, after: KeyLifecycle, proofs: tuple[tuple[str, Replica, Replica], ...] = ()
) -> Edit:
    def change_it(change: Change, _act: Act) -> None:
        found = required(change.key(record.name), record.name)
        change.update_key(found, ANY_ETAG, after, found.replicas)

    step = Step(StepKind.CHANGE, record.name, "lifecycle", record.lifecycle.value, after.value)
    return Edit(tenant, step, change_it, proofs)


def _place_of(place: KeyPlace) -> Replica:
    return Replica(place.key_store, place.reference)


def table_of(place: Replica) -> KeyPlace:
    """A place as a document has it."""
    return KeyPlace(key_store=place.store, reference=place.reference)


def _shown(places: Sequence[Replica]) -> str:
    return ", ".join(f"{place.store}/{place.reference}" for place in places)


def _lines(policy: PolicyTable) -> dict[str, str]:
    """The default, each rule, and how data keys are wrapped, as one reads them."""
    rules = {}
    for rule in policy.rules:
        conditions = {name: value for name, value in plain(rule).items() if name not in ("name", "use")}
        rules[f"rule {rule.name!r}"] = " ".join([rule.use, *([json.dumps(conditions)] if conditions else [])])
    wrapping = {f"wrapping of {name}": how.value for name, how in sorted(policy.wrapping.items())}
    grace = {"outage grace": f"{policy.outage_grace_seconds} s"} if policy.outage_grace_seconds else {}
    return {"default": policy.default, **rules, **wrapping, **grace}


def _said(lines: Mapping[str, str], names: Sequence[str]) -> str:
    return "; ".join(f"{name}: {lines[name]}" for name in names if name in lines)


def _json(table: Table) -> str:
    return json.dumps(plain(table), sort_keys=True)
