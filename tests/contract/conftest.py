from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.base import KeyStore
from ownkey_server.keystores.catalog import EmbeddedOptions, Pkcs11Options
from support.aws_subjects import FakeSubject, MinistackSubject, MotoSubject, ministack_server, moto_server
from support.key_stores import EmbeddedSubject, NssSubject, Pkcs11Subject, SealedSubject, Subject

MakeSubject = Callable[[Path, pytest.FixtureRequest], Subject]


def _pkcs11(mechanism: str, isolation: str = "process") -> MakeSubject:
    return lambda folder, request: Pkcs11Subject(request.getfixturevalue("softhsm"), mechanism, isolation)


# Every kind of key store, and every way in which one can be set up that changes what it stores.
SUBJECTS: dict[str, tuple[type, MakeSubject]] = {
    "embedded": (EmbeddedOptions, lambda folder, request: EmbeddedSubject(folder)),
    "embedded-sealed": (EmbeddedOptions, lambda folder, request: SealedSubject(folder)),
    "pkcs11-aes-gcm": (Pkcs11Options, _pkcs11("aes-gcm")),
    "pkcs11-aes-key-wrap": (Pkcs11Options, _pkcs11("aes-key-wrap")),
    "pkcs11-thread": (Pkcs11Options, _pkcs11("aes-gcm", "thread")),
    "pkcs11-nss": (Pkcs11Options, lambda folder, request: NssSubject(request.getfixturevalue("nss"))),
    "aws-kms-fake": (AwsKmsOptions, lambda folder, request: FakeSubject()),
    "aws-kms-moto": (AwsKmsOptions, lambda folder, request: MotoSubject(request.getfixturevalue("moto"))),
    "aws-kms-ministack": (
        AwsKmsOptions,
        lambda folder, request: MinistackSubject(request.getfixturevalue("ministack")),
    ),
}
CANNOT = {
    "embedded": EmbeddedSubject.cannot,
    "embedded-sealed": SealedSubject.cannot,
    "aws-kms-fake": FakeSubject.cannot,
    "aws-kms-moto": MotoSubject.cannot,
    "aws-kms-ministack": MinistackSubject.cannot,
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a kind of key store cannot do by its nature: ``cannot`` in its subject says why."""
    left_out = []
    for item in items:
        needed = {marker.args[0] for marker in item.iter_markers("needs")}
        kind = item.callspec.params.get("subject") if isinstance(item, pytest.Function) and needed else None
        if needed & CANNOT.get(str(kind), {}).keys():
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def kinds_under_contract() -> frozenset[type]:
    return frozenset(options for options, _ in SUBJECTS.values())


@pytest.fixture(scope="session")
def moto() -> Iterator[int]:
    """The port of moto."""
    with moto_server() as port:
        yield port


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of ministack."""
    with ministack_server(tmp_path_factory.mktemp("ministack")) as port:
        yield port


@pytest.fixture(params=SUBJECTS)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    _, make = SUBJECTS[request.param]
    made = make(tmp_path, request)
    await made.make_keys()
    yield made
    made.clean_up()


@pytest.fixture
def key(subject: Subject) -> str:
    """What a key in the store is called."""
    return subject.key


@pytest.fixture
def other_key(subject: Subject) -> str:
    """What another key in the store is called."""
    return subject.other_key


@pytest.fixture
def missing(subject: Subject) -> str:
    """The name of a key that there never was."""
    return subject.missing


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
