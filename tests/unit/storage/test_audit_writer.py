from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.engine import Connection

from ownkey_server.domain.audit import Action, AuditRecord, Result
from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import DatabaseUnavailable
from ownkey_server.storage.audit.signing import (
    Signer,
    SigningKeyError,
    load_or_make_signer,
    load_verifier,
    public_path,
)
from ownkey_server.storage.audit.verify import verify
from ownkey_server.storage.audit.writer import AuditWriter, ChainBroken, require_known_signer
from ownkey_server.storage.database import Database
from ownkey_server.storage.schema import AUDIT_WRITERS


class CutDatabase(Database):
    """A database whose connection breaks when a test says so: before a commit arrives, or after it was made."""

    cut = ""

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        cut, self.cut = self.cut, ""
        with super().writing() as connection:
            yield connection
            if cut == "before":
                raise DatabaseUnavailable("cut before the commit")
        if cut == "after":
            raise DatabaseUnavailable("cut after the commit")


@pytest.fixture
def cut_database(database: Database) -> Iterator[CutDatabase]:
    opened = CutDatabase(database.url.render_as_string(hide_password=False))
    yield opened
    opened.close()


SIGNER = Signer(Ed25519PrivateKey.generate())


def writer(database: Database) -> AuditWriter:
    made = AuditWriter(database, SIGNER, system_clock, "test")
    made.write([])
    return made


def record(number: int = 0) -> AuditRecord:
    return AuditRecord(system_clock(), Action.UNWRAP, Result.OK, detail={"number": number + 1})


def numbers(database: Database) -> list[int]:
    """The records that a test wrote."""
    query = sa.text("SELECT body FROM audit_records ORDER BY writer, sequence")
    with database.reading() as connection:
        bodies = [bytes(row.body) for row in connection.execute(query)]
    return [int(body.split(b'"number":')[1].split(b"}")[0]) for body in bodies if b'"number":' in body]


def wrong(database: Database) -> list[str]:
    report = verify(database, SIGNER.verifier)
    return [finding.kind for finding in report.findings if not finding.informational]


def test_writers_are_numbered_without_gaps_and_their_chains_verify(database: Database) -> None:
    made = [writer(database) for _ in range(3)]
    for one in made:
        one.write([record(), record()])
    for one in made:
        one.close()
    assert [one.number for one in made] == [1, 2, 3]
    assert wrong(database) == []


def test_work_and_its_record_are_durable_together_or_not_at_all(database: Database) -> None:
    one = writer(database)

    def fail(_: Connection) -> tuple[list[AuditRecord], None]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.write_with(fail)
    assert one.write_with(lambda _: ([record(1)], "made")) == "made"
    assert numbers(database) == [2]
    assert wrong(database) == []


@pytest.mark.parametrize(("cut", "durable"), [("before", False), ("after", True)])
def test_after_a_cut_it_is_known_whether_the_records_are_durable(
    cut_database: CutDatabase, cut: str, durable: bool
) -> None:
    one = writer(cut_database)
    cut_database.cut = cut
    with pytest.raises(DatabaseUnavailable):
        one.write([record(1)])
    assert one.recover() is durable
    assert one.recover() is False, "it was settled"
    if not durable:
        one.write([record(1)])
    one.write([record(2)])
    assert numbers(cut_database) == [2, 3]
    assert wrong(cut_database) == []


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_cut_while_a_writer_starts_harms_no_chain(cut_database: CutDatabase, cut: str) -> None:
    one = AuditWriter(cut_database, SIGNER, system_clock, "test")
    cut_database.cut = cut
    with pytest.raises(DatabaseUnavailable):
        one.write([record(1)])
    assert one.recover() is False
    one.write([record(1)])
    assert numbers(cut_database) == [2]
    assert wrong(cut_database) == []


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit_writers SET head_sequence = 1",
        "DELETE FROM audit_writers",
        "INSERT INTO audit_records SELECT writer, 3, time, tenant, body, hash FROM audit_records WHERE sequence = 2",
    ],
)
def test_a_writer_notices_who_meddles_with_its_chain_and_begins_another(database: Database, tampering: str) -> None:
    one = writer(database)
    one.write([record(1)])
    with database.writing() as connection:
        connection.execute(sa.text(tampering))
    with pytest.raises(ChainBroken) as caught:
        one.write([record(2)])
    one.start_anew(str(caught.value))
    one.write([record(2)])
    assert numbers(database)[-1] == 3
    with database.reading() as connection:
        query = sa.text("SELECT body FROM audit_records WHERE writer = :number ORDER BY sequence")
        bodies = [bytes(row.body) for row in connection.execute(query, {"number": one.number})]
    assert b"audit.chain_broken" in bodies[1]
    assert wrong(database) != []


def test_a_restored_copy_is_noticed_after_a_cut_too(cut_database: CutDatabase) -> None:
    one = writer(cut_database)
    for number in range(3):
        one.write([record(number)])
    cut_database.cut = "after"
    with pytest.raises(DatabaseUnavailable):
        one.write([record(3)])
    with Database.writing(cut_database) as connection:
        connection.execute(sa.text("UPDATE audit_writers SET head_sequence = 2"))
    with pytest.raises(ChainBroken, match="left its chain at record 4"):
        one.recover()


def test_an_instance_with_another_signing_key_does_not_start(database: Database, tmp_path: Path) -> None:
    mine, made = load_or_make_signer(tmp_path / "mine.pem")
    assert made
    require_known_signer(database, mine.verifier.fingerprints)
    AuditWriter(database, mine, system_clock, "test").write([])
    require_known_signer(database, mine.verifier.fingerprints)
    other, _ = load_or_make_signer(tmp_path / "other.pem")
    with pytest.raises(SigningKeyError, match="is signed by another key"):
        require_known_signer(database, other.verifier.fingerprints)
    replaced = load_verifier([public_path(tmp_path / "mine.pem")]).fingerprints
    require_known_signer(database, other.verifier.fingerprints | replaced)


def test_a_signing_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.pem"
    first, made = load_or_make_signer(path)
    again, made_again = load_or_make_signer(path)
    assert (made, made_again) == (True, False)
    assert first.fingerprint == again.fingerprint
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["audit.pem", "audit.pem.pub"]
    path.chmod(0o640)
    with pytest.raises(SigningKeyError, match="chmod 600"):
        load_or_make_signer(path)
    path.chmod(0o600)
    path.write_text("nonsense")
    with pytest.raises(SigningKeyError, match="is no private key in PEM"):
        load_or_make_signer(path)


def test_a_chain_that_broke_is_told_even_if_the_database_fails_at_that_moment(cut_database: CutDatabase) -> None:
    one = writer(cut_database)
    with cut_database.reading() as connection:
        older = dict(connection.execute(sa.select(AUDIT_WRITERS)).mappings().one())
    one.write([record(1)])
    with Database.writing(cut_database) as connection:  # an older copy is put back, signed head and all
        connection.execute(sa.text("DELETE FROM audit_records WHERE sequence = 2"))
        connection.execute(sa.update(AUDIT_WRITERS).values(**older))
    with pytest.raises(ChainBroken) as caught:
        one.write([record(2)])
    cut_database.cut = "before"
    with pytest.raises(DatabaseUnavailable):
        one.start_anew(str(caught.value))
    assert one.recover() is False
    one.write([record(2)])
    assert wrong(cut_database) == ["rolled_back"]
