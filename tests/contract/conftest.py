from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ownkey_server.keystores.base import KeyStore
from ownkey_server.keystores.catalog import EmbeddedOptions, Pkcs11Options
from support.key_stores import EmbeddedSubject, Pkcs11Subject, SealedSubject, Subject

MakeSubject = Callable[[Path, pytest.FixtureRequest], Subject]


def _pkcs11(mechanism: str) -> MakeSubject:
    return lambda folder, request: Pkcs11Subject(request.getfixturevalue("softhsm"), mechanism)


# Every kind of key store, and every way in which one can be set up that changes what it stores.
SUBJECTS: dict[str, tuple[type, MakeSubject]] = {
    "embedded": (EmbeddedOptions, lambda folder, request: EmbeddedSubject(folder)),
    "embedded-sealed": (EmbeddedOptions, lambda folder, request: SealedSubject(folder)),
    "pkcs11-aes-gcm": (Pkcs11Options, _pkcs11("aes-gcm")),
    "pkcs11-aes-key-wrap": (Pkcs11Options, _pkcs11("aes-key-wrap")),
}
CANNOT = {"embedded": EmbeddedSubject.cannot, "embedded-sealed": SealedSubject.cannot}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a kind of key store cannot do by its nature: ``cannot`` in its subject says why."""
    left_out = []
    for item in items:
        needed = item.get_closest_marker("needs")
        kind = item.callspec.params.get("subject") if isinstance(item, pytest.Function) and needed else None
        if needed and needed.args[0] in CANNOT.get(str(kind), {}):
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def kinds_under_contract() -> frozenset[type]:
    return frozenset(options for options, _ in SUBJECTS.values())


@pytest.fixture(params=SUBJECTS)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    _, make = SUBJECTS[request.param]
    made = make(tmp_path, request)
    await made.make_keys()
    yield made
    made.clean_up()


@pytest.fixture
async def store(subject: Subject) -> AsyncIterator[KeyStore]:
    opened = subject.open()
    yield opened
    await opened.close()


@pytest.fixture
async def second_store(subject: Subject) -> AsyncIterator[KeyStore]:
    """Another object on the same keys, as a server has after a restart."""
    opened = subject.open("second")
    yield opened
    await opened.close()
