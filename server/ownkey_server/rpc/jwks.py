"""The public keys of an issuer (RFC 7517): fetched anew by age and for a key that is new, and kept in outages."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.error import URLError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import jwt

from ownkey_server.access_settings import IssuerSettings
from ownkey_server.domain.errors import IssuerUnreachable
from ownkey_server.rpc.reloading import Reloaded, UnusableFile, read

_log = logging.getLogger(__name__)

MAX_BYTES = 256 * 1024
MAX_KEYS = 100
FETCH_SECONDS = 5.0
# A token may name any key: however many do, the issuer is asked no more often.
BETWEEN_FETCHES_SECONDS = 10.0

Keys = Mapping[str, jwt.PyJWK]


class _NoRedirects(HTTPRedirectHandler):
    """Where keys come from is set, and nobody else says it."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing."""


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
            self._file = Reloaded([path], lambda: parse_keys(read(path), str(path)))
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
            if fetching is not None:
                await asyncio.shield(fetching)
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
        try:
            keys = parse_keys(await asyncio.to_thread(_get, url), url)
        except UnusableFile as error:
            _log.error("issuer %r: %s; the keys known before serve on", self._name, error)
            return
        if keys.keys() != self._keys.keys():
            _log.info("issuer %r has the keys %s", self._name, ", ".join(sorted(keys)) or "none")
        self._keys, self._confirmed_at = keys, began
        self._fetched += 1


def parse_keys(text: bytes, place: str) -> Keys:
    """The keys for verification in a key set, by their ids.

    Raises:
        UnusableFile: It is no key set, or has no key with an id.
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
    if not keys:
        raise UnusableFile(f"{place} has no key with an id (kid) that could verify a token")
    return keys


def _get(url: str) -> bytes:
    opener = build_opener(ProxyHandler({}), _NoRedirects)
    request = Request(url, headers={"Accept": "application/json", "User-Agent": "ownkey"})  # noqa: S310 - the settings' https
    try:
        with opener.open(request, timeout=FETCH_SECONDS) as answer:
            text: bytes = answer.read(MAX_BYTES + 1)
    except (URLError, OSError, ValueError) as error:
        raise UnusableFile(f"{url} cannot be fetched: {getattr(error, 'reason', error)}") from None
    if len(text) > MAX_BYTES:
        raise UnusableFile(f"{url} gives more than {MAX_BYTES} bytes")
    return text
