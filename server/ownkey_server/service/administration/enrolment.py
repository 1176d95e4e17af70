"""The proof that a key does what a customer key must, before anything is protected by it: wrap, unwrap, compare.

Where nothing else says whose a key is, it must refuse what is not its tenant's. Otherwise whoever learns its name could
have it enrolled as their own, before its holder does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from ownkey_server.domain.canaries import Canary
from ownkey_server.domain.encryption_context import TENANT
from ownkey_server.domain.errors import (
    EnrolmentFailed,
    InvalidRequest,
    KeyMisconfigured,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    OwnkeyError,
    StoreMisconfigured,
)
from ownkey_server.domain.key_state import KeyState
from ownkey_server.domain.tenants import Replica, another_than, tenant_of
from ownkey_server.keystores.base import KeyDescription
from ownkey_server.service.key_ring import KeyRing

ENROLMENT_CONTEXT = {"ownkey:probe": "enrolment"}
# What says nothing of the key that is tried, and so is told as it is.
NOT_THE_KEYS = (KeyUnreachable, KeyStoreThrottled, StoreMisconfigured)


class Enrolment:
    """Tries keys in their key stores."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def require_possible(self, field: str, place: Replica) -> None:
        """Make sure that there can be a key of that name, before one is looked for.

        Args:
            field: The request's field that names the place.
            place: The place.

        Raises:
            InvalidRequest: The settings have no such key store, or it can have no key of that name.
        """
        if place.store not in self._ring.store_names:
            raise InvalidRequest(f"{field}.key_store", self._no_store())
        complaint = self._ring.complaint(place)
        if complaint:
            raise InvalidRequest(f"{field}.reference", complaint)

    def begin_anew(self, place: Replica) -> None:
        """Look without prejudice at the key of a place: it may be another than the one that has worked there."""
        self._ring.forget(place)

    async def prove_at(self, key: str, primary: Replica, place: Replica) -> None:
        """:meth:`prove` where the place is the primary, and :meth:`prove_replica` elsewhere."""
        if place == primary:
            await self.prove(key, place)
        else:
            await self.prove_replica(key, primary, place)

    async def prove(self, key: str, place: Replica) -> None:
        """Make sure that the key wraps, and opens what it has wrapped; and for its tenant alone, where it must show it.

        Args:
            key: Name of the customer key: it is tried in its tenant's name.
            place: Where it is.

        Raises:
            EnrolmentFailed: It does not. The message says what was seen.
            KeyUnreachable: Its key store does not answer.
            KeyStoreThrottled: Its key store is too busy to try it.
            StoreMisconfigured: We cannot ask its key store: our own credentials or settings are at fault.
        """
        if place.store not in self._ring.store_names:
            raise StoreMisconfigured(place.name, place.reference, self._no_store())
        await self._prove_use(key, place)
        if tenant_of(key) and self._ring.wants_proof_of_tenant(place):
            await self._prove_tenant(key, place)

    async def prove_replica(self, key: str, primary: Replica, place: Replica) -> None:
        """Make sure that a replica is the very key of the primary: each opens what the other has wrapped.

        Raises:
            EnrolmentFailed: It is not, or cannot be used.
            KeyStoreError: As for :meth:`prove`.
        """
        await self.prove(key, place)
        for maker, opener in ((primary, place), (place, primary)):
            await self._prove_pair(key, maker, opener)

    async def prove_same(self, key: str, place: Replica) -> None:
        """Make sure that the key at a place that it has had is still the one that it was.

        Raises:
            EnrolmentFailed: It is another by the same name.
            KeyStoreError: As for :meth:`prove`.
            DatabaseUnavailable: It is not known.
        """
        try:
            await self._ring.require_same(key, place)
        except KeyMisconfigured as error:
            raise EnrolmentFailed(key, place.name, place.reference, error.cause) from error

    async def canaries(self, key: str, places: Iterable[Replica]) -> dict[Replica, Canary]:
        """What shows later that the key at each place is still the one that was proven.

        Where it cannot be made now, the first probe makes it.
        """
        made = {}
        for place in places:
            with contextlib.suppress(KeyStoreError):
                made[place] = await self._ring.canary(key, place)
        return made

    async def _prove_use(self, key: str, place: Replica, when: str = "") -> None:
        description = await self._ring.describe(tenant_of(key), place)
        if description.state is not KeyState.AVAILABLE:
            raise _unfit(key, place, description, when)

    async def _prove_tenant(self, key: str, place: Replica) -> None:
        tenant = tenant_of(key)
        for whose, context in (
            ("another tenant", {**ENROLMENT_CONTEXT, TENANT: another_than(tenant)}),
            ("no tenant", ENROLMENT_CONTEXT),
        ):
            try:
                made = await self._ring.wrap_at(tenant, place, context)
            except KeyStoreError as error:
                if self._ring.is_refusal_of_key(place, error):
                    continue
                cause = f"it is not known whether it refuses a context of {whose} ({error.cause}): try again"
                if isinstance(error, NOT_THE_KEYS):
                    raise type(error)(error.replica, error.key, cause, request_id=error.request_id) from error
                raise EnrolmentFailed(key, place.name, place.reference, cause) from error
            made.plaintext.wipe()
            cause = (
                f"it serves a context of {whose} too, so that nothing says that it is the key of {tenant!r}: let it be"
                f" used with {TENANT} = {tenant!r} alone, as `ownkey aws key-policy` prints, or by a role"
            )
            raise EnrolmentFailed(key, place.name, place.reference, cause)
        # What refuses the tenant's own context by now did not refuse those of others for being others'.
        await self._prove_use(key, place, "it worked before it was asked to refuse other contexts, and not after: ")

    async def _prove_pair(self, key: str, maker: Replica, opener: Replica) -> None:
        tenant = tenant_of(key)
        # The policy of a customer's key may let us in for the tenant's own context alone.
        context = {**ENROLMENT_CONTEXT, **({TENANT: tenant} if tenant else {})}
        try:
            made = await self._ring.wrap_at(tenant, maker, context)
        except NOT_THE_KEYS:
            raise
        except KeyStoreError as error:
            raise EnrolmentFailed(key, maker.name, maker.reference, error.cause) from error
        try:
            opened = await self._ring.unwrap_at(tenant, opener, made.wrapped, context)
        except NOT_THE_KEYS:
            raise
        except KeyStoreError as error:
            cause = f"it does not open what {maker.reference!r} of {maker.store!r} has wrapped ({error.cause})"
            raise EnrolmentFailed(key, opener.name, opener.reference, f"{cause}: it is another key") from error
        if opened.plaintext.reveal() != made.plaintext.reveal():
            cause = f"it opens what {maker.reference!r} of {maker.store!r} has wrapped to other bytes"
            raise EnrolmentFailed(key, opener.name, opener.reference, cause)

    def _no_store(self) -> str:
        return f"the settings have no such key store; they have: {', '.join(sorted(self._ring.store_names))}"


def _unfit(key: str, place: Replica, found: KeyDescription, when: str) -> OwnkeyError:
    """Why a key cannot be enrolled, by whose fault that is."""
    if found.state is KeyState.UNKNOWN:
        return KeyStoreThrottled(place.name, place.reference, f"{when}it was too busy to try the key")
    if found.state is KeyState.UNREACHABLE:
        return KeyUnreachable(place.name, place.reference, f"{when}{found.cause}")
    if found.ours:
        return StoreMisconfigured(place.name, place.reference, f"{when}{found.cause}")
    return EnrolmentFailed(key, place.name, place.reference, f"{when}it is {found.state}: {found.cause}")
