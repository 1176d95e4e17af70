"""Opens what each key wrapped when it was enrolled: only that shows that it is still the same key.

Probes do so now and then. Before a key is used for the first time since the server started, its use does: a file or a
token may have been exchanged while no server ran, and content is protected by the key that policy names, or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor

from ownkey_server.domain.canaries import EXCHANGED, Canary, canary_context
from ownkey_server.domain.errors import (
    CiphertextInvalid,
    DatabaseUnavailable,
    KeyMisconfigured,
    KeyStoreError,
    KeyStoreThrottled,
)
from ownkey_server.domain.tenants import CustomerKey, Replica
from ownkey_server.keystores.base import KeyStore, Remembering
from ownkey_server.service.view_cache import on_thread

_log = logging.getLogger(__name__)

# A key that opened its canary is not asked again for so long: each time is a call of the key store's.
OPENED_FOR_SECONDS = 60.0
MANY = 10_000
_NO_TIME = "it was not found out in time whether it is the key that it was"

Name = tuple[str, Replica]
"""A key, by its name, and the place where it is. By place: a key may come to another reference of the same store."""


class Canaries:
    """Belongs to one event loop.

    Args:
        find: Asks the database for a key's canary at a place.
        keep: Writes one, unless there is one of that key.
        executor: Where both wait.
    """

    def __init__(
        self,
        find: Callable[[str, Replica], Canary | None],
        keep: Callable[[Replica, Canary], None],
        executor: Executor,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._keep = keep
        self._executor = executor
        self._monotonic = monotonic
        self._known: dict[Name, Canary] = {}
        self._opened: dict[Name, float] = {}
        self._same: set[Name] = set()
        # What is being found out, by name and whether a canary is made; however many ask, it is found out once.
        self._asked: dict[tuple[Name, bool], asyncio.Task[bool]] = {}
        # How often anything began anew: what a look found out before that does not count after it.
        self._moment = 0
        # Keys that have no canary, and when that was seen.
        self._without: dict[Name, float] = {}

    async def require_same(
        self, key: CustomerKey, place: Replica, store: KeyStore, timeout: float, *, wraps: bool
    ) -> None:
        """Make sure that the key there is the one that it was, unless that is known since the server started.

        Args:
            key: The key.
            place: Where it is about to be used.
            store: Its key store.
            timeout: Seconds that there are for it.
            wraps: Whether it is to wrap: a key that has no canary yet is given one then. What another key has wrapped,
                it does not open anyway.

        Raises:
            KeyMisconfigured: It is another key by the same name.
            KeyStoreError: It cannot be used at all.
            DatabaseUnavailable: It is not known.
        """
        name, until = (key.name, place), time.monotonic() + timeout
        failed: Exception | None = None
        # Whoever goes on from here uses the key at once: what was found out before it began anew does not count.
        while name not in self._same:
            left = until - time.monotonic()
            if left <= 0:
                raise failed or KeyStoreThrottled(place.name, place.reference, _NO_TIME, ours=True)
            if not wraps and self._is_without(name):
                return
            task, mine = self._asked.get((name, wraps)), False
            if task is None:
                task, mine = self._ask(key, place, store, left, wraps=wraps), True
            try:
                async with asyncio.timeout(left):
                    await asyncio.shield(task)
            except TimeoutError:
                continue
            except (KeyStoreError, DatabaseUnavailable) as error:
                # Whoever asked first may have had less time than this one.
                if mine or not isinstance(error, KeyStoreThrottled):
                    raise
                failed = error

    def begin_anew(self, place: Replica) -> None:
        """Let go of all that was found out about whichever key is at a place: it may be another from now on."""
        self._moment += 1
        for name in {*self._same, *self._known, *self._opened, *self._without, *(name for name, _ in self._asked)}:
            if name[1] == place:
                self._let_go(name)

    def _ask(
        self, key: CustomerKey, place: Replica, store: KeyStore, timeout: float, *, wraps: bool
    ) -> asyncio.Task[bool]:
        name = key.name, place
        of = name, wraps

        async def found_out() -> bool:
            try:
                same = await self._is_the_same(key, place, store, timeout, make=wraps)
            except KeyMisconfigured:
                self._begin_anew(name, place, store)
                raise
            if not same:
                self._begin_anew(name, place, store)
                raise KeyMisconfigured(place.name, place.reference, EXCHANGED)
            return same

        def ended(done: asyncio.Task[bool]) -> None:
            current = self._asked.get(of) is done
            if current:
                del self._asked[of]
            if done.cancelled() or done.exception() is not None or not current:
                return
            if name in self._known:
                self._is_same(name)
            else:
                if len(self._without) > MANY:
                    self._without.clear()
                self._without[name] = self._monotonic()

        task = asyncio.get_running_loop().create_task(found_out())
        self._asked[of] = task
        # Before whoever waits for it goes on: callbacks are called in their order.
        task.add_done_callback(ended)
        return task

    def _is_without(self, name: Name) -> bool:
        at = self._without.get(name)
        return at is not None and self._monotonic() - at < OPENED_FOR_SECONDS

    async def complaint(self, key: CustomerKey, place: Replica, store: KeyStore, timeout: float) -> str:
        """Why a key that wraps and opens is not the one that it was; empty when it is, or when that is not known."""
        name = key.name, place
        opened = self._opened.get(name)
        if opened is not None and self._monotonic() - opened < OPENED_FOR_SECONDS:
            return ""
        moment = self._moment
        try:
            if not await self._is_the_same(key, place, store, timeout):
                self._begin_anew(name, place, store)
                return EXCHANGED
        except KeyMisconfigured as error:
            return error.cause
        except (KeyStoreError, DatabaseUnavailable) as error:
            _log.debug("the canary of %s in %s was not opened: %s", key.name, place.name, error)
            return ""
        if moment == self._moment:
            self._is_same(name)
        return ""

    async def still_opens(self, key: CustomerKey, place: Replica, store: KeyStore, timeout: float) -> bool | None:
        """Whether a key that wraps nothing opens what it had wrapped; None when there is nothing to tell it by.

        Its holder may have taken the right to wrap from a key that is retired here. That is no revocation: what it has
        wrapped is what it is kept for.
        """
        try:
            canary = self._known.get((key.name, place))
            if canary is None:
                canary = await on_thread(self._executor, lambda: self._find(key.name, place))
            if canary is None:
                return False
            opened = await _opens(canary, place, store, timeout)
        except DatabaseUnavailable as error:
            _log.debug("the canary of %s in %s cannot be had: %s", key.name, place.name, error)
            return None
        except KeyStoreError:
            return False
        if len(self._known) > MANY:
            self._known.clear()
        self._known[key.name, place] = canary
        return opened

    def _is_same(self, name: Name) -> None:
        if len(self._opened) > MANY:
            self._opened.clear()
            self._known.clear()
            self._same.clear()
        self._opened[name] = self._monotonic()
        self._same.add(name)

    async def look_again(self, key: CustomerKey, place: Replica, store: KeyStore) -> None:
        """Have a key store that calls a key misconfigured look without prejudice at the next use, where it may err.

        What it knows a key by counts only after the canary was opened; and the key may have been proven anew, as
        another, by another instance.
        """
        name = key.name, place
        if not isinstance(store, Remembering):
            return
        if name in self._same:
            try:
                canary = await on_thread(self._executor, lambda: self._find(key.name, place))
            except DatabaseUnavailable:
                return
            known = self._known.get(name)
            if canary is None or (known is not None and known.digest == canary.digest):
                return
        self._begin_anew(name, place, store)

    def _begin_anew(self, name: Name, place: Replica, store: KeyStore) -> None:
        self._let_go(name)
        if isinstance(store, Remembering):
            # It has seen this one work, and would take the right one for an intruder.
            store.forget(place.reference)

    def _let_go(self, name: Name) -> None:
        self._moment += 1
        self._opened.pop(name, None)
        self._known.pop(name, None)
        self._without.pop(name, None)
        self._same.discard(name)
        for makes in (True, False):
            self._asked.pop((name, makes), None)

    async def _is_the_same(
        self, key: CustomerKey, place: Replica, store: KeyStore, timeout: float, *, make: bool = True
    ) -> bool:
        # What was read once need not be read again, so that a database which hangs keeps no probe waiting.
        known = self._known.get((key.name, place))
        if known is not None and await _opens(known, place, store, timeout):
            return True
        # A key that was proven anew has a new canary.
        canary = await on_thread(self._executor, lambda: self._find(key.name, place))
        if canary is None and not make:
            return True
        if canary is None:
            mine = await made(key.name, place, store, timeout)
            await on_thread(self._executor, lambda: self._keep(place, mine))
            # Another may have been faster: that one is kept, and this key opens it if it is the same.
            canary = await on_thread(self._executor, lambda: self._find(key.name, place)) or mine
        if not await _opens(canary, place, store, timeout):
            return False
        self._known[key.name, place] = canary
        return True


async def made(key: str, place: Replica, store: KeyStore, timeout: float) -> Canary:
    """A canary of a key that is known to work.

    Raises:
        KeyStoreError: The key does not wrap now.
    """
    context = canary_context(key)
    wrapped = await store.generate_data_key(place.reference, context, timeout)
    digest = hashlib.sha256(wrapped.plaintext.reveal()).digest()
    wrapped.plaintext.wipe()
    return Canary(key, wrapped.wrapped, context, digest)


async def _opens(canary: Canary, place: Replica, store: KeyStore, timeout: float) -> bool:
    try:
        opened = await store.unwrap(place.reference, canary.entry, canary.context, timeout)
    except CiphertextInvalid:
        return False
    digest = hashlib.sha256(opened.plaintext.reveal()).digest()
    opened.plaintext.wipe()
    return hmac.compare_digest(digest, canary.digest)
