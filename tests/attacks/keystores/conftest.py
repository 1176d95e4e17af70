"""A token of SoftHSM for each test, and key stores on it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from ownkey_server.keystores import catalog
from ownkey_server.keystores.base import KeyMaker
from ownkey_server.keystores.catalog import Pkcs11Options
from ownkey_server.keystores.first_uses import FirstUses
from ownkey_server.secret_sources import SecretReference
from support.key_stores import KEY, OTHER_KEY, OpenStore, answers
from support.softhsm import SoftHsm

_serial = itertools.count()


@pytest.fixture
def token(softhsm: SoftHsm) -> str:
    label = f"attacks-{next(_serial):04}"  # of one length: pkcs11-tool takes beginnings for labels
    softhsm.make_token(label)
    return label


@pytest.fixture
async def open_store(softhsm: SoftHsm) -> AsyncIterator[OpenStore]:
    opened: list[KeyMaker] = []

    def open_one(
        token: str, mechanism: str = "auto", isolation: str = "process", uses: FirstUses | None = None
    ) -> KeyMaker:
        pin = SecretReference.file(softhsm.folder / f"{token}.pin")
        options = Pkcs11Options(softhsm.module, token, pin, mechanism, isolation)
        opened.append(catalog.open_key_store("hsm", options, softhsm.modules, uses))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore, token: str) -> KeyMaker:
    """A store whose token has two keys that have just worked."""
    made = open_store(token)
    for reference in (KEY, OTHER_KEY):
        await made.create(reference)
        assert await answers(made, reference)
    return made
