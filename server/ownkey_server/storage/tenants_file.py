"""Tenants, keys, groups and policy as one declarative TOML document (docs/tenants-file.md).

Reading is all or nothing: every mistake is reported, each with its place, and no part of a document with a mistake is
ever used.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import tomli_w
from pydantic import ValidationError

from ownkey_server.domain.tenants import place_name
from ownkey_server.storage.documents import KeyPlace, TenantsDocument, TenantTable, describe
from ownkey_server.storage.tables import repeated

# The parser's memory grows with the square of a name's length in parts; ours have three.
MAX_PARTS = 10
_DEEP_NAME = re.compile(rf"""(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MAX_PARTS},}}""")


class TenantsFileError(Exception):
    """The document cannot be used. The message lists every mistake with its place, a line each."""


def read(path: Path) -> str:
    """The text of a tenants file.

    Raises:
        TenantsFileError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        hint = "; ownkey init writes one, of which [provider_key] alone is enough"
        raise TenantsFileError(
            f"{path}: cannot be read: {error.strerror}{hint if isinstance(error, FileNotFoundError) else ''}"
        ) from error
    except UnicodeDecodeError as error:
        raise TenantsFileError(f"{path}: is not valid TOML: {error}") from error


def parse(text: str, where: str, key_stores: Mapping[str, str]) -> TenantsDocument:
    """The tenants of a document.

    Args:
        text: TOML.
        where: What the document is called in complaints.
        key_stores: The key stores of the settings, which keys may refer to: for each name, its kind.

    Raises:
        TenantsFileError: It holds mistakes: all of them are listed.
    """
    deep = _DEEP_NAME.search(text)
    if deep:
        raise TenantsFileError(f"{where}: {deep[0][:40]!r}... is a name of more than {MAX_PARTS} parts")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TenantsFileError(f"{where}: is not valid TOML: {error}") from error
    except RecursionError:
        raise TenantsFileError(f"{where}: is nested too deeply") from None
    if _holds_nul(document):
        raise TenantsFileError(f"{where}: a text holds the character U+0000, which no database keeps")
    try:
        parsed = TenantsDocument.model_validate(document)
    except ValidationError as error:
        lines = [f"{where}: {place or 'the file'}: {what}" for place, what in describe(error, TenantsDocument)]
        raise TenantsFileError("\n".join(lines)) from None
    mistakes = _mistakes(parsed, key_stores)
    if mistakes:
        raise TenantsFileError("\n".join(f"{where}: {mistake}" for mistake in mistakes))
    return parsed


def _holds_nul(value: object) -> bool:
    match value:
        case str():
            return "\0" in value
        case dict():
            return any(_holds_nul(one) for pair in value.items() for one in pair)
        case list():
            return any(_holds_nul(one) for one in value)
    return False


def render(document: TenantsDocument) -> str:
    """The document as TOML, which :func:`parse` reads to the same."""
    return tomli_w.dumps(document.model_dump(exclude_defaults=True), indent=2)


def _mistakes(file: TenantsDocument, key_stores: Mapping[str, str]) -> list[str]:
    """What no single field shows: names used twice, and names that nothing bears."""
    found = repeated("tenants", [tenant.id for tenant in file.tenants])
    places = [("provider_key", "", file.provider_key)]
    for tenant in file.tenants:
        at = f"tenant {tenant.id!r}"
        for key in tenant.keys:
            name = f"{at}: key {key.id!r}"
            places += [(name, key.id, place) for place in (key, *key.replicas)]
            found += repeated(
                f"{name}: key_store", [place_name(one.key_store, one.reference) for one in (key, *key.replicas)]
            )
        found += repeated(f"{at}: keys", [key.id for key in tenant.keys])
        found += repeated(f"{at}: groups", [group.id for group in tenant.groups])
        keys, groups = {key.id for key in tenant.keys}, {group.id for group in tenant.groups}
        found += [f"{at}: policy: {mistake}" for mistake in tenant.policy.mistakes(keys, groups)]
        found += [f"{at}: call_gate: {mistake}" for mistake in tenant.call_gate.mistakes(groups)]
        retired, named = {key.id for key in tenant.keys if key.retired}, tenant.policy.keys()
        found += [
            f"{at}: policy: {named[key]}: key {key!r} is retired in this file, and wraps nothing: name another"
            for key in sorted(retired & named.keys())
        ]
    found += [
        f"{at}: key_store {place.key_store!r} is not in the settings as the server read them when it started, which"
        f" have: {', '.join(sorted(key_stores))}"
        for at, _, place in places
        if place.key_store not in key_stores
    ]
    # One key of a store under two names would let one tenant's revocation, or policy, reach another's content.
    taken: dict[tuple[str, str], str] = {}
    for at, _, place in places:
        other = taken.setdefault((place.key_store, place.reference), at)
        if other != at:
            found.append(f"{at}: is the same key of store {place.key_store!r} as {other}")
    for tenant in file.tenants:
        found += _confusable(tenant, file.provider_key, key_stores)
    return found


def _confusable(tenant: TenantTable, provider_key: KeyPlace, key_stores: Mapping[str, str]) -> list[str]:
    """Keys of one tenant that a wrapped key could not tell apart: it names the kind of store and the reference."""
    found = []
    provider_kind = key_stores.get(provider_key.key_store, provider_key.key_store)
    taken: dict[tuple[str, str], tuple[str, str]] = {
        (provider_kind, provider_key.reference): ("", provider_key.key_store)
    }
    for key in tenant.keys:
        for place in (key, *key.replicas):
            kind = key_stores.get(place.key_store, place.key_store)
            other, store = taken.setdefault((kind, place.reference), (key.id, place.key_store))
            if other != key.id and store != place.key_store:
                whose = f"key {other!r}" if other else "provider_key"
                found.append(
                    f"tenant {tenant.id!r}: key {key.id!r} has the reference of {whose} in another store of the same"
                    f" kind, so that a wrapped key would not tell which made it: give one of them another reference"
                )
    return found
