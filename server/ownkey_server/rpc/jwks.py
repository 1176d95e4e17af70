"""The public keys of an issuer (RFC 7517): fetched anew by age and for a key that is new, and kept in outages."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping

import jwt

from ownkey_server.domain.errors import IssuerUnreachable
from ownkey_server.paths import shown
from ownkey_server.rpc.fetching import Fetch
from ownkey_server.rpc.reloading import Reloaded, UnusableFile, read
from ownkey_server.service.cancelled import by_the_caller
from ownkey_server.settings.access import IssuerSettings

_log = logging.getLogger(__name__)

MAX_BYTES = 256 * 1024
MAX_KEYS = 100
# All of a fetch, from looking up the name to the last byte.
FETCH_SECONDS = 5.0
# A call waits no longer for it.
WAIT_SECONDS = 2.0
# A token may name any key: however many do, the issuer is asked no more often.
BETWEEN_FETCHES_SECONDS = 10.0

Keys = Mapping[str, jwt.PyJWK]


class KeySet:
    """The keys of one issuer. Belongs to one event loop.

    Args:
        name: The issuer's name in the settings.
        settings: Where the keys are, and for how long they count without being confirmed.
        monotonic: The present time of a clock that is never set.
    """

    def __init__(self, name: str, settings: IssuerSettings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._settings = settings
        self._monotonic = monotonic
        self._file = None
        if settings.jwks_file is not None:
            path = settings.jwks_file
            self._file = Reloaded([path], lambda: parse_keys(read(path), shown(path)))
        self._keys: Keys = {}
        self._confirmed_at = float("-inf")
        self._asked_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._fetched = 0

    def look(self) -> int | None:
        """Which keys count now, as a number that changes with them; None when it is not known.

        Keys that have not been confirmed for long are asked for, while what is known serves on.
        """
        if self._file is not None:
            self._keys = self._file.get()
            return self._file.version
        if self._age >= self._settings.refresh_seconds:
            self._fetch()
        return self._fetched if self._age <= self._settings.outage_seconds else None

    async def key(self, key_id: str) -> tuple[jwt.PyJWK | None, int]:
        """The key of that id, asked for anew if it is not known, and which keys count; None when the issuer has none.

        Raises:
            IssuerUnreachable: It is not known which keys count.
        """
        known = self.look() is not None
        if self._file is None and not (known and key_id in self._keys):
            fetching = self._fetch()
            if fetching is not None and not await _over(fetching):
                raise IssuerUnreachable(self._name)  # whether the issuer has that key is not known in time
        version = self.look()
        if version is None:
            raise IssuerUnreachable(self._name)
        return self._keys.get(key_id), version

    @property
    def _age(self) -> float:
        return self._monotonic() - self._confirmed_at

    def _fetch(self) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one; None when the last one is too short a time ago."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        now = self._monotonic()
        if now - self._asked_at < BETWEEN_FETCHES_SECONDS:
            return None
        self._asked_at = now
        self._fetching = asyncio.get_running_loop().create_task(self._refresh())
        return self._fetching

    async def _refresh(self) -> None:
        url = self._settings.jwks_url
        assert url is not None  # noqa: S101 - the settings give one or the other
        began = self._monotonic()
        fetch = Fetch(url, MAX_BYTES)
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                keys = parse_keys(await asyncio.to_thread(fetch.get), fetch.place)
        except TimeoutError:
            fetch.abort()  # the thread ends with its connection
            self._failed(f"{fetch.place} does not give its keys in {FETCH_SECONDS:g} s")
            return
        except UnusableFile as error:
            self._failed(str(error))
            return
        except Exception as error:  # noqa: BLE001 - whatever comes of what others say, it is no key set
            self._failed(f"{fetch.place} cannot be used: {type(error).__name__}")
            return
        if not keys:
            _log.error("issuer %r has withdrawn all of its keys: its tokens count no more", self._name)
        if keys.keys() != self._keys.keys():
            _log.info("issuer %r has the keys %s", self._name, ", ".join(sorted(keys)) or "none")
        self._keys, self._confirmed_at = keys, began
        self._fetched += 1

    def _failed(self, why: str) -> None:
        _log.error("issuer %r: %s; the keys known before serve on", self._name, why)


async def _over(fetching: asyncio.Task[None]) -> bool:
    """Wait for a fetch that others may wait for too, for as long as a call can; whether it is over."""
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.shield(fetching)
    except TimeoutError:
        return False
    except asyncio.CancelledError:
        if by_the_caller():
            raise
    return True


def parse_keys(text: bytes, place: str) -> Keys:
    """The keys for verification in a key set, by their ids. None is an answer too: the issuer has withdrawn them all.

    Raises:
        UnusableFile: It is no key set, or has keys and none of them with an id and of a kind that we know.
    """
    try:
        found = json.loads(text)
        listed = found["keys"]
        if not isinstance(listed, list) or len(listed) > MAX_KEYS:
            raise UnusableFile(f"{place} is no key set of at most {MAX_KEYS} keys")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UnusableFile(f"{place} is no JSON Web Key Set") from None
    keys: dict[str, jwt.PyJWK] = {}
    for one in listed:
        # Keys for encryption, of kinds that we do not know, or of shared secrets: they verify nothing here.
        if not isinstance(one, dict) or one.get("use", "sig") != "sig" or one.get("kty") == "oct":
            continue
        try:
            key = jwt.PyJWK(one)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        if isinstance(one.get("kid"), str):
            keys[one["kid"]] = key
    if listed and not keys:
        raise UnusableFile(f"{place} has no key with an id (kid) that could verify a token")
    return keys
